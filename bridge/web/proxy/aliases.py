"""Tasks by the client's own id (alias): looked up at the provider once for all concurrent callers."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from bridge.core.event import Event
from bridge.core.rate_limit import CallKind
from bridge.core.task import Source, TaskKey, check_task_id, check_url_part
from bridge.errors import TaskNotFound, UpstreamError
from bridge.sources.poll import find
from bridge.sources.upstream import Upstream
from bridge.web.services import Services

CACHE_SIZE = 4096


@dataclass(slots=True)
class _AliasEntry:
    """What is known about one alias.

    Args:
        error: Why the last lookup failed; raised again until `retry_at` (monotonic seconds).
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    key: TaskKey | None = None
    error: UpstreamError | None = None
    retry_at: float = 0.0


class Aliases:
    """Looks up aliases, and caches which task each one belongs to: a provider never changes that."""

    def __init__(self, services: Services) -> None:
        self._settings = services.settings
        self._pool = services.pool
        self._subscriptions = services.subscriptions
        self._entries: OrderedDict[tuple[str, str, str], _AliasEntry] = OrderedDict()

    async def find(self, upstream: Upstream, alias: str) -> tuple[TaskKey, Event]:
        """Ask the provider for the task with that alias, within its rate limit.

        Raises:
            InvalidRequest: The alias is malformed.
            UpstreamError: The lookup failed; `TaskNotFound` if there is no such task, or the provider has no
                lookup by alias.
            JournalError: The result could not be recorded.
        """
        request = upstream.dialect.alias_request(check_url_part(alias))
        if request is None:
            raise TaskNotFound("this upstream has no lookup by the client's own id")
        async with upstream.acquire(CallKind.CONTROL):
            observation = await find(upstream, request)
        assert observation.task_id is not None
        key = TaskKey(upstream.name, check_task_id(observation.task_id), upstream.account)
        event = await self._pool.show(key, observation, Source.POLL)
        return key, event or self._subscriptions.placeholder(key)

    async def key(self, upstream: Upstream, alias: str) -> TaskKey:
        """The task with that alias, from the cache if possible; concurrent callers share one lookup.

        Raises:
            BridgeError: As `find` raises.
        """
        entry = self._entry(upstream.name, upstream.account, alias)
        async with entry.lock:
            if entry.key is not None:
                return entry.key
            if entry.error is not None and upstream.clock.monotonic() < entry.retry_at:
                # without its traceback, which would grow with every caller that gets this exception
                raise entry.error.with_traceback(None)
            try:
                entry.key, _ = await self.find(upstream, alias)
            except UpstreamError as error:
                wait = max(error.retry_after or 0.0, upstream.pace.min_seconds)
                entry.error, entry.retry_at = error, upstream.clock.monotonic() + wait
                raise
            return entry.key

    def remember(self, alias: str, key: TaskKey) -> None:
        """Cache the alias of a task that was just submitted."""
        self._entry(key.upstream, key.account, alias).key = key

    def _entry(self, *name: str) -> _AliasEntry:
        upstream, account, alias = name
        # by account: two accounts may use the same alias for different tasks
        entry = self._entries.setdefault((upstream, account, alias), _AliasEntry())
        self._entries.move_to_end((upstream, account, alias))
        if len(self._entries) > CACHE_SIZE:
            self._entries.popitem(last=False)
        return entry
