"""Many tasks: pages of the list, groups, and how a submit or a registration names them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlencode

from bridge.client.errors import ResultTimeout
from bridge.client.state import TaskNotice, TaskState, read_counts, read_json
from bridge.core.details import check_group, check_tags
from bridge.core.task import check_upstream_name
from bridge.errors import InvalidRequest, UnreadablePayload

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from bridge.client.bridge import Bridge
    from bridge.client.transport import HttpTransport

Statuses = str | Iterable[str]
"""A status, `open` or `final`, or several of them."""

Item = TypeVar("Item", TaskState, TaskNotice)

MAX_PAGE = 200
JSON = {"Accept": "application/json"}
TIMEOUT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPage:
    """Part of a list.

    Args:
        tasks: The newest first, by when they were first seen.
        next: The `before` of the next page; None on the last one.
        document: The complete answer of the bridge.
    """

    tasks: tuple[TaskState, ...]
    next: str | None = None
    document: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Parse an answer of the bridge.

        Raises:
            UnreadablePayload: It is not a page.
        """
        document = read_json(text)
        tasks = document.get("tasks") if isinstance(document, dict) else None
        if not isinstance(tasks, list):
            raise UnreadablePayload("the response must be a JSON object with the list tasks")
        following = document.get("next")
        return cls(
            tasks=tuple(map(TaskState.of, tasks)),
            next=following if isinstance(following, str) else None,
            document=document,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedGroup:
    """A group once it is closed.

    Args:
        group: Its name.
        counts: How many of its tasks ended how so far, such as `{"completed": 2, "failed": 1}`.
        open: How many are not final yet; 0 when the group is done.
    """

    group: str
    counts: Mapping[str, int] = field(hash=False)
    open: int

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Parse an answer of the bridge.

        Raises:
            UnreadablePayload: It is not about a group.
        """
        document = read_json(text)
        group, unfinished = (
            (document.get("group"), document.get("open")) if isinstance(document, dict) else (None, None)
        )
        if not isinstance(group, str) or not isinstance(unfinished, int):
            raise UnreadablePayload("the response must be a JSON object with `group` and `open`")
        return cls(group=group, counts=read_counts(document.get("counts")), open=unfinished)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTicket:
    """A short-lived, read-only credential for URLs, such as for a page.

    Args:
        ticket: The credential.
        expires_at: RFC 3339.
        events: The path and query of its stream at the bridge; None if no single stream follows all that
            it is for. Put the address of the bridge, as a page sees it, in front.
        ws: Likewise of its WebSocket.
    """

    ticket: str = field(repr=False)
    expires_at: str | None = None
    events: str | None = field(default=None, repr=False)
    ws: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Parse an answer of the bridge.

        Raises:
            UnreadablePayload: It is not a ticket.
        """
        document = read_json(text)
        ticket = document.get("ticket") if isinstance(document, dict) else None
        if not isinstance(ticket, str):
            raise UnreadablePayload("the response must be a JSON object with `ticket`")
        links = document.get("links")
        texts = {
            name: value
            for name, value in (*document.items(), *(links.items() if isinstance(links, dict) else ()))
            if isinstance(value, str)
        }
        return cls(
            ticket=ticket, expires_at=texts.get("expires_at"), events=texts.get("events"), ws=texts.get("ws")
        )


class Group:
    """The tasks that were submitted or registered with one group, as `Bridge.group(name)`.

    Attributes:
        name: The name of the group.
    """

    def __init__(self, bridge: Bridge, transport: HttpTransport, name: str) -> None:
        self._bridge = bridge
        self._transport = transport
        self.name = check_group(name)
        if name in (".", ".."):  # in a path they would be another address
            raise InvalidRequest("a group must be more than dots")

    def watch(
        self,
        *,
        last_event_id: str | None = None,
        on_notice: Callable[[TaskNotice], object] | None = None,
        unreachable_after: float | None = None,
    ) -> AsyncGenerator[TaskState, None]:
        """Yield the states of its tasks, also of those that come later, until it is closed and all are final.

        As `Bridge.watch(group=...)`, arguments and errors included.
        """
        return self._bridge.watch(
            group=self.name,
            last_event_id=last_event_id,
            on_notice=on_notice,
            unreachable_after=unreachable_after,
        )

    async def close(self) -> ClosedGroup:
        """Close it: no more tasks can be added, and once all are final, those that watch it get `group_done`.

        Idempotent: closing it again changes nothing.

        Raises:
            Forbidden: The token has no scope `submit`, or may not read the task that began the group.
        """
        _, text = await self._transport.call(
            "POST", f"/v1/groups/{self.name}/close", headers=JSON, body=b"{}", timeout_seconds=TIMEOUT
        )
        return ClosedGroup.parse(text)

    async def results(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as `Bridge.result`
        on_state: Callable[[TaskState], object] | None = None,
        on_notice: Callable[[TaskNotice], object] | None = None,
        unreachable_after: float | None = None,
    ) -> dict[str, TaskState]:
        """Wait until it is closed and all of it is final; return the final states, by ref.

        Failed tasks are among them: no `TaskFailed` is raised. The wait ends only if the group is closed,
        before or meanwhile. Survives the same failures as `watch`.

        Args:
            timeout: Seconds to wait; None to wait without limit. After a timeout the tasks still run.
            on_state: Called with each state; may be async. What it raises is raised here, and ends the wait.
            on_notice: As in `Bridge.watch`; the last one is `group_done`, with the counts.
            unreachable_after: Seconds without the bridge after which to give up; None for never.

        Raises:
            ResultTimeout: The group is not done after `timeout` seconds; a `TimeoutError` too.
            BridgeError: As in `watch`.
        """
        newest: dict[str, TaskState] = {}
        expected: int | None = None

        async def noticed(notice: TaskNotice) -> None:
            nonlocal expected
            if notice.code == "group_done" and notice.counts is not None:
                expected = sum(notice.counts.values())
            await call_back(on_notice, notice)

        try:
            async with (
                asyncio.timeout(timeout) as limit,
                aclosing(self.watch(on_notice=noticed, unreachable_after=unreachable_after)) as states,
            ):
                async for state in states:
                    newest[state.task] = state
                    await call_back(on_state, state)
                if expected is None or expected > len(newest):
                    # A watch begins with the newest 1,000: the others may have been final by then.
                    async with aclosing(self._bridge.list(group=self.name)) as listed:
                        async for state in listed:
                            if state.task not in newest:
                                newest[state.task] = state
                                await call_back(on_state, state)
        except TimeoutError:
            if not limit.expired():  # it comes from a callback
                raise
            raise ResultTimeout(f"group {self.name} is not done within {timeout:g} s") from None
        return newest


def page_query(
    *,
    upstream: str | None,
    status: Statuses | None,
    tag: str | None,
    group: str | None,
    limit: int,
    before: str | None,
) -> str:
    """The path and query of a page of the list.

    Raises:
        InvalidRequest: A name is malformed, or `limit` is less than 1.
    """
    if limit < 1:
        raise InvalidRequest("limit must be at least 1")
    fields = {
        "upstream": None if upstream is None else check_upstream_name(upstream),
        "status": status if status is None or isinstance(status, str) else ",".join(status),
        "tag": None if tag is None else check_tags((tag,))[0],
        "group": None if group is None else check_group(group),
        "limit": str(min(limit, MAX_PAGE)),
        "before": before,
    }
    return "/v1/tasks?" + urlencode([(name, value) for name, value in fields.items() if value is not None])


def selection_of(tag: str | None, group: str | None) -> tuple[str, str] | None:
    """What a watch follows instead of tasks, if anything.

    Raises:
        InvalidRequest: It is both, or malformed.
    """
    if tag is not None and group is not None:
        raise InvalidRequest("a watch follows tasks, or a tag, or a group")
    if tag is not None:
        return "tag", check_tags((tag,))[0]
    return None if group is None else ("group", check_group(group))


def detail_headers(tags: Iterable[str], group: str | None) -> dict[str, str]:
    """The headers of a submit with these words.

    Raises:
        InvalidRequest: One is malformed, or there are too many.
    """
    words = check_tags(words_of(tags))
    headers = {"X-Task-Tags": ",".join(words)} if words else {}
    return headers if group is None else {**headers, "X-Task-Group": check_group(group)}


def words_of(tags: Iterable[str]) -> Iterable[str]:
    """Tags that a caller gave.

    Raises:
        InvalidRequest: It is a single text, whose letters would each be a tag.
    """
    if isinstance(tags, str):
        raise InvalidRequest("tags must be a list, such as ['user:7']")
    return tags


async def call_back(callback: Callable[[Item], object] | None, item: Item) -> None:
    """Call a callback of the caller, plain or async."""
    if callback is not None and inspect.isawaitable(pending := callback(item)):
        await pending
