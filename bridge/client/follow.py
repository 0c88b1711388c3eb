"""One watch over a network that fails: connects, listens, notices silence, waits, resumes where it was."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
import orjson

from bridge.client.errors import BridgeUnreachable
from bridge.client.ledger import WatchState
from bridge.client.state import TaskNotice, TaskState
from bridge.client.transport import HttpTransport, task_path, unreachable
from bridge.core.task import TaskKey
from bridge.errors import BridgeError, InvalidRequest, UnreadablePayload
from bridge.wire.sse import EVENT_ID, Decoder, ServerSentEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from bridge.client.backoff import Backoff

# Beyond either, the tasks go into a body: proxies and servers cut URLs off at 8 KiB, some at 2.
_MAX_IN_URL = 20
_MAX_URL = 1800


class Follow:
    """Follows tasks until each is over.

    Ordering: states of one task come oldest first, each once.
    Cancellation: safe at any await; the connection is closed.

    Args:
        cursor: Where to resume; None for the current state first.
        history: Whether to ask for the recorded states too.
        on_notice: Told about notices, resets and reconnects.
        unreachable_after: Seconds from losing the bridge to giving up; None for never.
        sleep: Waits between attempts.
    """

    def __init__(
        self,
        transport: HttpTransport,
        refs: Sequence[str],
        *,
        cursor: str | None,
        history: bool,
        on_notice: Callable[[TaskNotice], object] | None,
        unreachable_after: float | None,
        backoff: Backoff,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        if not refs:
            raise InvalidRequest("there is no task to watch")
        for ref in refs:
            TaskKey.parse(ref)
        if cursor is not None and not EVENT_ID.fullmatch(cursor):
            raise InvalidRequest("the cursor is not one of a bridge")
        self._transport = transport
        self._ledger = WatchState(refs)
        self._cursor = cursor
        self._history = history
        self._on_notice = on_notice
        self._unreachable_after = unreachable_after
        self._grace = backoff.patience
        self._backoff = backoff
        self._sleep = sleep
        self._lost_at: float | None = None

    async def states(self) -> AsyncGenerator[TaskState, None]:
        """Each state, until every task is over.

        Raises:
            BridgeUnreachable: There was no way back to the bridge for `unreachable_after` seconds.
            BridgeError: The bridge refuses the watch for good.
        """
        self._lost_at = _now()
        while not self._over:
            line = await self._connect()
            if line is None:
                return
            try:
                while not self._ledger.ended and (events := await self._listen(line)) is not None:
                    for event in events:
                        news = self._take(event)
                        if news is not None:
                            yield news
            finally:
                line.close()
            if not self._over:
                await self._pause(BridgeUnreachable(line.reason))

    @property
    def _over(self) -> bool:
        return self._ledger.ended or self._ledger.settled

    async def _connect(self) -> _Line | None:
        """A stream, however many attempts that takes; None when the bridge has nothing more to say (204)."""
        while True:
            method, path, body = self._request()
            headers = {
                "Accept": "text/event-stream",
                "Accept-Encoding": "identity",
                "Cache-Control": "no-store",
            }
            if self._cursor is not None:
                headers["Last-Event-ID"] = self._cursor
            try:
                response = await self._transport.open(
                    method, path, headers=headers, body=body, within=self._opening_seconds()
                )
            except BridgeError as failure:
                if not failure.retryable:
                    raise
                await self._pause(failure)
                continue
            if response.status == 204:
                response.release()
                return None
            if response.status != 200 or response.content_type != "text/event-stream":
                response.close()
                raise UnreadablePayload("the answer is not an event stream: is this the address of a bridge?")
            self._ledger.connected()
            return _Line(response, self._cursor)

    def _request(self) -> tuple[str, str, bytes | None]:
        """Asks only for what is still open: a bridge may have forgotten the rest by now."""
        refs = self._ledger.open_refs
        history = "history=1" if self._history else ""
        if len(refs) == 1:
            return "GET", task_path(refs[0], "/events") + ("?" + history if history else ""), None
        query = "&".join(["task=" + quote(ref, safe="/") for ref in refs] + [history] * self._history)
        if len(refs) > _MAX_IN_URL or len(query) > _MAX_URL:
            path = "/v1/events" + ("?" + history if history else "")
            return "POST", path, orjson.dumps({"tasks": refs})
        return "GET", f"/v1/events?{query}", None

    async def _listen(self, line: _Line) -> list[ServerSentEvent] | None:
        patience = self._grace
        settled = self._ledger.settled
        events = await line.read(min(patience.silence, patience.farewell) if settled else patience.silence)
        if line.retry is not None:
            self._backoff.asked(line.retry)
        if events is not None:
            self._lost_at = None
        if events:
            self._backoff.worked()
        return events

    def _take(self, event: ServerSentEvent) -> TaskState | None:
        news = self._ledger.take(event)
        # An id that no header could carry, or that is none of ours, would break every reconnect.
        self._cursor = event.id if event.id and EVENT_ID.fullmatch(event.id) else None
        if isinstance(news, TaskNotice):
            self._tell(news)
            return None
        return news

    def _tell(self, notice: TaskNotice) -> None:
        if self._on_notice is not None:
            self._on_notice(notice)

    def _opening_seconds(self) -> float:
        left = self._left()
        return self._grace.silence if left is None else min(self._grace.silence, max(left, 1.0))

    def _left(self) -> float | None:
        """Seconds until we give up; None for never."""
        if self._unreachable_after is None or self._lost_at is None:
            return self._unreachable_after
        return self._unreachable_after - (_now() - self._lost_at)

    async def _pause(self, failure: BridgeError) -> None:
        """Wait before the next attempt, or give up."""
        if self._lost_at is None:  # counted from here: neither silence nor a slow reader of ours is absence
            self._lost_at = _now()
        delay = self._backoff.next(failure.retry_after)
        left = self._left()
        if left is not None and left <= 0:
            raise BridgeUnreachable(f"no sign of the bridge for {self._unreachable_after:g} s: {failure}")
        self._tell(TaskNotice(code="reconnecting", message=str(failure)))
        await self._sleep(delay if left is None else min(delay, left))


class _Line:
    """One open connection."""

    def __init__(self, response: aiohttp.ClientResponse, cursor: str | None) -> None:
        self._response = response
        self._decoder = Decoder(last_event_id=cursor)
        self.reason = "the bridge closed the connection"

    @property
    def retry(self) -> int | None:
        return self._decoder.retry

    async def read(self, within: float) -> list[ServerSentEvent] | None:
        """The events of the next bytes, often none; None when the line is dead, and `reason` says why.

        Raises:
            UnreadablePayload: An event is larger than we read.
        """
        try:
            async with asyncio.timeout(within):
                chunk = await self._response.content.readany()
        except TimeoutError:
            self.reason = f"the bridge was silent for {within:g} s"
            return None
        except (aiohttp.ClientError, OSError) as error:
            self.reason = str(unreachable(error))
            return None
        return self._decoder.feed(chunk) if chunk else None

    def close(self) -> None:
        self._response.close()


def _now() -> float:
    return asyncio.get_running_loop().time()
