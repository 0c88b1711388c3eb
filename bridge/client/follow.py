"""Follows tasks, or a tag or group, over an unreliable network: reads events, detects silence, resumes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import aiohttp
import orjson

from bridge.client.errors import BridgeUnreachable
from bridge.client.state import Ref, TaskNotice, TaskState, ref_of
from bridge.client.transport import HttpTransport, task_path, unreachable
from bridge.client.watch_state import WatchState
from bridge.core.task import TaskKey
from bridge.errors import BridgeError, InvalidRequest, UnreadablePayload
from bridge.wire.sse import EVENT_ID, Decoder, ServerSentEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from bridge.client.backoff import Backoff

# Above either limit the tasks go into a POST body: proxies and servers limit URLs to 8 KiB, some to 2 KiB.
_MAX_IN_URL = 20
_MAX_URL = 1800


class Follow:
    """Follows tasks until each is final, or a selection.

    Ordering: states of one task are yielded oldest first, each once.
    Cancellation: safe at any await; the connection is closed.

    Args:
        refs: The tasks.
        selection: Instead of tasks: `tag` or `group`, and the name.
        cursor: Where to resume; None for the current state first.
        history: Whether to request the recorded states too.
        unreachable_after: Seconds without the bridge after which to give up; None for never.
        sleep: Sleeps between attempts.
    """

    def __init__(
        self,
        transport: HttpTransport,
        refs: Sequence[Ref],
        *,
        selection: tuple[str, str] | None = None,
        cursor: str | None,
        history: bool,
        unreachable_after: float | None,
        backoff: Backoff,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        if not refs and selection is None:
            raise InvalidRequest("no task to watch")
        if refs and selection is not None:
            raise InvalidRequest("a watch follows tasks, or a tag, or a group")
        named = [TaskKey.parse(ref_of(ref)).ref for ref in refs]  # as the bridge will name them
        if cursor is not None and not EVENT_ID.fullmatch(cursor):
            raise InvalidRequest("invalid cursor")
        self._transport = transport
        self._tasks = WatchState(named, selection=selection is not None)
        self._selection = selection
        self._cursor = cursor
        self._history = history
        self._unreachable_after = unreachable_after
        self._timeouts = backoff.timeouts
        self._backoff = backoff
        self._sleep = sleep
        self._lost_at: float | None = None

    async def news(self) -> AsyncGenerator[TaskState | TaskNotice, None]:
        """Yield each state, notice, reset and reconnect, until every task is final or the group is done.

        Raises:
            BridgeUnreachable: The bridge was unreachable for `unreachable_after` seconds.
            BridgeError: The bridge rejected the watch, and a retry cannot succeed.
        """
        self._lost_at = _now()
        while not self._finished:
            try:
                response = await self._open()
            except BridgeError as failure:
                if not failure.retryable:
                    raise
                lost = failure
            else:
                connection = self._connected(response)
                if connection is None:
                    return
                try:
                    while not self._tasks.ended and (events := await self._read(connection)) is not None:
                        for event in events:
                            if (news := self._accept(event)) is not None:
                                yield news
                finally:
                    connection.close()
                lost = BridgeUnreachable(connection.reason)
            if not self._finished:
                delay = self._delay(lost)
                yield TaskNotice(code="reconnecting", message=str(lost))
                await self._sleep(delay)

    @property
    def _finished(self) -> bool:
        return self._tasks.ended or self._tasks.settled

    async def _open(self) -> aiohttp.ClientResponse:
        method, path, body = self._request()
        headers = {
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "Cache-Control": "no-store",
        }
        if self._cursor is not None:
            headers["Last-Event-ID"] = self._cursor
        return await self._transport.open(
            method, path, headers=headers, body=body, timeout_seconds=self._open_timeout()
        )

    def _connected(self, response: aiohttp.ClientResponse) -> _Connection | None:
        """Return the stream in a response; None when the bridge has nothing more to send (204)."""
        if response.status == 204:
            response.release()
            return None
        if response.status != 200 or response.content_type != "text/event-stream":
            response.close()
            raise UnreadablePayload("not an event stream; is this the address of a bridge?")
        self._tasks.connected()
        return _Connection(response, self._cursor)

    def _request(self) -> tuple[str, str, bytes | None]:
        """Request only the open tasks: the bridge may have deleted the final ones by now."""
        refs = self._tasks.open_refs
        history = "history=1" if self._history else ""
        if self._selection is not None:
            query = urlencode([self._selection, *[("history", "1")] * self._history])
            return "GET", f"/v1/events?{query}", None
        if len(refs) == 1:
            return "GET", task_path(refs[0], "/events") + ("?" + history if history else ""), None
        query = "&".join(["task=" + quote(ref, safe="/") for ref in refs] + [history] * self._history)
        if len(refs) > _MAX_IN_URL or len(query) > _MAX_URL:
            path = "/v1/events" + ("?" + history if history else "")
            return "POST", path, orjson.dumps({"tasks": refs})
        return "GET", f"/v1/events?{query}", None

    async def _read(self, connection: _Connection) -> list[ServerSentEvent] | None:
        timeout = self._timeouts.silence
        if self._tasks.settled:  # every result is known, so a missing `end` must not hold the caller up
            timeout = min(timeout, self._timeouts.end_timeout)
        events = await connection.read(timeout)
        if connection.retry is not None:
            self._backoff.set_retry(connection.retry)
        if events is not None:
            self._lost_at = None
        # Only an event resets the back-off: a proxy that accepts and closes would otherwise be hammered.
        if events:
            self._backoff.reset()
        return events

    def _accept(self, event: ServerSentEvent) -> TaskState | TaskNotice | None:
        news = self._tasks.accept(event)
        # An id that is not a cursor, or that a header cannot carry, would make every reconnect fail.
        self._cursor = event.id if event.id and EVENT_ID.fullmatch(event.id) else None
        return news

    def _open_timeout(self) -> float:
        left = self._left()
        return self._timeouts.silence if left is None else min(self._timeouts.silence, max(left, 1.0))

    def _left(self) -> float | None:
        """Return the seconds until the watch gives up; None for never."""
        if self._unreachable_after is None or self._lost_at is None:
            return self._unreachable_after
        return self._unreachable_after - (_now() - self._lost_at)

    def _delay(self, failure: BridgeError) -> float:
        """Return the seconds to sleep before the next attempt, or give up."""
        # The time without the bridge starts here: the silence before, or a slow caller, does not count.
        if self._lost_at is None:
            self._lost_at = _now()
        delay = self._backoff.next(failure.retry_after)
        left = self._left()
        if left is None:
            return delay
        if left <= 0:
            raise BridgeUnreachable(
                f"no response from the bridge for {self._unreachable_after:g} s: {failure}"
            )
        return min(delay, left)


class _Connection:
    """One open connection."""

    def __init__(self, response: aiohttp.ClientResponse, cursor: str | None) -> None:
        self._response = response
        self._decoder = Decoder(last_event_id=cursor)
        self.reason = "the bridge closed the connection"

    @property
    def retry(self) -> int | None:
        return self._decoder.retry

    async def read(self, timeout_seconds: float) -> list[ServerSentEvent] | None:
        """Return the events in the next bytes, often none; None when the connection is dead (see `reason`).

        Raises:
            UnreadablePayload: An event exceeds the size limit.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                chunk = await self._response.content.readany()
        except TimeoutError:
            self.reason = f"the bridge was silent for {timeout_seconds:g} s"
            return None
        except (aiohttp.ClientError, OSError) as error:
            self.reason = str(unreachable(error))
            return None
        return self._decoder.feed(chunk) if chunk else None

    def close(self) -> None:
        self._response.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
