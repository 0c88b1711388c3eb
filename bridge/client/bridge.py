"""The client of a bridge: watch tasks, read one, find one, submit one, cancel one."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode

import orjson

from bridge.client.backoff import Backoff, Timeouts
from bridge.client.follow import Follow
from bridge.client.state import TaskNotice, TaskState, read_json
from bridge.client.transport import HttpTransport, Token, task_path
from bridge.core.task import check_task_id, check_upstream_name

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
    from types import TracebackType

    import aiohttp

_DEFAULT_PATIENCE = Timeouts()
_JSON = {"Accept": "application/json"}
_ANSWER_SECONDS = 60.0
_SUBMIT_SECONDS = 150.0  # the bridge itself waits for a minute, and may have to look for the task


class Bridge:
    """A bridge, by its address.

        async with Bridge("http://127.0.0.1:8080") as bridge:
            async for state in bridge.watch("qingbo/task-1"):
                print(state.status, state.progress)

    Args:
        url: Where the bridge is, such as `https://bridge.example.com`; a path prefix is kept.
        token: The bearer token, or a plain or async callable that gives it; called before every request and
            every reconnect, so a token that expires can be renewed.
        session: Your own aiohttp session (proxies, certificates); it stays yours to close.
        patience: How watches wait; the defaults suit the bridge's own.
        rng: Where the jitter of reconnects comes from.
        sleep: How to wait between reconnects.
    """

    def __init__(
        self,
        url: str,
        token: Token | None = None,
        session: aiohttp.ClientSession | None = None,
        *,
        patience: Timeouts = _DEFAULT_PATIENCE,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._transport = HttpTransport(url, token, session)
        self._grace = patience
        self._rng = rng or random.Random()  # noqa: S311 - jitter is no secret
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        await self._transport.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    def watch(
        self,
        *refs: str,
        last_event_id: str | None = None,
        history: bool = False,
        on_notice: Callable[[TaskNotice], object] | None = None,
        unreachable_after: float | None = None,
    ) -> AsyncGenerator[TaskState, None]:
        """The states of one or many tasks, the current one first, until every task is final.

        Survives lost connections, restarts and drains of the bridge; each state comes once. To leave early
        and close the connection at once, wrap it in `contextlib.aclosing`.

        Ordering: states of one task come oldest first; between two looks only the newest may be sent.

        Args:
            last_event_id: A `cursor` kept from earlier: only what is newer comes.
            history: Whether the recorded states come first.
            on_notice: Called with each notice of the bridge, and with our own `reset` and `reconnecting`.
            unreachable_after: Seconds from losing the bridge to giving up; None for never.

        Raises:
            InvalidRequest: A ref or the cursor is not well-formed.
            Unauthenticated: The token is missing or wrong.
            Forbidden: The token does not allow these tasks.
            UnknownTask: None of these tasks exists.
            UnknownUpstream: The bridge knows no such upstream.
            BridgeUnreachable: Only with `unreachable_after`.
            UnreadablePayload: What answers is not a bridge.
        """
        return Follow(
            self._transport,
            refs,
            cursor=last_event_id,
            history=history,
            on_notice=on_notice,
            unreachable_after=unreachable_after,
            backoff=Backoff(self._grace, self._rng),
            sleep=self._sleep,
        ).states()

    async def state(
        self, ref: str, *, wait: float | None = None, etag: str | None = None, include: Iterable[str] = ()
    ) -> TaskState | None:
        """The state of a task; None when it is still the one `etag` names.

        Args:
            wait: Seconds to let the bridge wait for a change, at most 60.
            etag: The cursor of the state already known.
            include: `raw` for the provider's own document, `data` for base64 results.

        Raises:
            UnknownTask: There is no such task.
            BridgeUnreachable: There was no answer; not retried.
        """
        headers = dict(_JSON)
        if wait is not None:
            headers["Prefer"] = f"wait={max(0, int(wait))}"
        if etag is not None:
            headers["If-None-Match"] = etag if etag.startswith(('"', "W/", "*")) else f'"{etag}"'
        query = urlencode([("include", part) for part in include])
        path = task_path(ref) + ("?" + query if query else "")
        status, text = await self._transport.call(
            "GET", path, headers=headers, within=_ANSWER_SECONDS + (wait or 0)
        )
        return None if status == 304 else _state(text)

    async def find(self, upstream: str, alias: str) -> TaskState:
        """The task the provider knows under the client's own id.

        Raises:
            UnknownTask: There is none.
        """
        path = f"/v1/aliases/{check_upstream_name(upstream)}/{quote(check_task_id(alias), safe='')}"
        _, text = await self._transport.call("GET", path, headers=_JSON, within=_ANSWER_SECONDS)
        return _state(text)

    async def submit(
        self, upstream: str, body: dict[str, Any], *, options: Mapping[str, str] | None = None
    ) -> TaskState:
        """Create a task at the provider, `body` unchanged, and have the bridge watch it.

        Never retried: after a `BridgeUnreachable` the task may or may not exist.

        Args:
            options: What the provider's call needs beside the body, such as `{"endpoint": "fal-ai/flux"}`.
        """
        query = urlencode(options or {})
        path = f"/v1/tasks/{check_upstream_name(upstream)}" + ("?" + query if query else "")
        _, text = await self._transport.call(
            "POST", path, headers=_JSON, body=orjson.dumps(body), within=_SUBMIT_SECONDS
        )
        return _state(text)

    async def cancel(self, ref: str) -> TaskState:
        """Ask the provider to cancel; the state that results, which need not be `cancelled` yet."""
        path = task_path(ref, "/cancel")
        _, text = await self._transport.call("POST", path, headers=_JSON, body=b"{}", within=_ANSWER_SECONDS)
        return _state(text)


def _state(text: bytes) -> TaskState:
    """The state in an answer, alone or beside links."""
    document = read_json(text)
    if isinstance(document, dict):
        document = document.get("state", document)
    return TaskState.of(document)
