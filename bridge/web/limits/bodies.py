"""Reads the bodies of requests within the memory there is for them."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from bridge.config.limits import ADDRESS, CALLER
from bridge.config.settings import Settings
from bridge.core.quota import Party, Quota
from bridge.delivery.handoff import on_close
from bridge.errors import InvalidRequest, LimitExceeded, TooLarge
from bridge.sources.body_memory import BodyMemory, Share

TOO_LARGE_SENTENCE = "the request body exceeds the limit of this route"
UNCOUNTED_BYTES = 16 * 1024
"""A small body never waits for the large ones."""

HELD_BYTES = 32 * 1024 * 1024
"""Complete bodies whose requests are not answered yet, over the whole bridge."""

UNPLACED_BYTES = 4 * 1024 * 1024
"""Parts that have arrived and wait for room, over the whole bridge."""

RETRY_AFTER_SECONDS = 2.0


class RequestBodies:
    """Reads bodies: one that has no room is not read on, or refused where its own party took the room.

    What is half sent and what waits for a provider are counted apart: a provider that is slow to answer
    submits must not keep other bodies from being read.
    """

    def __init__(self, settings: Settings) -> None:
        largest = max(settings.max_submission_bytes, settings.max_body_bytes)
        total = settings.max_reading_bytes or 1 << 62
        self._memory = BodyMemory(total, largest=largest, uncounted=UNCOUNTED_BYTES)
        per_caller, per_address = (
            int(getattr(settings, f"max_reading_bytes{suffix}")) for suffix in (CALLER, ADDRESS)
        )
        self._reading = Quota(0, per_caller, per_address, oversize=True)
        self._unplaced = Quota(UNPLACED_BYTES, oversize=True)
        self._held = BodyMemory(HELD_BYTES, largest=largest, uncounted=UNCOUNTED_BYTES)

    async def read(self, request: Request, limit: int, party: Party) -> bytes:
        """The body of a request; no more than `limit` bytes are buffered.

        Intentional: Starlette's own limit responds in plain text, not with a problem document.

        Cancellation: gives the memory back.

        Raises:
            InvalidRequest: The client disconnected before the end.
            LimitExceeded: The party, or the bridge, has too many bodies in memory.
            TooLarge: It is larger than `limit` bytes.
        """
        content_length = request.headers.get("content-length", "")
        # a body that declares too large a size is rejected unread
        if content_length.isdecimal() and int(content_length) > limit:
            raise TooLarge(TOO_LARGE_SENTENCE)
        return await self._read(request, limit, party)

    async def _read(self, request: Request, limit: int, party: Party) -> bytes:
        parts: list[bytes] = []
        size = 0
        with self._memory.share() as share:
            try:
                async for part in request.stream():
                    _check(self._reading, party, len(part))
                    size += len(part)
                    self._reading.add(party, len(part))
                    if size > limit:
                        raise TooLarge(TOO_LARGE_SENTENCE)
                    parts.append(part)
                    if not share.covers(size):
                        await self._grow(share, size, len(part), limit)
            except ClientDisconnect:
                raise InvalidRequest("the request body is incomplete") from None
            finally:
                self._reading.add(party, -size)
            body = b"".join(parts)
            parts.clear()
            if len(body) > UNCOUNTED_BYTES:
                held = self._held.share()
                on_close(request.scope, held.close)
                await held.grow(len(body), limit)
            return body

    async def _grow(self, share: Share, size: int, arrived: int, limit: int) -> None:
        """Wait for room; what has arrived already is in memory meanwhile, and there is little for that."""
        _check(self._unplaced, Party(), arrived)
        self._unplaced.add(Party(), arrived)
        try:
            await share.grow(size, limit)
        finally:
            self._unplaced.add(Party(), -arrived)


def _check(quota: Quota, party: Party, size: int) -> None:
    scope = quota.exceeded(party, size)
    if scope is not None:
        raise LimitExceeded(f"too many request bodies are in memory {scope}", retry_after=RETRY_AFTER_SECONDS)
