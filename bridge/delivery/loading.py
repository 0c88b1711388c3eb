"""Reads all members of a selection: once for all its followers, and again when what is known may be wrong.

Register first, read second: what is recorded and described while members are read counts more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bridge.clock import Clock
from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.core.selection import Selection, SelectionKind
from bridge.core.task import TaskKey
from bridge.delivery import members
from bridge.delivery.groups import Groups
from bridge.delivery.members import Members, shared
from bridge.delivery.selected import LiveSelection, SelectedTask, is_watched
from bridge.errors import BridgeError
from bridge.journal.base import Journal, Listed

RETRY_SECONDS = 1.0
STATES_READ = 500
"""At once: whole documents."""

_PAGE = 1_000  # members read at once

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Meanwhile:
    """What was recorded while members were read.

    Args:
        states: The newest of each task that changed.
        details: What tasks are known by now; None for one that was deleted.
    """

    states: dict[TaskKey, Event] = field(default_factory=dict)
    details: dict[TaskKey, TaskDetails | None] = field(default_factory=dict)


class Loading:
    """Loads the members of live selections.

    Args:
        upstreams: The names of all, as they are when members are read.
    """

    def __init__(
        self, members: Members, journal: Journal, groups: Groups, clock: Clock, upstreams: Iterable[str]
    ) -> None:
        self._members = members
        self._journal = journal
        self._groups = groups
        self._clock = clock
        self._upstreams = upstreams
        self._loading: dict[LiveSelection, _Meanwhile] = {}

    def recorded(self, event: Event) -> None:
        """A state of any task was recorded."""
        for live, meanwhile in self._loading.items():
            if event.key.account == live.selection.account:
                meanwhile.states[event.key] = event

    def described(self, key: TaskKey, details: TaskDetails | None) -> None:
        """A task has these details now; None if it was deleted."""
        for live, meanwhile in self._loading.items():
            if key.account == live.selection.account:
                meanwhile.details[key] = details

    async def load(self, live: LiveSelection) -> None:
        """Wait until the members are known; the first to come reads them for all."""
        while not live.loaded:
            if live.loading is None:
                live.loading = self._members.start(self._read_members(live))
            await shared(live.loading)

    def reload(self, live: LiveSelection) -> None:
        """What is known of its members may be out of date."""
        live.loaded = False
        live.events = None
        if live.loading is not None:
            live.loading.cancel()
            live.loading = None
        if live.followers:
            self._members.start(self._load_again(live))

    async def _load_again(self, live: LiveSelection) -> None:
        while self._members.is_alive(live) and live.followers and not live.loaded:
            try:
                await self.load(live)
            except BridgeError as error:
                logger.warning("selection not loaded", extra={"error": str(error)})
                await self._clock.sleep(RETRY_SECONDS)

    async def _read_members(self, live: LiveSelection) -> None:
        """Read all members; what is recorded and described meanwhile counts more."""
        meanwhile = self._loading[live] = _Meanwhile()
        try:
            # Before the members: what was added to a group before it was closed is among them then.
            is_group = live.selection.kind is SelectionKind.GROUP
            closed = is_group and await self._groups.is_closed(live.selection)
            listed = [one async for one in self.listing(live.selection) if live.shows(one.key, one.details)]
            # The newest last, as `LiveSelection.members` has them.
            listed.sort(key=_rank)
            del listed[: -members.MAX_MEMBERS]
            hidden = await self._members.hidden([one.key for one in reversed(listed)])
            states = await self._states_of([one for one in listed if one.key not in hidden])
            states |= await self._unlisted(live, {one.key for one in listed}, meanwhile)
            self._replace_hidden(live, [one for one in listed if one.key in hidden])
            live.closed = live.closed or closed
            self._replace_members(live, states)
            live.loaded = True
        finally:
            # Another load may have begun, or be about to, if this one was cancelled.
            if self._loading.get(live) is meanwhile:
                del self._loading[live]
            if live.loading is asyncio.current_task():
                live.loading = None
        for key, details in meanwhile.details.items():
            if details is None:
                self._members.remove(live, key)
            else:
                self._members.describe(live, key, details)
        for event in meanwhile.states.values():
            self._members.take(live, event)
        self._members.on_change(live)

    async def _states_of(self, listed: Sequence[Listed]) -> dict[TaskKey, SelectedTask]:
        """What is known of these tasks, without those that were deleted meanwhile."""
        states: dict[TaskKey, SelectedTask] = {}
        for start in range(0, len(listed), STATES_READ):
            portion = listed[start : start + STATES_READ]
            events = await self._journal.latest([one.key for one in portion])
            for one, event in zip(portion, events, strict=True):
                if event is not None:
                    status, offset = event.state.status, event.cursor.offset
                    states[one.key] = SelectedTask(status, offset, one.details.since, _rank(one))
        return states

    async def _unlisted(
        self, live: LiveSelection, listed: set[TaskKey], meanwhile: _Meanwhile
    ) -> dict[TaskKey, SelectedTask]:
        """The members that the engine has lost, and that are recorded again soon, or were meanwhile.

        They stay: without them a closed group seems to be done, and the end of one would come twice.
        """
        missing = [key for key in live.members if key not in listed]
        unlisted: dict[TaskKey, SelectedTask] = {}
        for start in range(0, len(missing), STATES_READ):
            portion = missing[start : start + STATES_READ]
            for key, event in zip(portion, await self._journal.latest(portion), strict=True):
                member, described = live.members.get(key), key in meanwhile.details
                details = meanwhile.details[key] if described else self._journal.details(key)
                if member is None or event is None or details is None or not live.shows(key, details):
                    continue
                if described or event.cursor.shown:
                    status, offset = event.state.status, event.cursor.offset
                    unlisted[key] = member._replace(status=status, offset=offset)
        return unlisted

    def _replace_hidden(self, live: LiveSelection, listed: Sequence[Listed]) -> None:
        for key in live.hidden.keys() - {one.key for one in listed}:
            self._members.remove(live, key, check=False)
        for one in listed:
            self._members.hide(live, one.key, one.details)

    def _replace_members(self, live: LiveSelection, states: Mapping[TaskKey, SelectedTask]) -> None:
        before, live.reached = dict(live.members), 0
        for key in before.keys() - states.keys():
            self._members.remove(live, key, check=False)
        for key, member in states.items():
            live.put(key, member)
            self._members.link(live, key)
            known = before.get(key)
            came = known is None or (is_watched(member.status) and not is_watched(known.status))
            if live.collected and came:
                # It came, or was deleted and began again, while nothing was received.
                live.late[key] = None
        live.members = {key: live.members[key] for key in sorted(states, key=lambda key: states[key].rank)}
        live.count_unshown()
        if live.late:
            self._members.on_late(live)

    async def listing(self, selection: Selection) -> AsyncIterator[Listed]:
        """Every task of a selection, of one upstream after the other."""
        is_tag = selection.kind is SelectionKind.TAG
        tag, group = (selection.name, "") if is_tag else ("", selection.name)
        for upstream in list(self._upstreams):
            before = 0
            while True:
                page = await self._journal.listing(
                    upstream, selection.account, tag=tag, group=group, before=before, limit=_PAGE
                )
                for one in page:
                    yield one
                if len(page) < _PAGE:
                    break
                before = page[-1].first_offset


def _rank(listed: Listed) -> int:
    return max(listed.first_offset, listed.details.since)
