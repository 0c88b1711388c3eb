"""What a follower begins with: all of the newest members, or what is newer than its cursor.

A cursor says up to where its client has seen the members. A task that was tagged later has been recorded
before: its `since` is compared as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.core.cursor import EventId
from bridge.core.event import Event
from bridge.core.resume import Position, Resume, locate
from bridge.core.task import TaskKey
from bridge.delivery.loading import STATES_READ, Loading
from bridge.delivery.members import Members
from bridge.delivery.selected import FollowRequest, LiveSelection
from bridge.hub.subscription import Subscription
from bridge.journal.base import Journal

KEPT_EVENTS_SECONDS = 1.0
"""How long the states read for a follower are kept for the next one."""


@dataclass(slots=True, eq=False)
class PendingFollow:
    """A follower that was registered, and has been sent nothing yet.

    Args:
        epoch: Of the journal when `position` was decided.
        ended: Whether nothing more will come, and the client has seen it all.
        partial: Whether members are missing that may be shown later.
    """

    subscription: Subscription
    request: FollowRequest
    live: LiveSelection
    position: Position
    epoch: str
    ended: bool = False
    partial: bool = False


class FirstStates:
    """Decides what a follower lacks, and reads it."""

    def __init__(self, members: Members, loading: Loading, journal: Journal) -> None:
        self._members = members
        self._loading = loading
        self._journal = journal

    async def locate(self, request: FollowRequest) -> tuple[str, Position]:
        """Where the client left off, and the epoch in which that holds."""
        epoch, token = self._journal.epoch, request.token
        event_id = EventId.parse(token) if token else None
        sure = event_id is None or await self._journal.caught_up(event_id.cursor)
        if event_id is not None and event_id.mark == request.end_mark:
            token = str(event_id._replace(mark=request.mark))
        return epoch, locate(token, request.mark, epoch=epoch, head=self._journal.head, sure=sure)

    def has_seen_end(self, request: FollowRequest, live: LiveSelection) -> bool:
        """Whether the client has received `group_done`, and nothing has changed since."""
        event_id = EventId.parse(request.token) if request.token else None
        return (
            event_id is not None
            and live.ended
            and event_id.mark == request.end_mark
            and event_id.cursor.epoch == self._journal.epoch
            and live.reached <= event_id.cursor.offset
        )

    def resume_of(self, pending: PendingFollow) -> Resume | None:
        """The result for a client that came with a cursor; None for another."""
        position = pending.position
        if not position.resumes:
            return None
        if pending.ended:
            return Resume.ENDED
        if position.reset_reason is not None:
            return Resume.RESET
        return Resume.NEWER if self._wanted(pending) else Resume.CURRENT

    def _wanted(self, pending: PendingFollow) -> list[TaskKey]:
        """The members whose states the client lacks."""
        position, live = pending.position, pending.live
        if position.after is not None:
            return live.newer(position.after)
        # It may have seen more than is known here, of any of them: nothing, until this process has caught up.
        return [] if position.ahead else live.newest()

    async def events(self, pending: PendingFollow) -> list[Event]:
        """Their newest states, oldest first, as they are in this turn of the event loop."""
        live = pending.live
        live.opening += 1
        try:
            while True:
                if pending.epoch != self._journal.epoch or not live.loaded:
                    await self._loading.load(live)
                    pending.epoch, pending.position = await self.locate(pending.request)
                    continue
                keys = self._wanted(pending)
                if live.events is None:
                    live.events = {}
                known = live.events
                if all(key in known for key in keys):
                    return sorted((known[key] for key in keys), key=_offset)
                async with live.reading:
                    await self._read(live, [key for key in keys if key not in known])
        finally:
            live.opening -= 1
            if not live.opening:
                asyncio.get_running_loop().call_later(KEPT_EVENTS_SECONDS, self._forget_events, live)

    async def _read(self, live: LiveSelection, keys: Sequence[TaskKey]) -> None:
        known = live.events
        for start in range(0, len(keys), STATES_READ):
            portion = [
                key for key in keys[start : start + STATES_READ] if known is not None and key not in known
            ]
            if not portion:
                continue
            events = await self._journal.latest(portion)
            if known is not live.events or known is None:
                return  # of another history
            for key, event in zip(portion, events, strict=True):
                if event is None:
                    self._members.remove(live, key)
                else:
                    known.setdefault(key, event)  # what was recorded meanwhile is newer

    def _forget_events(self, live: LiveSelection) -> None:
        if not live.opening:
            live.events = None


def _offset(event: Event) -> int:
    return event.cursor.offset
