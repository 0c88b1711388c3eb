"""The list of tasks that the inspector shows: what is open, and what ended within the hour.

It is read from the journal, so that it outlives a restart. Only the newest tasks of an account are read, by
an index, and one reading serves all pages that ask meanwhile and shortly after: the cost grows neither with
the journal nor with the number of pages.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import orjson

from bridge.auth.caller import Caller, CallerRights
from bridge.clock import Clock
from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.event import Event
from bridge.core.task import Status, TaskKey
from bridge.errors import EngineUnavailable
from bridge.journal.base import Journal
from bridge.watchers.pool import Pool
from bridge.watchers.watcher import Watcher
from bridge.web.next_poll import NextPoll, next_poll
from bridge.web.task_pages import TaskFilter, TaskPages
from bridge.web.workers import WatchRow, Workers
from bridge.wire.document import seconds_left, timestamp
from bridge.wire.text import escaped

MAX_OPEN = 500
MAX_ENDED = 50
ENDED_SECONDS = 3600.0
MAX_REFS = 1000  # of a credential that names single tasks; it has at most 8 KiB
MAX_SCANNED = 5_000  # watches; about 5 ms of the event loop
IDLE_SHARE = 20  # after a reading of 1 ms none follows for 20 ms: at most 5 % of the time is spent on them
MAX_AGE_SECONDS = 1.0
MAX_CACHED = 64
MAX_BATCH = 50
MAX_MESSAGE = 300  # characters of an error

_UNSEEN = ("", "", "unseen")


class Row(NamedTuple):
    """One task of the list, encoded once for all callers.

    Args:
        at: Unix seconds to sort by, newest first: first seen if open, else ended.
        text: Its JSON, without what changes while nothing happens.
        json: All of it.
        details: What the task is known by.
    """

    key: TaskKey
    at: float
    final: bool
    text: bytes
    json: orjson.Fragment
    details: TaskDetails = NO_DETAILS


class WatchedElsewhere(NamedTuple):
    """A task that other workers watch.

    Args:
        viewers: There.
        unseen: Whether they have seen no state of it yet.
        next_poll: By the one that polls it; see `bridge.web.next_poll`.
    """

    viewers: int
    unseen: bool
    next_poll: NextPoll | None = None


class _Reading:
    """Rows being read, or read lately: valid in proportion to what they cost."""

    def __init__(self, rows: asyncio.Future[Sequence[Row]], clock: Clock) -> None:
        self.rows = rows
        self._clock = clock
        self._started_at = clock.monotonic()
        self._expires_at = float("inf")
        rows.add_done_callback(self._done)

    def expired(self, now: float) -> bool:
        """Whether the next caller needs a new reading."""
        return now >= self._expires_at

    def _done(self, rows: asyncio.Future[Sequence[Row]]) -> None:
        now = self._clock.monotonic()
        self._expires_at = now + min((now - self._started_at) * IDLE_SHARE, MAX_AGE_SECONDS)
        if not rows.cancelled():
            rows.exception()  # without a client left, asyncio would log it as never retrieved


class TaskListing:
    """What the journal holds of the newest tasks, and the watches without a recorded state."""

    def __init__(self, journal: Journal, pool: Pool, clock: Clock, workers: Workers | None = None) -> None:
        self._journal = journal
        self._workers = workers
        self._pool = pool
        self._clock = clock
        self._pages = TaskPages(journal)
        self._readings: OrderedDict[Hashable, _Reading] = OrderedDict()
        self._elsewhere: dict[TaskKey, WatchedElsewhere] = {}
        self._elsewhere_at = float("-inf")

    async def of(
        self, caller: Caller, shown: Callable[[TaskKey], bool], word: str = ""
    ) -> tuple[list[Row], bool]:
        """The tasks that the caller may read, open ones first, each newest first.

        Args:
            shown: Whether the caller's account may be shown a task now; asks no provider.
            word: Only tasks with this tag, or of the group of this name; empty for all.

        Returns:
            At most `MAX_OPEN` open and `MAX_ENDED` ended tasks, and whether more are open.

        Raises:
            JournalError: The journal cannot be read.
        """
        await self._read_elsewhere()
        lists = await (self._named(caller.rights, word) if word else self._newest(caller))
        rows = {
            row.key: row
            for part in lists
            for row in part
            if caller.shows(row.key, row.details) and shown(row.key)
        }
        opened = heapq.nlargest(MAX_OPEN + 1, (row for row in rows.values() if not row.final), key=_at)
        ended = heapq.nlargest(MAX_ENDED, (row for row in rows.values() if row.final), key=_at)
        return [*opened[:MAX_OPEN], *ended], len(opened) > MAX_OPEN

    async def _newest(self, caller: Caller) -> list[Sequence[Row]]:
        grant, account = caller.tasks, caller.account
        lists = [
            await self._shared((name, account), partial(self._of_account, name, account))
            for name in self._pool.upstreams
            if caller.covers_all_of(name)
        ]
        if grant is not None and grant.refs:
            refs = frozenset(islice(sorted(grant.refs), MAX_REFS))
            lists.append(await self._shared((refs, account), partial(self._of_refs, refs, account)))
        if caller.rights.by_names:
            lists.append(await self._page(caller.rights))
        return lists

    async def _named(self, rights: CallerRights, word: str) -> list[Sequence[Row]]:
        return [await self._page(rights, tag=word), await self._page(rights, group=word)]

    async def _page(self, rights: CallerRights, *, tag: str = "", group: str = "") -> Sequence[Row]:
        """The newest tasks as `GET /v1/tasks` lists them."""

        async def read() -> Sequence[Row]:
            wanted = TaskFilter(list(self._pool.upstreams), tag=tag, group=group)
            page = await self._pages.page(rights, wanted, limit=MAX_OPEN, shown=lambda _: True)
            return await self._rows([event.key for event, _ in page.tasks])

        return await self._shared((rights, tag, group), read)

    async def _shared(
        self, key: Hashable, read: Callable[[], Coroutine[Any, Any, Sequence[Row]]]
    ) -> Sequence[Row]:
        """The rows of that key, read once for all who ask meanwhile and shortly after.

        Cancellation: the read continues for the others.
        """
        now = self._clock.monotonic()
        for old in [old for old, reading in self._readings.items() if reading.expired(now)]:
            del self._readings[old]
        if key not in self._readings:
            if len(self._readings) >= MAX_CACHED:
                self._readings.popitem(last=False)
            self._readings[key] = _Reading(asyncio.ensure_future(read()), self._clock)
        return await asyncio.shield(self._readings[key].rows)

    async def _of_account(self, upstream: str, account: str) -> Sequence[Row]:
        opened = await self._journal.newest(upstream, account, final=False, limit=MAX_OPEN + 1)
        ended = await self._journal.newest(upstream, account, final=True, limit=MAX_ENDED)
        unseen = await self._shared(_UNSEEN, self._unseen)
        rows = await self._rows([*opened, *ended])
        return [*rows, *(row for row in unseen if (row.key.upstream, row.key.account) == (upstream, account))]

    async def _of_refs(self, refs: Iterable[str], account: str) -> Sequence[Row]:
        parsed = (TaskKey.parse(ref, account) for ref in refs)
        keys = [key for key in parsed if key.upstream in self._pool.upstreams]
        watchers = (self._pool.watcher(key) for key in keys)
        unseen = [self._unseen_row(one.key, one) for one in watchers if one is not None and _is_unseen(one)]
        unseen += [self._unseen_row(key) for key in keys if self._is_unseen_elsewhere(key)]
        return [*await self._rows(keys), *unseen]

    async def _unseen(self) -> Sequence[Row]:
        """The watches that no poll has answered yet, among the newest ones."""
        here = (one for one in islice(self._pool.newest(), MAX_SCANNED) if _is_unseen(one))
        rows = [self._unseen_row(one.key, one) for one in here]
        return rows + [self._unseen_row(key) for key in self._elsewhere if self._is_unseen_elsewhere(key)]

    async def _read_elsewhere(self) -> None:
        """What other workers watch, at most a second old."""
        now = self._clock.monotonic()
        if self._workers is None or now - self._elsewhere_at < MAX_AGE_SECONDS:
            return
        self._elsewhere_at = now
        found: dict[TaskKey, WatchedElsewhere] = {}
        # Without an answer the page shows what this process knows.
        with suppress(EngineUnavailable):
            for upstream, account, task_id, viewers, unseen, due in await self._workers.watches():
                key = TaskKey(upstream, task_id, account)
                other = found.get(key, WatchedElsewhere(0, unseen=True))
                found[key] = WatchedElsewhere(
                    other.viewers + viewers, unseen=other.unseen and unseen, next_poll=due or other.next_poll
                )
        self._elsewhere = found

    def _is_unseen_elsewhere(self, key: TaskKey) -> bool:
        """Whether only other workers watch a task, and none has seen a state of it."""
        other = self._elsewhere.get(key)
        return other is not None and other.unseen and self._pool.watcher(key) is None

    async def _rows(self, keys: Sequence[TaskKey]) -> list[Row]:
        events = await self._journal.latest(keys)
        first_seen = await self._journal.first_seen(keys)
        known_by = await self._journal.details_of(keys)
        since = self._clock.time() - ENDED_SECONDS
        rows = []
        of_each = zip(events, first_seen, known_by, strict=True)
        for number, (event, seen, details) in enumerate(of_each, start=1):
            if event is not None and (not event.state.status.final or event.state.changed_at >= since):
                rows.append(self._row(event, seen, details))
            if number % MAX_BATCH == 0:
                await asyncio.sleep(0)  # about 1 ms of the event loop
        return rows

    def _row(self, event: Event, first_seen: float | None, details: TaskDetails) -> Row:
        state, key, now = event.state, event.key, self._clock.time()
        confirmation = None if state.status.final else self._journal.confirmation(key)
        estimated = state if confirmation is None else confirmation
        watcher, other = self._pool.watcher(key), self._elsewhere.get(key)
        first_seen = state.changed_at if first_seen is None else first_seen
        here = None if watcher is None else next_poll(watcher, self._clock)
        final = state.status.final
        fields: dict[str, object] = {
            "task": key.ref,
            "status": state.status,
            "progress": state.progress,
            "eta_at": timestamp(estimated.eta_at),
            "eta_by": timestamp(estimated.eta_by),
            "model": state.model,
            "created_at": timestamp(state.created_at),
            "first_seen_at": timestamp(first_seen),
            "changed_at": timestamp(state.changed_at),
            "source": state.source,
            "error": None
            if state.error is None
            else {"code": state.error.code, "message": (state.error.message or "")[:MAX_MESSAGE] or None},
            "watched": (watcher is not None and not watcher.over) or (other is not None and not final),
            "viewers": (0 if watcher is None else watcher.viewers) + (0 if other is None else other.viewers),
            "next_poll": None if final else here or (None if other is None else other.next_poll),
        }
        if details.tags:
            fields["tags"] = details.tags
        if details.group is not None:
            fields["group"] = details.group
        at = state.changed_at if final else first_seen
        text = escaped(orjson.dumps(fields))
        left = orjson.dumps({"eta_seconds": seconds_left(estimated.eta_at, now)})
        return Row(key, at, final, text, orjson.Fragment(text[:-1] + b"," + left[1:]), details)

    def _unseen_row(self, key: TaskKey, watcher: Watcher | None = None) -> Row:
        other = self._elsewhere.get(key)
        viewers = (0 if watcher is None else watcher.viewers) + (0 if other is None else other.viewers)
        fields = {"task": key.ref, "status": Status.UNKNOWN, "watched": True, "viewers": viewers}
        # Above all others: it is asked for now.
        text = escaped(orjson.dumps(fields))
        return Row(key, float("inf"), False, text, orjson.Fragment(text))


def _is_unseen(watcher: Watcher) -> bool:
    return watcher.watch.known is None and not watcher.watch.not_found


def watched_here(pool: Pool, clock: Clock) -> list[WatchRow]:
    """The newest watches of this process, for the list of another one: the columns of `Workers.watches`."""
    return [
        (
            *(one.key.upstream, one.key.account, one.key.task_id),
            *(one.viewers, _is_unseen(one), next_poll(one, clock)),
        )
        for one in islice(pool.newest(), MAX_SCANNED)
        if not one.over
    ]


def _at(row: Row) -> float:
    return row.at
