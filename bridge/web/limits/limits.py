"""Admission control: connection limits and rate limits per address and per caller.

Checked before a request costs anything else.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import HTTPConnection, Request

from bridge.auth.caller import ANONYMOUS
from bridge.clock import Clock
from bridge.config.limits import ADDRESS, CALLER, LIMITS
from bridge.config.settings import Settings
from bridge.core.quota import Party, Quota
from bridge.delivery.handoff import on_close, server_of
from bridge.delivery.longpoll import LABEL
from bridge.errors import LimitExceeded
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.request_context import current_request
from bridge.web.limits.bodies import RequestBodies
from bridge.web.limits.client_address import ClientAddresses
from bridge.web.limits.rate_limiter import RateLimiter

logger = logging.getLogger(__name__)

BURST_SECONDS = 10.0
RETRY_AFTER_SECONDS = 5.0
SMALL_BYTES = 64 * 1024  # fits into the write buffer: a server does not wait with it


class Limits:
    """Connection limits, watch limits and rate limits; 0 disables a limit.

    Connection counts are released when the server reports the end of the connection, however it ends.

    Attributes:
        addresses: Whose address a request counts for.
        subscribes: Tasks subscribed to per second.
        history: Bytes of `?history=1` per second.
        watches: Tasks that connections watch.
        waiting: Bytes that clients have not taken.
    """

    def __init__(
        self, settings: Settings, addresses: ClientAddresses, clock: Clock, metrics: Metrics
    ) -> None:
        self._settings = settings
        self.addresses = addresses
        self._metrics = metrics
        self._exempt = frozenset(
            row.setting
            for row in LIMITS
            if settings.is_exposed(row.setting + ADDRESS) and row.per != "address"
        )
        self._streams = PartyRate(settings, "max_streams_per_second", clock)
        self.subscribes = PartyRate(settings, "max_subscribes_per_second", clock)
        self._calls = PartyRate(settings, "max_provider_calls_per_second", clock)
        self.history = PartyRate(settings, "max_history_bytes_per_second", clock)
        submits = settings.max_submits_per_minute_per_caller
        self._submit_rate = RateLimiter(submits / 60, submits, clock)
        keys = settings.max_new_keys_per_minute_per_address
        self._key_rate = RateLimiter(keys / 60, keys, clock)
        self._open = 0
        self._open_by_address: dict[str, int] = {}
        self._open_by_caller: dict[str, int] = {}
        self.watches = quota(settings, "max_watches")
        self._submits = quota(settings, "max_submits_in_flight")
        self._files = quota(settings, "max_files_in_flight")
        metrics.files_in_flight.set_function(lambda: self._files.total)
        self.waiting = quota(settings, "max_waiting_bytes", oversize=True)
        self._bodies = RequestBodies(settings)

    def party(self, connection: HTTPConnection, limit: str, caller: str | None = None) -> Party:
        """Whose counts of `limit` a request belongs to.

        A default per address does not count what comes through a proxy missing from the configuration.
        """
        address: str | None = self.addresses.of(connection.scope)
        if limit in self._exempt and self.addresses.is_shared(connection.scope):
            address = None
        return Party(caller, address)

    def open_stream(self, connection: HTTPConnection) -> ConnectionSlot:
        """Count a stream or WebSocket until its connection ends; assign the slot to its caller once known.

        Raises:
            LimitExceeded: The bridge or the address has too many connections, or the address opens too many.
        """
        slot = self._open_slot(connection)
        _check_rate(self._streams.take(slot.party("max_streams_per_second")), "this address opens streams")
        slot.count_waiting(connection)
        return slot

    def address_of(self, connection: HTTPConnection) -> str:
        """The client address that limits count by."""
        return self.addresses.of(connection.scope)

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

    def open_submit(self, connection: HTTPConnection, caller: str) -> None:
        """Count one submit, until its response among those in flight.

        Raises:
            LimitExceeded: The caller submits too often, or it or its address has too many in flight.
        """
        self.check_provider_call(connection, caller)
        wait = self._submit_rate.take(caller)
        party = self.party(connection, "max_submits_in_flight", caller)
        scope = self._submits.exceeded(party)
        if wait > 0 or scope is not None:
            # the contract has no metric for rejected requests; of its metrics this is the closest
            self._metrics.rejected(LABEL)
        if wait > 0:
            raise LimitExceeded("this caller exceeds its submits per minute", retry_after=wait)
        if scope is not None:
            raise LimitExceeded(f"too many submits in flight {scope}", retry_after=RETRY_AFTER_SECONDS)
        self._submits.add(party)
        on_close(connection.scope, lambda: self._submits.add(party, -1))

    def open_file(self, connection: HTTPConnection, caller: str) -> None:
        """Count one file on its way through the bridge, until its response has ended.

        Raises:
            LimitExceeded: The bridge, the caller or its address has too many of them.
        """
        party = self.party(connection, "max_files_in_flight", caller)
        scope = self._files.exceeded(party)
        if scope is not None:
            raise LimitExceeded(f"too many files in flight {scope}", retry_after=RETRY_AFTER_SECONDS)
        self._files.add(party)
        on_close(connection.scope, lambda: self._files.add(party, -1))

    def check_provider_call(self, connection: HTTPConnection, caller: str) -> None:
        """Count one call to a provider.

        Raises:
            LimitExceeded: The caller or its address causes too many.
        """
        wait = self._calls.take(self.party(connection, "max_provider_calls_per_second", caller))
        if wait > 0:
            self._metrics.rejected(LABEL)
            raise LimitExceeded("too many calls to providers: at most the rate allowed", retry_after=wait)

    def check_registration(self, connection: HTTPConnection, caller: str, *, new: bool) -> None:
        """Count one registration of a task that has not ended: it is polled.

        Args:
            new: Whether the task is not known yet: then also as a submit, for it is watched to its end.

        Raises:
            LimitExceeded: The caller or its address causes too many calls, or the caller submits too often.
        """
        self.check_provider_call(connection, caller)
        wait = self._submit_rate.take(caller) if new else 0.0
        if wait > 0:
            self._metrics.rejected(LABEL)
            raise LimitExceeded("this caller exceeds its submits per minute", retry_after=wait)

    async def read_body(self, request: Request, limit: int) -> bytes:
        """The body of a request, at most `limit` bytes.

        Raises:
            InvalidRequest: The client disconnected before the end.
            LimitExceeded: The caller, its address or the bridge has too many bodies in memory.
            TooLarge: It is larger than `limit` bytes.
        """
        context = current_request()
        caller = context.caller if context is not None else None
        party = self.party(request, "max_reading_bytes", caller or ANONYMOUS.name)
        return await self._bodies.read(request, limit, party)

    async def admit_document(self, connection: HTTPConnection, caller: str, size: int) -> None:
        """Wait until the client has taken its last response; count what it does not take of a large document.

        Call it just before the response, without waiting in between.

        Raises:
            LimitExceeded: The bridge, the caller or its address has too many of them already.
        """
        if size <= SMALL_BYTES:
            return
        flow: Any = getattr(server_of(connection.scope), "flow", None)
        if flow is not None and flow.write_paused:
            await flow.drain()
        party = self.party(connection, "max_waiting_bytes", caller)
        scope = self.waiting.exceeded(party, size)
        if scope is not None:
            raise LimitExceeded(f"too many bytes wait for clients {scope}", retry_after=RETRY_AFTER_SECONDS)
        _attach(connection, UnsentBytes(self.waiting, party))

    def check_unverified_key(self, connection: HTTPConnection) -> None:
        """Count one request with a provider key that no provider has accepted yet.

        Raises:
            LimitExceeded: The address sends too many of them.
        """
        wait = self._key_rate.take(self.addresses.of(connection.scope))
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
            _check_rate(self._streams.take(Party(caller)), "this caller opens streams")
        self._open_by_caller[caller] = of_caller + 1
        slot.whose = Party(caller, slot.whose.address)

    def release(self, slot: ConnectionSlot) -> None:
        """Count a connection no longer."""
        self._open -= 1
        caller, address = slot.whose
        assert address is not None
        _set_count(self._open_by_address, address, self._open_by_address[address] - 1)
        if caller is not None:
            _set_count(self._open_by_caller, caller, self._open_by_caller[caller] - 1)

    def is_exempt(self, limit: str) -> bool:
        """Whether a limit per address does not count what comes through an unknown proxy."""
        return limit in self._exempt

    def _open_slot(self, connection: HTTPConnection) -> ConnectionSlot:
        settings, address = self._settings, self.addresses.of(connection.scope)
        shared = bool(self._exempt) and self.addresses.is_shared(connection.scope)
        of_address = self._open_by_address.get(address, 0)
        _check_connections(self._open, settings.max_connections, "on this bridge")
        if not (shared and "max_connections" in self._exempt):
            _check_connections(of_address, settings.max_connections_per_address, "per address")
        self._open += 1
        self._open_by_address[address] = of_address + 1
        slot = ConnectionSlot(self, address, shared=shared)
        # registered before anything else can fail: every slot is released exactly once
        on_close(connection.scope, slot.release)
        return slot


class ConnectionSlot:
    """One counted connection.

    Attributes:
        whose: Its caller, once known, and its address.
    """

    __slots__ = ("_limits", "_shared", "_unsent", "_watch_count", "whose")

    def __init__(self, limits: Limits, address: str, *, shared: bool = False) -> None:
        self._limits = limits
        self._shared = shared
        self._unsent: UnsentBytes | None = None
        self.whose = Party(None, address)
        self._watch_count = 0

    def party(self, limit: str) -> Party:
        """Whose counts of `limit` the connection belongs to."""
        if self._shared and self._limits.is_exempt(limit):
            return Party(self.whose.caller)
        return self.whose

    def assign_to_caller(self, caller: str) -> None:
        """Count the connection as a new stream of `caller`.

        Raises:
            LimitExceeded: The caller has too many connections, or opens too many.
        """
        self._limits.assign_to_caller(self, caller, rated=True)
        if self._unsent is not None:
            self._unsent.party = self.party("max_waiting_bytes")

    def set_watch_count(self, tasks: int) -> None:
        """Set how many tasks the connection watches.

        Raises:
            LimitExceeded: Its caller would watch too many; the count is unchanged.
        """
        if self.whose.caller is None:
            return
        watches, party = self._limits.watches, self.party("max_watches")
        more = tasks - self._watch_count
        scope = watches.exceeded(party, more) if more > 0 else None
        if scope is not None:
            raise LimitExceeded(f"too many watched tasks {scope}", retry_after=RETRY_AFTER_SECONDS)
        watches.add(party, more)
        self._watch_count = tasks

    def subscribe_wait(self, tasks: int) -> float:
        """Count that it subscribes to `tasks` more tasks.

        Returns:
            0, else the seconds to wait before it may; nothing was counted then.
        """
        return self._limits.subscribes.take(self.party("max_subscribes_per_second"), tasks)

    def subscribe(self, tasks: int) -> None:
        """Count the tasks of a stream.

        Raises:
            LimitExceeded: Its caller or address watches too many, or subscribes to too many per second.
        """
        self.set_watch_count(tasks)
        self.check_subscribes(tasks)

    def check_subscribes(self, tasks: int) -> None:
        """Count that it subscribes to `tasks` tasks, if there are any.

        Raises:
            LimitExceeded: Its caller or address subscribes to too many per second.
        """
        wait = self.subscribe_wait(tasks) if tasks else 0.0
        if wait > 0:
            raise LimitExceeded("too many tasks are subscribed to per second", retry_after=wait)

    def has_room_to_write(self, size: int) -> bool:
        """Whether `size` bytes may wait for the client: few always may, more not while it leaves too much."""
        if size <= SMALL_BYTES:
            return True
        return self._limits.waiting.exceeded(self.party("max_waiting_bytes"), size) is None

    def history_wait(self, size: int) -> float:
        """Count `size` bytes of history.

        Returns:
            0, else the seconds to wait before they may be read; nothing was counted then.
        """
        return self._limits.history.take(self.party("max_history_bytes_per_second"), size)

    def count_waiting(self, connection: HTTPConnection) -> None:
        """Count the bytes that the client has not taken, from now on."""
        self._unsent = UnsentBytes(self._limits.waiting, self.party("max_waiting_bytes"))
        _attach(connection, self._unsent)

    def release(self) -> None:
        """The connection has ended."""
        self.set_watch_count(0)
        self._limits.release(self)


class UnsentBytes:
    """The bytes that one client has not taken; the server sets them when its write buffer fills and empties.

    Attributes:
        party: Whose they are; change it only while there are none.
    """

    __slots__ = ("_quota", "_size", "party")

    def __init__(self, quota: Quota, party: Party) -> None:
        self._quota = quota
        self._size = 0
        self.party = party

    def set(self, size: int) -> None:
        """The write buffer holds `size` bytes."""
        self._quota.add(self.party, size - self._size)
        self._size = size


class PartyRate:
    """A rate over the whole bridge, per caller and per address; see `RateLimiter`."""

    def __init__(self, settings: Settings, name: str, clock: Clock) -> None:
        rates = [float(getattr(settings, name + suffix, 0)) for suffix in ("", CALLER, ADDRESS)]
        # Without those that are off: each request takes of several rates.
        self._off = not any(rates)
        self._total, self._by_caller, self._by_address = (
            RateLimiter(rate, rate * BURST_SECONDS, clock) if rate else None for rate in rates
        )

    def take(self, party: Party, tokens: float = 1.0) -> float:
        """Take tokens of all that the party has.

        Returns:
            0 if they were taken, else the seconds to wait; nothing was taken then.
        """
        if self._off:
            return 0.0
        limiters: list[tuple[RateLimiter, str]] = []
        if self._total is not None:
            limiters.append((self._total, ""))
        if self._by_caller is not None and party.caller is not None:
            limiters.append((self._by_caller, party.caller))
        if self._by_address is not None and party.address is not None:
            limiters.append((self._by_address, party.address))
        if len(limiters) > 1:
            wait = max([limiter.wait(key) for limiter, key in limiters])
            if wait > 0:
                return wait
        # `take` of a single one checks it itself.
        return max([limiter.take(key, tokens) for limiter, key in limiters], default=0.0)


def quota(settings: Settings, name: str, *, oversize: bool = False) -> Quota:
    """The counts behind the settings of that name."""
    limits = [int(getattr(settings, name + suffix, 0)) for suffix in ("", CALLER, ADDRESS)]
    return Quota(*limits, oversize=oversize)


def log_rejected(delivery: str, error: LimitExceeded) -> None:
    """Log a rejected connection with the limit it exceeded; repeats are throttled."""
    logger.warning("connection rejected", extra={"delivery": delivery, "why": str(error)})


def _check_connections(count: int, limit: int, scope: str) -> None:
    if limit and count >= limit:
        raise LimitExceeded(
            f"at most {limit} connections {scope} are allowed", retry_after=RETRY_AFTER_SECONDS
        )


def _check_rate(wait: float, subject: str) -> None:
    if wait > 0:
        raise LimitExceeded(f"{subject} too quickly", retry_after=wait)


def _attach(connection: HTTPConnection, count: UnsentBytes) -> None:
    """Let the server of this connection report the bytes in its write buffer; other servers report none."""
    server = server_of(connection.scope)
    # HTTP responses have their connection's flow control; a WebSocket is one object.
    flow: Any = getattr(server, "flow", server)
    if hasattr(flow, "unsent"):
        if flow.unsent is not None:
            flow.unsent.set(0)  # of the request before
        flow.unsent = count


def _set_count(counts: MutableMapping[str, int], key: str, count: int) -> None:
    """Keys with a count of zero are removed, or the dicts would grow with every address ever seen."""
    if count > 0:
        counts[key] = count
    else:
        counts.pop(key, None)
