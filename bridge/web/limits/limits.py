"""How much of the bridge one address or one caller may take; decided before anything costs."""

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

ANONYMOUS = "anonymous"
BURST_SECONDS = 10.0
RETRY_AFTER_SECONDS = 5.0


class Limits:
    """Lets connections and submits in, as long as there is room for them."""

    def __init__(
        self, settings: Settings, addresses: ClientAddresses, clock: Clock, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._addresses = addresses
        self._metrics = metrics
        by_address, by_caller = (
            settings.max_streams_per_second_per_address,
            settings.max_streams_per_second_per_caller,
        )
        self._address_rate = RateLimiter(by_address, by_address * BURST_SECONDS, clock)
        self._caller_rate = RateLimiter(by_caller, by_caller * BURST_SECONDS, clock)
        a_minute = settings.max_submits_per_minute_per_caller
        self._submit_rate = RateLimiter(a_minute / 60, a_minute, clock)
        keys = settings.max_new_keys_per_minute_per_address
        self._key_rate = RateLimiter(keys / 60, keys, clock)
        self._open = 0
        self._addresses_open: dict[str, int] = {}
        self._callers_open: dict[str, int] = {}
        self._watches: dict[str, int] = {}

    def stream(self, connection: HTTPConnection) -> ConnectionSlot:
        """A place for a stream or a WebSocket, until the connection ends; then say whose it is.

        Raises:
            LimitExceeded: There is none for that address.
        """
        place = self._enter(connection)
        _check_rate(self._address_rate, place.address, "this address opens")
        return place

    def longpoll(self, connection: HTTPConnection, caller: str) -> None:
        """A place for a request that is held open, until it is answered.

        Raises:
            LimitExceeded: There is none.
        """
        try:
            self.assign_to_caller(self._enter(connection), caller)
        except LimitExceeded as error:
            self._metrics.rejected(LABEL)
            log_rejected(LABEL, error)
            raise

    def submit(self, caller: str) -> None:
        """Let one submit through.

        Raises:
            LimitExceeded: This caller has had its share of the minute.
        """
        wait = self._submit_rate.take(caller)
        if wait > 0:
            self._metrics.rejected(LABEL)  # of the contract's metrics the nearest to a request refused
            raise LimitExceeded("this caller submits more a minute than this bridge allows", retry_after=wait)

    def try_key(self, connection: HTTPConnection) -> None:
        """Let one request through with a key that may be worth nothing.

        Raises:
            LimitExceeded: This address has tried enough of them for now.
        """
        wait = self._key_rate.take(self._addresses.of(connection.scope))
        if wait > 0:
            self._metrics.rejected(LABEL)
            raise LimitExceeded("this address sends too many keys no provider took", retry_after=wait)

    def assign_to_caller(self, place: ConnectionSlot, caller: str, *, rated: bool = False) -> None:
        """Count a connection as one of `caller`.

        Raises:
            LimitExceeded: The caller has too many, or, where they are rated, opens them too quickly.
        """
        of_caller = self._callers_open.get(caller, 0)
        _check(of_caller, self._settings.max_connections_per_caller, "one caller holds")
        if rated:
            _check_rate(self._caller_rate, caller, "this caller opens")
        self._callers_open[caller] = of_caller + 1
        place.caller = caller

    def follow(self, caller: str, before: int, after: int) -> None:
        """Count that a connection of `caller` follows `after` tasks instead of `before`.

        Raises:
            LimitExceeded: That is more than the caller may follow in all; nothing was counted.
        """
        most = self._settings.max_watches_per_caller
        if not most:
            return
        wished = self._watches.get(caller, 0) + after - before
        if after > before and wished > most:
            raise LimitExceeded(f"one caller follows at most {most} tasks", retry_after=RETRY_AFTER_SECONDS)
        _keep(self._watches, caller, wished)

    def leave(self, place: ConnectionSlot) -> None:
        """Give a place back."""
        self._open -= 1
        _keep(self._addresses_open, place.address, self._addresses_open[place.address] - 1)
        if place.caller is not None:
            _keep(self._callers_open, place.caller, self._callers_open[place.caller] - 1)

    def _enter(self, connection: HTTPConnection) -> ConnectionSlot:
        settings, address = self._settings, self._addresses.of(connection.scope)
        of_address = self._addresses_open.get(address, 0)
        _check(self._open, settings.max_connections, "this bridge holds")
        _check(of_address, settings.max_connections_per_address, "one address holds")
        self._open += 1
        self._addresses_open[address] = of_address + 1
        place = ConnectionSlot(self, address)
        on_close(connection.scope, place.leave)
        return place


class ConnectionSlot:
    """One connection that was let in.

    Attributes:
        caller: Whose it is, once that is known.
    """

    __slots__ = ("_following", "_limits", "address", "caller")

    def __init__(self, limits: Limits, address: str) -> None:
        self._limits = limits
        self.address = address
        self.caller: str | None = None
        self._following = 0

    def assign_to_caller(self, caller: str) -> None:
        """Say whose stream it is.

        Raises:
            LimitExceeded: The caller has too many, or opens them too quickly.
        """
        self._limits.assign_to_caller(self, caller, rated=True)

    def follow(self, tasks: int) -> None:
        """Say how many tasks the connection follows from now on.

        Raises:
            LimitExceeded: Its caller follows too many already.
        """
        if self.caller is not None:
            self._limits.follow(self.caller, self._following, tasks)
            self._following = tasks

    def leave(self) -> None:
        """The connection is over."""
        self.follow(0)
        self._limits.leave(self)


def log_rejected(delivery: str, error: LimitExceeded) -> None:
    """Say in the log that somebody found no place, and which limit that is."""
    logger.warning("turned away", extra={"delivery": delivery, "why": str(error)})


def _check(number: int, most: int, authenticate: str) -> None:
    if most and number >= most:
        raise LimitExceeded(f"{authenticate} at most {most} connections", retry_after=RETRY_AFTER_SECONDS)


def _check_rate(rate: RateLimiter, key: str, authenticate: str) -> None:
    wait = rate.take(key)
    if wait > 0:
        raise LimitExceeded(f"{authenticate} streams more often than this bridge allows", retry_after=wait)


def _keep(counts: MutableMapping[str, int], key: str, number: int) -> None:
    """What is zero needs no memory."""
    if number > 0:
        counts[key] = number
    else:
        counts.pop(key, None)
