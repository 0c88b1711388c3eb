"""The attempts to deliver, as a log of each endpoint keeps them: the newest, in lists of the ledger.

What is read may be of another version, damaged or made up: what makes no sense is left out.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple

import orjson

from bridge.engine.base import JOB_SECONDS
from bridge.engine.ledger import Ledger
from bridge.errors import JournalError
from bridge.webhooks.schedule import is_too_old

KEPT_ATTEMPTS = 100
"""Of an endpoint."""

MAX_KEPT_BODY = 16 * 1024
"""A larger body is not kept: that delivery cannot be sent again by hand."""

FLUSH_SECONDS = 1.0
_LISTS_IN_A_FLUSH = 100

logger = logging.getLogger(__name__)


class AttemptResult(StrEnum):
    """What came of an attempt, or of a delivery without one."""

    DELIVERED = "delivered"
    FAILED = "failed"  # another attempt follows, unless it was made by hand
    EXPIRED = "expired"  # it was the last one: 24 hours have passed
    GONE = "gone"  # the receiver answered 410; of a webhook it waits until that one is enabled
    DROPPED = "dropped"  # no attempt: its webhook was deleted, or there was no room


class Attempt(NamedTuple):
    """One attempt.

    Args:
        delivery: Its `webhook-id`.
        type: An `EventType`, or what another version writes.
        at: Unix seconds.
        status: HTTP status of the answer; None without one.
        seconds: How long it took.
        error: Why nothing was delivered; None if it was.
    """

    delivery: str
    type: str
    at: float
    status: int | None
    seconds: float
    error: str | None
    result: AttemptResult


class LoggedAttempt(NamedTuple):
    """An attempt in the log of an endpoint.

    Args:
        task: Its ref; empty for a test.
        next_at: Unix seconds of the next attempt; None if there is none.
        body: What was sent; None if it was too large to keep.
        by_hand: Whether it was made by hand (a test, a delivery that is sent again).
        written_at: When the delivery was written, Unix seconds; None if that is not known.
    """

    attempt: Attempt
    task: str
    next_at: float | None = None
    body: bytes | None = None
    by_hand: bool = False
    written_at: float | None = None


class LoggedDelivery(NamedTuple):
    """What is known of one delivery.

    Args:
        task: Its ref; empty for a test.
        attempts: Those that are kept, the newest first.
        state: `delivered`, `waiting` (for the next attempt), `failed`, `gone` or `dropped`.
        next_attempt_at: Unix seconds; None if there is none, or none until its endpoint is enabled.
        redeliverable: Whether it can be sent again by hand.
    """

    id: str
    type: str
    task: str
    attempts: tuple[Attempt, ...]
    state: str
    next_attempt_at: float | None
    redeliverable: bool


class DeliveryLog:
    """The newest attempts of each endpoint; written about once a second, by every bridge.

    Rule: what is not written yet is bounded as what is kept.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._unwritten: dict[str, deque[bytes]] = {}

    @property
    def pending(self) -> bool:
        """Whether something is to be written."""
        return bool(self._unwritten)

    def add(self, webhook: str, logged: LoggedAttempt) -> None:
        """Take in an attempt."""
        unwritten = self._unwritten.get(webhook)
        if unwritten is None:
            unwritten = self._unwritten[webhook] = deque(maxlen=KEPT_ATTEMPTS)
        unwritten.append(_encode(logged))

    async def flush(self) -> None:
        """Write what was added; while the ledger is away, it is kept here."""
        for webhook in list(self._unwritten)[:_LISTS_IN_A_FLUSH]:
            samples = self._unwritten.pop(webhook)
            try:
                await self._ledger.learn(_list_name(webhook), list(samples), keep=KEPT_ATTEMPTS)
            except JournalError:
                later = self._unwritten.get(webhook, ())
                self._unwritten[webhook] = deque([*samples, *later], maxlen=KEPT_ATTEMPTS)
                return

    async def forget(self, webhook: str) -> None:
        """Delete the log of an endpoint."""
        self._unwritten.pop(webhook, None)
        await self._ledger.learn(_list_name(webhook), (), keep=0)

    async def read(self, webhook: str) -> list[LoggedAttempt]:
        """The attempts, oldest first.

        Raises:
            JournalError: The ledger is away.
        """
        (samples,) = await self._ledger.learned([_list_name(webhook)])
        samples = [*samples, *self._unwritten.get(webhook, ())]
        logged = (_decode(sample) for sample in samples[-KEPT_ATTEMPTS:])
        return sorted((one for one in logged if one is not None), key=lambda one: one.attempt.at)


def deliveries_of(
    logged: Iterable[LoggedAttempt], *, disabled: bool, enabled_at: float | None, now: float
) -> list[LoggedDelivery]:
    """The deliveries of a log, the one with the newest attempt first.

    Args:
        disabled: Whether nothing is sent to their endpoint.
        enabled_at: When it was enabled last, Unix seconds: what was too old then is not sent. None for never.
    """
    grouped: dict[str, list[LoggedAttempt]] = {}
    for one in logged:
        grouped[one.attempt.delivery] = [*grouped.pop(one.attempt.delivery, ()), one]
    deliveries = []
    for name, attempts in reversed(grouped.items()):
        state, next_at = _state_of(attempts, disabled=disabled, enabled_at=enabled_at, now=now)
        newest = attempts[-1]
        deliveries.append(
            LoggedDelivery(
                id=name,
                type=newest.attempt.type,
                task=newest.task,
                attempts=tuple(one.attempt for one in reversed(attempts)),
                state=state,
                next_attempt_at=next_at,
                redeliverable=any(one.body is not None for one in attempts),
            )
        )
    return deliveries


def _state_of(
    attempts: list[LoggedAttempt], *, disabled: bool, enabled_at: float | None, now: float
) -> tuple[str, float | None]:
    if any(one.attempt.result is AttemptResult.DELIVERED for one in attempts):
        return "delivered", None
    own = [one for one in attempts if not one.by_hand]
    newest = own[-1] if own else attempts[-1]
    result = newest.attempt.result
    if result in (AttemptResult.FAILED, AttemptResult.GONE) and newest.next_at is not None:
        written_at = newest.written_at if newest.written_at is not None else newest.attempt.at
        if (
            not is_too_old(written_at, now if disabled else enabled_at)
            and now - written_at < JOB_SECONDS  # then it is deleted
        ):
            return "waiting", None if disabled else max(newest.next_at, now)
        return "failed", None
    if result in (AttemptResult.GONE, AttemptResult.DROPPED):
        return result.value, None
    return "failed", None


def _list_name(webhook: str) -> str:
    return f"deliveries:{webhook}"


def _encode(logged: LoggedAttempt) -> bytes:
    attempt = logged.attempt
    fields: dict[str, Any] = {
        "id": attempt.delivery,
        "type": attempt.type,
        "at": attempt.at,
        "status": attempt.status,
        "seconds": attempt.seconds,
        "error": attempt.error,
        "result": attempt.result.value,
        "task": logged.task,
        "next": logged.next_at,
        "by_hand": logged.by_hand,
        "written": logged.written_at,
    }
    body = logged.body
    if body is not None and len(body) <= MAX_KEPT_BODY:
        return orjson.dumps(fields) + b"\n" + body
    return orjson.dumps(fields)


def _decode(sample: bytes) -> LoggedAttempt | None:
    head, newline, body = sample.partition(b"\n")
    try:
        fields = orjson.loads(head)
        status, error, next_at = fields["status"], fields["error"], fields["next"]
        written_at = fields.get("written")  # an older version writes none
        attempt = Attempt(
            str(fields["id"]),
            str(fields["type"]),
            float(fields["at"]),
            None if status is None else int(status),
            float(fields["seconds"]),
            None if error is None else str(error),
            AttemptResult(fields["result"]),
        )
        return LoggedAttempt(
            attempt,
            str(fields["task"]),
            None if next_at is None else float(next_at),
            body if newline else None,
            bool(fields["by_hand"]),
            None if written_at is None else float(written_at),
        )
    except (ValueError, TypeError, KeyError):
        return None
