"""Client of a bridge: watch tasks, wait for results; read, find, submit and cancel a task."""

from __future__ import annotations

import asyncio
import inspect
import random
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlencode

import orjson

from bridge.client.backoff import Backoff, Timeouts
from bridge.client.errors import ResultTimeout, TaskFailed
from bridge.client.follow import Follow
from bridge.client.state import Ref, TaskNotice, TaskState, read_json
from bridge.client.transport import HttpTransport, Token, task_path
from bridge.core.task import Status, check_id, check_upstream_name
from bridge.errors import UnknownTask

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    import aiohttp

Item = TypeVar("Item", TaskState, TaskNotice)

_DEFAULT_TIMEOUTS = Timeouts()
_JSON = {"Accept": "application/json"}
_TIMEOUT = 60.0
_SUBMIT_TIMEOUT = 150.0  # the bridge waits up to 60 s for the provider, then may search for the task


class Bridge:
    """Client of the bridge at `url`.

        async with Bridge("http://127.0.0.1:8080") as bridge:
            async for state in bridge.watch("qingbo/task-1"):
                print(state.status, state.progress)

    Args:
        url: Address of the bridge, such as `https://bridge.example.com`; a path prefix is kept.
        token: The bearer token, or a plain or async callable that returns it; called before every request and
            every reconnect, so that an expiring token can be renewed.
        session: Your own aiohttp session (proxies, client certificates); the caller closes it.
        ca_file: PEM file with the certificates to trust, instead of the system's.
        timeouts: Timeouts of watches; the defaults match the bridge's own.
        rng: Source of the jitter of reconnects.
        sleep: Sleeps between reconnects.
    """

    def __init__(
        self,
        url: str,
        token: Token | None = None,
        session: aiohttp.ClientSession | None = None,
        *,
        ca_file: str | os.PathLike[str] | None = None,
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._transport = HttpTransport(url, token, session, ca_file)
        self._timeouts = timeouts
        self._rng = rng or random.Random()  # noqa: S311 - jitter is not a secret
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
        *refs: Ref,
        last_event_id: str | None = None,
        history: bool = False,
        on_notice: Callable[[TaskNotice], object] | None = None,
        unreachable_after: float | None = None,
    ) -> AsyncGenerator[TaskState, None]:
        """Yield the states of one or many tasks, the current state first, until every task is final.

        Survives lost connections, restarts and drains of the bridge; each state is yielded once. To stop
        early and close the connection at once, wrap it in `contextlib.aclosing`.

        Ordering: states of one task are yielded oldest first; a slow reader may skip intermediate states.

        Args:
            last_event_id: A `cursor` saved earlier: only newer states are yielded.
            history: Whether to yield the recorded states first.
            on_notice: Called with each notice of the bridge, and with the client's own `reset` and
                `reconnecting`; may be async. What it raises ends the watch.
            unreachable_after: Seconds without the bridge after which to give up; None for never.

        Raises:
            InvalidRequest: A ref or the cursor is malformed.
            Unauthenticated: The token is missing or invalid.
            Forbidden: The token does not allow these tasks.
            UnknownTask: None of these tasks exists.
            UnknownUpstream: The bridge has no such upstream.
            BridgeUnreachable: Only with `unreachable_after`.
            UnreadablePayload: The server is not a bridge.
        """
        follow = self._follow(
            refs, cursor=last_event_id, history=history, unreachable_after=unreachable_after
        )
        return _states(follow, on_notice)

    async def result(
        self,
        ref: Ref,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the caller wants the newest state with it
        on_state: Callable[[TaskState], object] | None = None,
        on_notice: Callable[[TaskNotice], object] | None = None,
        unreachable_after: float | None = None,
    ) -> TaskState:
        """Wait until a task is final; return the final state if it completed.

        Survives the same failures as `watch`.

        Args:
            timeout: Seconds to wait; None to wait without limit. After a timeout the task still runs.
            on_state: Called with each state, the final one included; may be async. What it raises is raised
                here, and ends the wait.
            on_notice: As in `watch`.
            unreachable_after: Seconds without the bridge after which to give up; None for never.

        Raises:
            TaskFailed: The task failed, was cancelled or was lost; its `state` says why.
            ResultTimeout: The task is not final after `timeout` seconds; a `TimeoutError` too.
            UnknownTask: There is no such task.
            BridgeError: As in `watch`.
        """
        newest: TaskState | None = None
        try:
            async with (
                asyncio.timeout(timeout) as limit,
                aclosing(self._to_the_end(ref, unreachable_after)) as news,
            ):
                async for item in news:
                    if isinstance(item, TaskState):
                        newest = item
                        await _call(on_state, item)
                    else:
                        await _call(on_notice, item)
        except TimeoutError:
            if not limit.expired():  # it comes from a callback
                raise
            status = newest.status if newest else "unknown"
            raise ResultTimeout(f"no result within {timeout:g} s: {status}", state=newest) from None
        assert newest is not None
        if newest.status is not Status.COMPLETED:
            raise TaskFailed(newest)
        return newest

    async def _to_the_end(
        self, ref: Ref, unreachable_after: float | None
    ) -> AsyncGenerator[TaskState | TaskNotice, None]:
        """News of one task up to its final state.

        A watch can end without one, where the bridge believes that this client has seen it (204, `end`). Then
        it is requested again, without a cursor.
        """
        backoff = Backoff(self._timeouts, self._rng)
        final = False
        while True:
            follow = self._follow((ref,), unreachable_after=unreachable_after)
            async with aclosing(follow.news()) as news:
                async for item in news:
                    if isinstance(item, TaskState):
                        final = item.final
                    elif item.code == "task_not_found" and not item.retriable:
                        raise UnknownTask(item.message)
                    yield item
            if final:
                return
            await self._sleep(backoff.next())

    def _follow(
        self,
        refs: Sequence[Ref],
        *,
        unreachable_after: float | None,
        cursor: str | None = None,
        history: bool = False,
    ) -> Follow:
        return Follow(
            self._transport,
            refs,
            cursor=cursor,
            history=history,
            unreachable_after=unreachable_after,
            backoff=Backoff(self._timeouts, self._rng),
            sleep=self._sleep,
        )

    async def state(
        self, ref: Ref, *, wait: float | None = None, etag: str | None = None, include: Iterable[str] = ()
    ) -> TaskState | None:
        """Return the state of a task; None when it is still the one named by `etag`.

        Args:
            wait: Seconds the bridge may wait for a change, at most 60.
            etag: The cursor of the state already known.
            include: `raw` for the provider's own document, `data` for base64 results.

        Raises:
            UnknownTask: There is no such task.
            BridgeUnreachable: No response; not retried.
        """
        headers = dict(_JSON)
        if wait is not None:
            headers["Prefer"] = f"wait={max(0, int(wait))}"
        if etag is not None:
            headers["If-None-Match"] = etag if etag.startswith(('"', "W/", "*")) else f'"{etag}"'
        query = urlencode([("include", part) for part in include])
        path = task_path(ref) + ("?" + query if query else "")
        status, text = await self._transport.call(
            "GET", path, headers=headers, timeout_seconds=_TIMEOUT + (wait or 0)
        )
        return None if status == 304 else _state(text)

    async def find(self, upstream: str, alias: str) -> TaskState:
        """Find a task by the client's own id.

        Raises:
            UnknownTask: There is no such task.
        """
        path = f"/v1/aliases/{check_upstream_name(upstream)}/{quote(check_id(alias), safe='')}"
        _, text = await self._transport.call("GET", path, headers=_JSON, timeout_seconds=_TIMEOUT)
        return _state(text)

    async def submit(
        self, upstream: str, body: dict[str, Any], *, options: Mapping[str, str] | None = None
    ) -> TaskState:
        """Create a task at the provider with `body` unchanged; the bridge watches it.

        Never retried: after a `BridgeUnreachable` the task may or may not exist.

        Args:
            options: Parameters of the provider's call beside the body, such as `{"endpoint": "fal-ai/flux"}`.
        """
        query = urlencode(options or {})
        path = f"/v1/tasks/{check_upstream_name(upstream)}" + ("?" + query if query else "")
        _, text = await self._transport.call(
            "POST", path, headers=_JSON, body=orjson.dumps(body), timeout_seconds=_SUBMIT_TIMEOUT
        )
        return _state(text)

    async def cancel(self, ref: Ref) -> TaskState:
        """Ask the provider to cancel. Returns the resulting state, which need not be `cancelled` yet."""
        path = task_path(ref, "/cancel")
        _, text = await self._transport.call(
            "POST", path, headers=_JSON, body=b"{}", timeout_seconds=_TIMEOUT
        )
        return _state(text)


async def _states(
    follow: Follow, on_notice: Callable[[TaskNotice], object] | None
) -> AsyncGenerator[TaskState, None]:
    async with aclosing(follow.news()) as news:
        async for item in news:
            if isinstance(item, TaskState):
                yield item
            else:
                await _call(on_notice, item)


async def _call(callback: Callable[[Item], object] | None, item: Item) -> None:
    """Call a callback of the caller, plain or async."""
    if callback is not None and inspect.isawaitable(pending := callback(item)):
        await pending


def _state(text: bytes) -> TaskState:
    """Parse the state in a response, with or without links."""
    document = read_json(text)
    if isinstance(document, dict):
        document = document.get("state", document)
    return TaskState.of(document)
