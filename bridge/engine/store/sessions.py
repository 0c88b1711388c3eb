"""Sessions: which replicas live, and which tasks name them as their owner."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.core.task import TaskKey
from bridge.engine.base import UNHEARD_SECONDS

MICROSECONDS = 1_000_000
ABOUT_BYTES = 1024
_UNHEARD_MICROSECONDS = int(UNHEARD_SECONDS * MICROSECONDS)
_EXPIRED_MICROSECONDS = 3600 * MICROSECONDS


class ReplicaSession:
    """One replica's lease.

    Attributes:
        until: It lives before this, microseconds.
        renewed_at: When it was opened or renewed last, or has left, microseconds.
        owned: The tasks that name it, oldest first. A dead session keeps them until they are taken or buried.
        burial: What `bury` has still to do, once it has begun.
    """

    __slots__ = ("about", "burial", "owned", "renewed_at", "until")

    def __init__(self, until: int, about: bytes, now: int) -> None:
        self.until = until
        self.renewed_at = now
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

    def polled_until(self, name: str) -> int:
        """When a dead session may have started its last poll, microseconds; 0 if it is not known.

        That is until it should have been renewed again; one that was cut off polls until then, unseen.
        """
        session = self._sessions.get(name)
        if session is None:
            return 0
        half = (session.renewed_at + session.until) // 2
        return min(half, session.renewed_at + _UNHEARD_MICROSECONDS)

    def open(self, name: str, until: int, about: bytes, now: int) -> ReplicaSession:
        """Open a session."""
        session = self._sessions[name] = ReplicaSession(until, about, now)
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
