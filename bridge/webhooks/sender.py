"""Sends one attempt of a delivery and says what came of it. The only place where a receiver is talked to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from bridge.clock import Clock
from bridge.sources.outbound import OutboundClient, OutboundError, OutboundFailure, OutboundResponse
from bridge.webhooks.signature import signed_headers

ATTEMPT_SECONDS = 10.0
"""For the name, connecting, TLS, the headers and the body of the answer together."""

MAX_ANSWER = 4096
"""Of the answer's body so much is read, so that the connection can be used again; no more."""

BODY_SECONDS = 1.0
"""Once the status is known, its body is waited for so long."""

_JSON = {"Content-Type": "application/json", "Accept": "*/*"}


class Answered(NamedTuple):
    """What a receiver answered.

    Args:
        status: HTTP status; None if there was no answer.
        seconds: How long it took.
        error: A sentence without the URL; None for 2xx.
        retry_after: Seconds it asked to wait; None if it did not.
        late: Whether there was no status within the time-out.
    """

    status: int | None
    seconds: float
    error: str | None = None
    retry_after: float | None = None
    late: bool = False

    @property
    def delivered(self) -> bool:
        """Whether the receiver has it."""
        return self.error is None


class Sender:
    """Attempts through the guard: without redirects, cookies and proxies; connections are used again."""

    def __init__(self, client: OutboundClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def send(self, url: str, delivery: str, body: bytes, secrets: Iterable[str]) -> Answered:
        """Make one attempt, signed with the time of now."""
        headers = _JSON | signed_headers(delivery, int(self._clock.time()), body, secrets)
        began = self._clock.monotonic()
        status: int | None = None
        retry_after: float | None = None
        error: str | None = None
        late = False
        try:
            async with self._client.request(
                "POST", url, headers=headers, body=body, timeout_seconds=ATTEMPT_SECONDS
            ) as response:
                status = response.status
                retry_after = _retry_after(response, self._clock.time())
                await _read_a_little(response)
        except OutboundError as raised:
            error, late = str(raised), raised.failure is OutboundFailure.TIMEOUT
        if status is not None:
            error, late = None if 200 <= status < 300 else f"the receiver answered {status}", False
        return Answered(status, self._clock.monotonic() - began, error, retry_after, late)


async def _read_a_little(response: OutboundResponse) -> None:
    """Read the body so that the connection can be used again; if it is long or slow, it is closed instead."""
    with contextlib.suppress(OutboundError, TimeoutError):
        async with asyncio.timeout(BODY_SECONDS):
            await response.read(MAX_ANSWER)
            return
    response.raw.close()


def _retry_after(response: OutboundResponse, now: float) -> float | None:
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(parsedate_to_datetime(text).timestamp() - now, 0.0) if text else None
    except (ValueError, TypeError, OverflowError):
        return None
