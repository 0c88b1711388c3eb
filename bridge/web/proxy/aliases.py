"""Tasks by the client's own id: asked for once, however many want to know."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from bridge.core.event import Event
from bridge.core.task import Source, TaskKey, check_task_id
from bridge.delivery.subscriptions import Subscriptions
from bridge.errors import TaskNotFound, UpstreamBusy, UpstreamError
from bridge.sources.poll import find
from bridge.sources.upstream import Upstream

CACHE_SIZE = 4096


async def find_by_alias(
    subscriptions: Subscriptions, upstream: Upstream, alias: str
) -> tuple[TaskKey, Event]:
    """Ask the provider for the task of that alias, within its budget.

    Raises:
        InvalidRequest: The alias is not well-formed.
        UpstreamError: TaskNotFound when there is none, or the provider finds no task that way.
        JournalError: What was found could not be recorded.
    """
    asked = upstream.dialect.alias_request(check_task_id(alias))
    if asked is None:
        raise TaskNotFound("this upstream finds no task by the client's own id")
    now = subscriptions.clock.monotonic()
    free_at = upstream.limiter.free_at(now)
    if free_at is None or free_at > now + subscriptions.settings.first_state_timeout_seconds:
        raise UpstreamBusy("the budget of this upstream is used up", retry_after=(free_at or now + 1) - now)
    await subscriptions.clock.sleep(free_at - now)
    seen = await find(upstream, asked)
    assert seen.task_id is not None
    key = TaskKey(upstream.name, check_task_id(seen.task_id), upstream.account)
    return key, await subscriptions.pool.show(key, seen, Source.POLL) or subscriptions.placeholder(key)


@dataclass(slots=True)
class _AliasEntry:
    """What is known of one alias.

    Args:
        error: Why it was not found, which counts until `again_at`.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    key: TaskKey | None = None
    error: UpstreamError | None = None
    again_at: float = 0.0


class Aliases:
    """Remembers which task an alias means: that never changes."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions
        self._places: OrderedDict[tuple[str, str, str], _AliasEntry] = OrderedDict()

    async def key(self, upstream: Upstream, alias: str) -> TaskKey:
        """The task of that alias; the provider is asked by one for all who wait.

        Raises:
            BridgeError: What `find_by_alias` raises.
        """
        place = self._place(upstream.name, upstream.account, alias)
        async with place.lock:
            if place.key is not None:
                return place.key
            if place.error is not None and self._subscriptions.clock.monotonic() < place.again_at:
                raise place.error.with_traceback(None)  # else it would grow with everybody who asks
            try:
                place.key, _ = await find_by_alias(self._subscriptions, upstream, alias)
            except UpstreamError as error:
                wait = max(error.retry_after or 0.0, upstream.pace.min_seconds)
                place.error, place.again_at = error, self._subscriptions.clock.monotonic() + wait
                raise
            return place.key

    def remember(self, alias: str, key: TaskKey) -> None:
        """Take in what a submit has shown."""
        self._place(key.upstream, key.account, alias).key = key

    def _place(self, *name: str) -> _AliasEntry:
        upstream, account, alias = name
        place = self._places.setdefault((upstream, account, alias), _AliasEntry())
        self._places.move_to_end((upstream, account, alias))
        if len(self._places) > CACHE_SIZE:
            self._places.popitem(last=False)
        return place
