"""The recorded tasks a caller may read, by first state, newest first, in pages.

Several listings of the journal are merged by place: of an upstream where the caller may read all of it, else
of each tag and group that its credential names, and the tasks it names one by one. Places never change, so
that nothing is skipped or repeated between two pages, also if tasks change meanwhile: a new task has a larger
place than all others. The work of one page is bounded: where little matches, a page is short.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from bridge.auth.caller import CallerRights
from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.core.task import Status, TaskKey
from bridge.journal.base import Journal, Listed

MAX_SCANNED = 2_000
"""Tasks that are read for one page."""

MAX_REFS = 1000  # of a credential that names single tasks; it has at most 8 KiB
MAX_PORTION = 200
MIN_PORTION = 8


class TaskFilter(NamedTuple):
    """Which of the tasks that a caller may read are wanted.

    Args:
        upstreams: Of these upstreams.
        statuses: With one of these statuses; None for all.
        tag: With this tag; empty for all.
        group: Of this group; empty for all.
    """

    upstreams: Sequence[str]
    statuses: Collection[Status] | None = None
    tag: str = ""
    group: str = ""


class TaskPage(NamedTuple):
    """One page.

    Args:
        tasks: The newest event of each task, with what it is known by.
        before: Where the next page begins; 0 if there is none.
    """

    tasks: list[tuple[Event, TaskDetails]]
    before: int


class _Source(NamedTuple):
    """One listing of the journal."""

    upstream: str
    tag: str = ""
    group: str = ""


class TaskPages:
    """Reads pages from the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def page(
        self,
        rights: CallerRights,
        wanted: TaskFilter,
        *,
        limit: int,
        before: int = 0,
        shown: Callable[[TaskKey], bool],
    ) -> TaskPage:
        """The next tasks.

        Args:
            before: As the page before has it; 0 for the newest tasks.
            shown: Whether the account may be shown a task now; asks no provider.

        Raises:
            JournalError: The journal cannot be read.
        """
        tasks: list[tuple[Event, TaskDetails]] = []
        merged = self._merged(rights, wanted, before, limit)
        scanned, more = 0, True
        while more and scanned < MAX_SCANNED:
            portion: list[Listed] = []
            size = min(max(limit + 1 - len(tasks), MIN_PORTION), MAX_PORTION)
            while len(portion) < size and scanned < MAX_SCANNED:
                listed = await anext(merged, None)
                if listed is None:
                    more = False
                    break
                scanned += 1
                scanned_to = listed.first_offset
                if rights.shows(listed.key, listed.details) and shown(listed.key):
                    portion.append(listed)
            for listed, event in await self._matching(portion, wanted):
                if len(tasks) == limit:
                    return TaskPage(tasks, before)
                tasks.append((event, listed.details))
                before = listed.first_offset
            await asyncio.sleep(0)
        return TaskPage(tasks, scanned_to if more else 0)

    async def _matching(self, portion: Sequence[Listed], wanted: TaskFilter) -> list[tuple[Listed, Event]]:
        events = await self._journal.latest([listed.key for listed in portion]) if portion else []
        return [
            (listed, event)
            for listed, event in zip(portion, events, strict=True)
            if event is not None and (wanted.statuses is None or event.state.status in wanted.statuses)
        ]

    async def _merged(
        self, rights: CallerRights, wanted: TaskFilter, before: int, limit: int
    ) -> AsyncIterator[Listed]:
        """Every task that the caller may be able to read, newest first, each once."""
        found = list(_sources(rights, wanted))
        portion = min(max(2 * limit // (len(found) or 1), MIN_PORTION), MAX_PORTION)
        listings = [self._listing(rights.account, source, before, portion) for source in found]
        listings.append(self._named(rights, wanted, before))
        heap: list[tuple[int, int, Listed]] = []
        for number, listing in enumerate(listings):
            first = await anext(listing, None)
            if first is not None:
                heap.append((-first.first_offset, number, first))
        heapq.heapify(heap)
        place = 0
        while heap:
            _, number, listed = heap[0]
            following = await anext(listings[number], None)
            if following is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (-following.first_offset, number, following))
            if listed.first_offset != place:  # else another listing had it too
                place = listed.first_offset
                yield listed

    async def _listing(
        self, account: str, source: _Source, before: int, portion: int
    ) -> AsyncIterator[Listed]:
        while True:
            found = await self._journal.listing(
                source.upstream, account, tag=source.tag, group=source.group, before=before, limit=portion
            )
            for listed in found:
                yield listed
            if len(found) < portion:
                return
            before, portion = found[-1].first_offset, min(2 * portion, MAX_PORTION)

    async def _named(self, rights: CallerRights, wanted: TaskFilter, before: int) -> AsyncIterator[Listed]:
        """The tasks that the credential names one by one."""
        grant = rights.tasks
        if grant is None or not grant.refs or wanted.tag or wanted.group:
            return  # the listings of a tag or a group have them
        refs = sorted(grant.refs)[:MAX_REFS]
        keys = [TaskKey.parse(ref, rights.account) for ref in refs]
        keys = [
            key for key in keys if key.upstream in wanted.upstreams and key.upstream not in grant.upstreams
        ]
        if not keys:
            return
        places = await self._journal.places(keys)
        placed = sorted(zip(places, keys, strict=True), reverse=True)
        placed = [(place, key) for place, key in placed if place and (not before or place < before)]
        for start in range(0, len(placed), MAX_PORTION):
            some = placed[start : start + MAX_PORTION]
            details = await self._journal.details_of([key for _, key in some])
            for (place, key), known in zip(some, details, strict=True):
                yield Listed(place, key, known)


def _sources(rights: CallerRights, wanted: TaskFilter) -> Iterator[_Source]:
    """The listings that have everything the caller may read, but what it is named one by one."""
    grant = rights.tasks
    for upstream in wanted.upstreams:
        if grant is None or upstream in grant.upstreams:
            yield _Source(upstream, wanted.tag, wanted.group)
        elif wanted.tag or wanted.group:
            if grant.touches(upstream):
                yield _Source(upstream, wanted.tag, wanted.group)
        else:
            yield from (_Source(upstream, tag=tag) for tag in sorted(grant.tags))
            yield from (_Source(upstream, group=group) for group in sorted(grant.groups))
