"""Sessions: which replicas live, and which tasks name them as their owner."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.core.task import TaskKey

MICROSECONDS = 1_000_000
ABOUT_BYTES = 1024
_EXPIRED_MICROSECONDS = 3600 * MICROSECONDS


class ReplicaSession:
    """One replica's lease.

    Attributes:
        until: It lives before this, microseconds.
        owned: The tasks that name it, oldest first. A dead session keeps them until they are taken or buried.
        burial: What `bury` has still to do, once it has begun.
    """

    __slots__ = ("about", "burial", "owned", "until")

    def __init__(self, until: int, about: bytes) -> None:
        self.until = until
        self.about = about
        self.owned: dict[TaskKey, None] = {}
        self.burial: list[TaskKey] | None = None


class Sessions:
    """All sessions; few, so that walking over them costs little."""

    def __init__(self) -> None:
        self._sessions: dict[str, ReplicaSession] = {}

    def get(self, name: str) -> ReplicaSession | None:
        """A session, dead or alive."""
        return self._sessions.get(name)

    def alive(self, name: str, now: int) -> bool:
        """Whether a session lives."""
        session = self._sessions.get(name)
        return session is not None and now < session.until

    def open(self, name: str, until: int, about: bytes) -> ReplicaSession:
        """Open a session."""
        session = self._sessions[name] = ReplicaSession(until, about)
        return session

    def live(self, now: int) -> Iterator[tuple[str, ReplicaSession]]:
        """The live ones."""
        return ((name, session) for name, session in self._sessions.items() if now < session.until)

    def dead(self, now: int) -> list[tuple[str, ReplicaSession]]:
        """The dead ones that are still remembered."""
        return [(name, session) for name, session in self._sessions.items() if now >= session.until]

    def forget(self, now: int) -> None:
        """Forget those that died an hour ago and own nothing."""
        for name, session in self.dead(now):
            if not session.owned and now - session.until > _EXPIRED_MICROSECONDS:
                del self._sessions[name]
