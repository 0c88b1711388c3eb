"""Client of a bridge: watch tasks; read, find, submit and cancel a task."""

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
from bridge.core.task import check_id, check_upstream_name

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
    from types import TracebackType

    import aiohttp

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
        *refs: str,
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
                `reconnecting`.
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
        return Follow(
            self._transport,
            refs,
            cursor=last_event_id,
            history=history,
            on_notice=on_notice,
            unreachable_after=unreachable_after,
            backoff=Backoff(self._timeouts, self._rng),
            sleep=self._sleep,
        ).states()

    async def state(
        self, ref: str, *, wait: float | None = None, etag: str | None = None, include: Iterable[str] = ()
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

    async def cancel(self, ref: str) -> TaskState:
        """Ask the provider to cancel. Returns the resulting state, which need not be `cancelled` yet."""
        path = task_path(ref, "/cancel")
        _, text = await self._transport.call(
            "POST", path, headers=_JSON, body=b"{}", timeout_seconds=_TIMEOUT
        )
        return _state(text)


def _state(text: bytes) -> TaskState:
    """Parse the state in a response, with or without links."""
    document = read_json(text)
    if isinstance(document, dict):
        document = document.get("state", document)
    return TaskState.of(document)
