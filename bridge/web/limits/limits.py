"""Admission control: connection limits and rate limits per address and per caller.

Checked before a request costs anything else.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping

from starlette.requests import HTTPConnection

from bridge.clock import Clock
from bridge.config.settings import Settings
from bridge.delivery.handoff import on_close
from bridge.delivery.longpoll import LABEL
from bridge.errors import LimitExceeded
from bridge.telemetry.metrics import Metrics
from bridge.web.limits.client_address import ClientAddresses
from bridge.web.limits.rate_limiter import RateLimiter

logger = logging.getLogger(__name__)

BURST_SECONDS = 10.0
RETRY_AFTER_SECONDS = 5.0


class Limits:
    """Connection limits, watch limits and rate limits; 0 disables a limit.

    Connection counts are released when the server reports the end of the connection, however it ends.
    """

    def __init__(
        self, settings: Settings, addresses: ClientAddresses, clock: Clock, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._addresses = addresses
        self._metrics = metrics
        per_address = settings.max_streams_per_second_per_address
        self._address_rate = RateLimiter(per_address, per_address * BURST_SECONDS, clock)
        per_caller = settings.max_streams_per_second_per_caller
        self._caller_rate = RateLimiter(per_caller, per_caller * BURST_SECONDS, clock)
        submits = settings.max_submits_per_minute_per_caller
        self._submit_rate = RateLimiter(submits / 60, submits, clock)
        keys = settings.max_new_keys_per_minute_per_address
        self._key_rate = RateLimiter(keys / 60, keys, clock)
        self._open = 0
        self._open_by_address: dict[str, int] = {}
        self._open_by_caller: dict[str, int] = {}
        self._watches_by_caller: dict[str, int] = {}

    def open_stream(self, connection: HTTPConnection) -> ConnectionSlot:
        """Count a stream or WebSocket until its connection ends; assign the slot to its caller once known.

        Raises:
            LimitExceeded: The bridge or the address has too many connections, or the address opens too many.
        """
        slot = self._open_slot(connection)
        _check_rate(self._address_rate, slot.address, "this address")
        return slot

    def address_of(self, connection: HTTPConnection) -> str:
        """The client address that limits count by."""
        return self._addresses.of(connection.scope)

    def open_longpoll(self, connection: HTTPConnection, caller: str) -> None:
        """Count a long-poll until its response.

        Raises:
            LimitExceeded: The bridge, the address or the caller has too many connections.
        """
        try:
            self.assign_to_caller(self._open_slot(connection), caller)
        except LimitExceeded as error:
            self._metrics.rejected(LABEL)
            log_rejected(LABEL, error)
            raise

    def check_submit(self, caller: str) -> None:
        """Count one submit.

        Raises:
            LimitExceeded: The caller submits too often.
        """
        wait = self._submit_rate.take(caller)
        if wait > 0:
            # the contract has no metric for rejected requests; of its metrics this is the closest
            self._metrics.rejected(LABEL)
            raise LimitExceeded("this caller exceeds its submits per minute", retry_after=wait)

    def check_unverified_key(self, connection: HTTPConnection) -> None:
        """Count one request with a provider key that no provider has accepted yet.

        Raises:
            LimitExceeded: The address sends too many of them.
        """
        wait = self._key_rate.take(self._addresses.of(connection.scope))
        if wait > 0:
            self._metrics.rejected(LABEL)
            raise LimitExceeded("this address sends too many unverified keys", retry_after=wait)

    def assign_to_caller(self, slot: ConnectionSlot, caller: str, *, rated: bool = False) -> None:
        """Count a connection as one of `caller`.

        Args:
            rated: Whether it also counts as a new stream of the caller.

        Raises:
            LimitExceeded: The caller has too many connections, or opens too many.
        """
        of_caller = self._open_by_caller.get(caller, 0)
        _check_connections(of_caller, self._settings.max_connections_per_caller, "per caller")
        if rated:
            _check_rate(self._caller_rate, caller, "this caller")
        self._open_by_caller[caller] = of_caller + 1
        slot.caller = caller

    def change_watch_count(self, caller: str, before: int, after: int) -> None:
        """Count that a connection of `caller` watches `after` tasks instead of `before`.

        Raises:
            LimitExceeded: The caller watches too many tasks on all its connections; nothing was counted.
        """
        limit = self._settings.max_watches_per_caller
        if not limit:
            return
        total = self._watches_by_caller.get(caller, 0) + after - before
        if after > before and total > limit:
            raise LimitExceeded(
                f"at most {limit} watched tasks per caller are allowed", retry_after=RETRY_AFTER_SECONDS
            )
        _set_count(self._watches_by_caller, caller, total)

    def release(self, slot: ConnectionSlot) -> None:
        """Count a connection no longer."""
        self._open -= 1
        _set_count(self._open_by_address, slot.address, self._open_by_address[slot.address] - 1)
        if slot.caller is not None:
            _set_count(self._open_by_caller, slot.caller, self._open_by_caller[slot.caller] - 1)

    def _open_slot(self, connection: HTTPConnection) -> ConnectionSlot:
        settings, address = self._settings, self._addresses.of(connection.scope)
        of_address = self._open_by_address.get(address, 0)
        _check_connections(self._open, settings.max_connections, "on this bridge")
        _check_connections(of_address, settings.max_connections_per_address, "per address")
        self._open += 1
        self._open_by_address[address] = of_address + 1
        slot = ConnectionSlot(self, address)
        # registered before anything else can fail: every slot is released exactly once
        on_close(connection.scope, slot.release)
        return slot


class ConnectionSlot:
    """One counted connection.

    Attributes:
        caller: Whose connection it is; None until the caller is known.
    """

    __slots__ = ("_limits", "_watch_count", "address", "caller")

    def __init__(self, limits: Limits, address: str) -> None:
        self._limits = limits
        self.address = address
        self.caller: str | None = None
        self._watch_count = 0

    def assign_to_caller(self, caller: str) -> None:
        """Count the connection as a new stream of `caller`.

        Raises:
            LimitExceeded: The caller has too many connections, or opens too many.
        """
        self._limits.assign_to_caller(self, caller, rated=True)

    def set_watch_count(self, tasks: int) -> None:
        """Set how many tasks the connection watches.

        Raises:
            LimitExceeded: Its caller would watch too many; the count is unchanged.
        """
        if self.caller is not None:
            self._limits.change_watch_count(self.caller, self._watch_count, tasks)
            self._watch_count = tasks

    def release(self) -> None:
        """The connection has ended."""
        self.set_watch_count(0)
        self._limits.release(self)


def log_rejected(delivery: str, error: LimitExceeded) -> None:
    """Log a rejected connection with the limit it exceeded; repeats are throttled."""
    logger.warning("connection rejected", extra={"delivery": delivery, "why": str(error)})


def _check_connections(count: int, limit: int, scope: str) -> None:
    if limit and count >= limit:
        raise LimitExceeded(
            f"at most {limit} connections {scope} are allowed", retry_after=RETRY_AFTER_SECONDS
        )


def _check_rate(rate: RateLimiter, key: str, subject: str) -> None:
    wait = rate.take(key)
    if wait > 0:
        raise LimitExceeded(f"{subject} opens streams too quickly", retry_after=wait)


def _set_count(counts: MutableMapping[str, int], key: str, count: int) -> None:
    """Keys with a count of zero are removed, or the dicts would grow with every address ever seen."""
    if count > 0:
        counts[key] = count
    else:
        counts.pop(key, None)
