"""Tasks by the client's own id (alias): looked up at the provider once for all concurrent callers."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from bridge.auth.caller import MISSING_SENTENCE, Caller, TokenScope, one_answer_for_missing
from bridge.core.event import Event
from bridge.core.rate_limit import CallKind
from bridge.core.task import OWN_ACCOUNT, Observation, Source, TaskKey, check_task_id, check_url_part
from bridge.errors import TaskNotFound, UpstreamError
from bridge.sources.poll import find
from bridge.sources.upstream import Upstream
from bridge.web.services import Services

CACHE_SIZE = 4096


@dataclass(slots=True)
class _AliasEntry:
    """What is known about one alias.

    Args:
        error: Why the last lookup failed; raised again until `retry_at`.
        retry_at: When the provider may be asked again, in monotonic seconds.
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
        self._journal = services.journal
        self._clock = services.clock
        self._shared = services.knowledge
        self._authenticator = services.authenticator
        self._entries: OrderedDict[tuple[str, str, str], _AliasEntry] = OrderedDict()

    async def find(self, upstream: Upstream, alias: str, caller: Caller) -> tuple[TaskKey, Event]:
        """Ask the provider for the task with that alias, within its rate limit.

        Not if another replica found it: then with the recorded state, if that is new enough.

        Raises:
            InvalidRequest: The alias is malformed.
            Forbidden: The caller may not read the task, or may not learn that there is none.
            UpstreamError: The lookup failed; `TaskNotFound` if there is no such task, or the provider has no
                lookup by alias.
            JournalError: The result could not be recorded.
        """
        known = await self._find_shared(upstream, alias)
        if known is not None and await self._authenticator.covers(caller, known.key):
            return known.key, known
        try:
            key, observation = await self._ask(upstream, alias)
        except UpstreamError as error:
            _authorize_error(error, upstream, caller)
            raise
        await self._authorize(caller, key)
        event = await self._pool.show(key, observation, Source.POLL)
        return key, event or self._subscriptions.placeholder(key)

    async def key(self, upstream: Upstream, alias: str, caller: Caller) -> TaskKey:
        """The task with that alias, from the cache if possible; concurrent callers share one lookup.

        A caller that cannot read the task causes the same calls as if it did not exist.

        Raises:
            BridgeError: As `find` raises.
        """
        entry = self._entry(upstream.name, upstream.account, alias)
        async with entry.lock:
            if entry.key is not None and await self._authenticator.covers(caller, entry.key):
                return entry.key
            if entry.key is None and self._shared is not None:
                entry.key = await self._shared.find_alias(upstream.name, upstream.account, alias)
                if entry.key is not None and await self._authenticator.covers(caller, entry.key):
                    entry.error = None
                    return entry.key
            if upstream.clock.monotonic() >= entry.retry_at:
                await self._look_up(entry, upstream, alias, caller)
            if entry.error is not None:
                _authorize_error(entry.error, upstream, caller)
                # without its traceback, which would grow with every caller that gets this exception
                raise entry.error.with_traceback(None)
            assert entry.key is not None
            await self._authorize(caller, entry.key)
            return entry.key

    async def _look_up(self, entry: _AliasEntry, upstream: Upstream, alias: str, caller: Caller) -> None:
        wait = upstream.pace.min_seconds
        try:
            entry.key, observation = await self._ask(upstream, alias)
            entry.error = None
            if await self._authenticator.covers(caller, entry.key):
                await self._pool.show(entry.key, observation, Source.POLL)
        except UpstreamError as error:
            entry.error, wait = error, max(error.retry_after or 0.0, wait)
        entry.retry_at = upstream.clock.monotonic() + wait

    async def _ask(self, upstream: Upstream, alias: str) -> tuple[TaskKey, Observation]:
        request = upstream.dialect.alias_request(check_url_part(alias))
        if request is None:
            raise TaskNotFound("this upstream has no lookup by the client's own id")
        with one_answer_for_missing(upstream.account):
            async with upstream.acquire(CallKind.CONTROL):
                observation = await find(upstream, request)
        assert observation.task_id is not None
        key = TaskKey(upstream.name, check_task_id(observation.task_id), upstream.account)
        if self._shared is not None:
            self._shared.save_alias(alias, key)
        return key, observation

    async def _find_shared(self, upstream: Upstream, alias: str) -> Event | None:
        """The recorded state of the task that another replica found by the alias, if it is new enough.

        Not with a caller's own key: its provider has to show the task to that key.
        """
        if self._shared is None or upstream.account != OWN_ACCOUNT:
            return None
        key = await self._shared.find_alias(upstream.name, upstream.account, alias)
        if key is None:
            return None
        (event,) = await self._journal.latest([key])
        if event is None:
            return None
        age = self._clock.time() - event.state.observed_at
        return event if event.state.status.final or age <= self._settings.linger_seconds else None

    async def _authorize(self, caller: Caller, key: TaskKey) -> None:
        """Check that the caller may read the task it found.

        Raises:
            TaskNotFound: It reads by tags, and this task has none of them: as if there were no such task.
            Forbidden: It may not.
        """
        if caller.rights.by_names and not await self._authenticator.covers(caller, key):
            raise TaskNotFound(MISSING_SENTENCE)
        await self._authenticator.check(caller, TokenScope.READ, [key])

    def remember(self, alias: str, key: TaskKey) -> None:
        """Cache the alias of a task that was just submitted."""
        if self._shared is not None:
            self._shared.save_alias(alias, key)
        entry = self._entry(key.upstream, key.account, alias)
        entry.key, entry.error, entry.retry_at = key, None, 0.0

    def _entry(self, *name: str) -> _AliasEntry:
        upstream, account, alias = name
        # by account: two accounts may use the same alias for different tasks
        entry = self._entries.setdefault((upstream, account, alias), _AliasEntry())
        self._entries.move_to_end((upstream, account, alias))
        if len(self._entries) > CACHE_SIZE:
            self._entries.popitem(last=False)
        return entry


def _authorize_error(error: UpstreamError, upstream: Upstream, caller: Caller) -> None:
    """Check that the caller may learn that the provider shows no such task.

    Raises:
        TaskNotFound: It reads by tags: in the words for a task that has none of them.
        Forbidden: It may not.
    """
    if error.retryable or caller.covers_all_of(upstream.name):
        return
    if caller.rights.by_names:
        raise TaskNotFound(MISSING_SENTENCE) from None
    caller.authorize_missing(upstream.name)
