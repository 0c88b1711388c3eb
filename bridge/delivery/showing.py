"""Shows members that have a state already: they were tagged late, or their provider was asked first.

Their states were recorded before, so that nothing would bring them. They are sent without an id where a
follower's cursor is beyond them.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from bridge.clock import Clock
from bridge.core.event import Event
from bridge.delivery.loading import RETRY_SECONDS, STATES_READ
from bridge.delivery.members import Members
from bridge.delivery.selected import LiveSelection, is_watched
from bridge.errors import JournalError, Unauthenticated
from bridge.hub.hub import Hub
from bridge.journal.base import Journal


class Showing:
    """Sends late members to all followers, some at a time."""

    def __init__(self, members: Members, journal: Journal, hub: Hub, clock: Clock) -> None:
        self._members = members
        self._journal = journal
        self._hub = hub
        self._clock = clock

    def soon(self, live: LiveSelection) -> None:
        """Show what was tagged late, after this turn of the event loop: a new task has its state then."""
        if live.showing is None:
            asyncio.get_running_loop().call_soon(self._start_showing, live)

    def _start_showing(self, live: LiveSelection) -> None:
        live.late |= dict.fromkeys(live.fresh)
        live.fresh.clear()
        if (live.late or live.unverified) and live.showing is None and self._members.is_alive(live):
            live.showing = self._members.start(self._show(live))

    async def _show(self, live: LiveSelection) -> None:
        try:
            while live.late or live.unverified:
                try:
                    await self._show_some(live)
                except JournalError:
                    await self._clock.sleep(RETRY_SECONDS)
        finally:
            live.showing = None

    async def _show_some(self, live: LiveSelection) -> None:
        if live.unverified:
            asked, live.unverified = list(live.unverified), {}
            try:
                denied = await self._members.hidden(asked)
            except Unauthenticated:
                return  # the watches of its tasks end the streams of this key
            self._members.reveal(live, [key for key in asked if key not in denied])
        keys = list(islice(live.late, STATES_READ))
        read = await self._journal.latest(keys)
        for key, event in zip(keys, read, strict=True):
            if key not in live.late:
                continue
            newest = _newer(live.late.pop(key), event)
            live.count_unshown()
            if newest is None:
                self._members.remove(live, key, check=False)
                continue
            status, offset = newest.state.status, newest.cursor.offset
            live.put(key, live.members[key]._replace(status=status, offset=offset))
            if live.events is not None:
                live.events[key] = newest
            if live.collected:
                if is_watched(status):
                    self._members.collect_member(live, key)
                self._hub.show(live.collection, newest)
        self._members.on_change(live)


def _newer(recorded: Event | None, read: Event | None) -> Event | None:
    if recorded is None or read is None:
        return recorded or read
    return read if read.cursor.offset > recorded.cursor.offset else recorded
