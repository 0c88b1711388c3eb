"""The engine on Valkey or Redis.

Rule 1: each operation is one script, or a read and then one script that checks it: what several replicas
        decide is decided in the server, one after the other.
Rule 2: nothing is repeated here. A call without an answer raises `EngineUnavailable`, both connections are
        dropped, and `connect` may be called again.
Rule 3: no lock, no publish and subscribe, no expiry that decides anything: times are compared with the
        server's clock; keys expire only to be gone.
"""

from __future__ import annotations

from collections.abc import Callable

from bridge.engine.base import Census
from bridge.engine.redis.connect import ServerAccess
from bridge.engine.redis.documents import RedisDocuments
from bridge.engine.redis.link import DEFAULT_LIMITS, MICROSECONDS, EngineLimits, reads_answer
from bridge.engine.redis.states import RedisStates

_MAX_ACCOUNTS = 1000


class RedisEngine(RedisStates, RedisDocuments):
    """See `Engine`.

    Args:
        name: Of the service: bridges with the same name share everything.
        now: Microseconds, for tests; None for the server's clock.
    """

    def __init__(
        self,
        access: ServerAccess,
        *,
        name: str = "bridge",
        limits: EngineLimits = DEFAULT_LIMITS,
        now: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(access, name=name, limits=limits, now=now)
        self._burials = {}

    @reads_answer
    async def census(self) -> Census:
        """See `Engine.census`."""
        own = self.keys
        accounts, queues, *rest = await self.plain(
            ("SMEMBERS", own.accounts), ("HKEYS", own.queues), ("TIME",)
        )
        seconds, microseconds = rest[0]
        now = self._now() if self._now is not None else int(seconds) * MICROSECONDS + int(microseconds)
        orphans, firsts = 0, []
        keys = [own.orphans(account) for account in sorted(accounts)[:_MAX_ACCOUNTS]]
        questions = [("ZCARD", key) for key in keys] + [("ZRANGE", key, 0, 0, "WITHSCORES") for key in keys]
        answers = await self.plain(*questions) if questions else []
        orphans = sum(answers[: len(keys)])
        firsts = [int(float(first[1])) for first in answers[len(keys) :] if first]
        late = now - min(firsts) if firsts else 0
        used, limit = await self._memory()
        waiting = await self.waiting([name.decode("utf-8", "surrogatepass") for name in queues])
        jobs = sum(queue.jobs for queue in waiting)
        return Census(orphans, max(late, 0) / MICROSECONDS, used, limit, jobs)

    async def _memory(self) -> tuple[int, int]:
        """Bytes in use and at most; 0 if the server does not say."""
        if not self.facts.product:
            return 0, 0
        (answer,) = await self.plain(("INFO", "memory"))
        fields = dict(line.split(b":", 1) for line in answer.split(b"\r\n") if b":" in line)
        return int(fields.get(b"used_memory", 0)), int(fields.get(b"maxmemory", 0))
