"""How many attempts are in flight for each receiver: a dead one must not cost the others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache

from yarl import URL

MAX_PER_HOST = 16
MAX_OF_FAILING = 4
FAILING_IN_A_ROW = 16
"""Time-outs in a row after which a host counts as failing: fewer attempts are in flight until one arrives."""

SLOW_SECONDS = 0.5
"""A host whose attempts take longer, or of which none ends for so long, leaves its turn to others."""

MAX_IN_FLIGHT = 512
MAX_OF_SUBMITS = 128
"""To the hosts of one item of `webhook_hosts`: callers choose the ports, and the names below a wildcard."""

MAX_KNOWN = 10_000


@lru_cache(maxsize=4096)
def receiving_host(url: str) -> str:
    """The host and port of a URL, one name however they are written."""
    try:
        called = URL(url)
    except ValueError:
        return ""  # the sender refuses it
    return f"{(called.raw_host or '').rstrip('.')}:{called.port}"


class ReceivingHost:
    """One host and port.

    Attributes:
        late: Time-outs in a row.
        mean: Seconds of an attempt, of the last few.
        progress: When an attempt began or ended last, monotonic seconds.
    """

    __slots__ = ("in_flight", "late", "mean", "name", "progress", "waits")

    def __init__(self, name: str) -> None:
        self.name = name
        self.in_flight = 0
        self.late = 0
        self.mean = 0.0
        self.progress = 0.0
        self.waits: dict[Callable[[], None], None] = {}

    @property
    def failing(self) -> bool:
        """Whether it lets every attempt wait until its time-out."""
        return self.late >= FAILING_IN_A_ROW

    def slow(self, now: float) -> bool:
        """Whether a delivery that waits for room here waits for long."""
        return self.failing or self.mean > SLOW_SECONDS or now - self.progress > SLOW_SECONDS

    @property
    def room(self) -> int:
        """How many attempts may begin now."""
        return max((MAX_OF_FAILING if self.failing else MAX_PER_HOST) - self.in_flight, 0)


class ReceivingHosts:
    """All of them, of which those that answer and are not in use are forgotten."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._hosts: OrderedDict[str, ReceivingHost] = OrderedDict()
        self._full: dict[Callable[[], None], None] = {}

    def get(self, name: str) -> ReceivingHost:
        """A host by its name and port."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = ReceivingHost(name)
            if len(self._hosts) > MAX_KNOWN:
                idle = next(
                    (one for one in self._hosts.values() if not one.in_flight and not one.waits), None
                )
                if idle is not None and idle is not host:
                    del self._hosts[idle.name]
        return host

    def _forget_idle(self) -> None:
        for name, host in self._hosts.items():
            if not host.in_flight and not host.waits:
                del self._hosts[name]
                return

    def begin(self, name: str, wait: Callable[[], None], now: float) -> bool:
        """Count an attempt; False if there is no room, and `wait` is called once there may be."""
        host = self.get(name)
        if not host.room:
            host.waits[wait] = None
            return False
        if self.in_flight >= MAX_IN_FLIGHT:
            self._full[wait] = None
            return False
        host.in_flight += 1
        host.progress = now
        self.in_flight += 1
        return True

    def end(self, name: str, *, late: bool, seconds: float, now: float) -> None:
        """An attempt has ended that took so long."""
        host = self.get(name)
        host.progress = now
        host.mean += (seconds - host.mean) / 4
        host.in_flight -= 1
        self.in_flight -= 1
        host.late = host.late + 1 if late else 0
        waits = [*host.waits, *self._full]
        host.waits.clear()
        self._full.clear()
        if not host.in_flight and not host.late:
            self._hosts.pop(name, None)
        for wait in waits:
            wait()
