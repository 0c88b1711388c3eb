"""Who is a member of the selections that are followed here, and which of them the hub watches.

A task is a member while the selection selects it, the rights show it, and its provider shows it to its
account. All three are asked whenever its details change; a task that leaves says nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.core.selection import Selection
from bridge.core.task import Status, TaskKey
from bridge.delivery import selected
from bridge.delivery.selected import (
    LiveSelection,
    SelectedTask,
    TaskRights,
    is_watched,
    selections_of,
)
from bridge.delivery.subscriptions import JOINED_PER_TURN
from bridge.errors import BridgeError
from bridge.hub.collection import Collection
from bridge.hub.hub import Hub
from bridge.journal.base import Journal

MAX_MEMBERS = 50_000
"""Of one selection; of more the newest ones are followed."""

RELEASED_PER_TURN = 200  # members
_SPARE = 1_000  # above `MAX_MEMBERS`, so that not each new one makes room for itself

logger = logging.getLogger(__name__)


class OwnershipChecks(Protocol):
    """Whether the provider shows a task to its account (`bridge.auth.authenticator`)."""

    async def verify_ownership(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, BridgeError]:
        """The tasks that are not shown, each with the reason; raises `Unauthenticated`."""

    def is_shown(self, key: TaskKey) -> bool:
        """Whether the task may be shown now, without a request to the provider."""


class Members:
    """The live selections of this process, and the members of each.

    Attributes:
        on_late: Called with a selection that has members whose states are still to be shown.
        on_change: Called with one of which something has ended or left.
    """

    def __init__(self, journal: Journal, hub: Hub, ownership: OwnershipChecks) -> None:
        self._journal = journal
        self._hub = hub
        self._ownership = ownership
        self._lives: dict[Selection, dict[Hashable, LiveSelection]] = {}
        self._of_key: dict[TaskKey, list[LiveSelection]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_late: Callable[[LiveSelection], None] = _nothing
        self.on_change: Callable[[LiveSelection], None] = _nothing

    # The live selections

    def live(self, selection: Selection, rights: TaskRights) -> LiveSelection:
        """The one of a selection and rights; a new one is not loaded yet."""
        by_rights = self._lives.setdefault(selection, {})
        live = by_rights.get(rights)
        if live is None:
            live = by_rights[rights] = LiveSelection(selection, rights)
        return live

    def of(self, selection: Selection) -> list[LiveSelection]:
        """Those of a selection, one for each set of rights."""
        return list(self._lives.get(selection, {}).values())

    def all(self) -> list[LiveSelection]:
        """All of them."""
        return [live for by_rights in self._lives.values() for live in by_rights.values()]

    def is_alive(self, live: LiveSelection) -> bool:
        """Whether it was not forgotten."""
        return self._lives.get(live.selection, {}).get(live.rights) is live

    def drop(self, live: LiveSelection) -> None:
        """Forget a selection without followers."""
        if live.users or not self.is_alive(live):
            return
        by_rights = self._lives[live.selection]
        del by_rights[live.rights]
        if not by_rights:
            del self._lives[live.selection]
        for task in (live.loading, live.collecting, live.showing):
            if task is not None:
                task.cancel()
        for key in [*live.members, *live.hidden]:
            self._unlink(live, key)
        members = list(live.collection.members)
        live.members.clear()
        live.hidden.clear()
        self._release_members(live.collection, members)

    def _release_members(self, collection: Collection, keys: Sequence[TaskKey], start: int = 0) -> None:
        """End the interest in tasks without followers, some at each turn of the event loop."""
        end = start + RELEASED_PER_TURN
        for key in keys[start:end]:
            self._hub.release_member(collection, key)
        if end < len(keys):
            asyncio.get_running_loop().call_soon(self._release_members, collection, keys, end)

    def link(self, live: LiveSelection, key: TaskKey) -> None:
        """From now on, it takes what comes of a task."""
        lives = self._of_key.setdefault(key, [])
        if live not in lives:
            lives.append(live)

    def _unlink(self, live: LiveSelection, key: TaskKey) -> None:
        lives = self._of_key.get(key)
        if lives is not None and live in lives:
            lives.remove(live)
            if not lives:
                del self._of_key[key]

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background until `close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, BridgeError):
            logger.error("unhandled exception in selection", exc_info=error)

    async def close(self) -> None:
        """End what runs in the background."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What the journal says

    def recorded(self, event: Event) -> None:
        """A state of any task was recorded; the hub has it already."""
        lives = self._of_key.get(event.key)
        if lives is not None:
            for live in list(lives):
                self.take(live, event)

    def described(self, key: TaskKey, details: TaskDetails) -> None:
        """A task has these details now."""
        known = self._of_key.get(key)
        for live in [*known] if known else ():
            self.describe(live, key, details)
        for selection in selections_of(key, details):
            for live in self.of(selection):
                if key not in live.members:
                    self.describe(live, key, details)

    def forgotten(self, key: TaskKey) -> None:
        """A task was deleted."""
        for live in list(self._of_key.get(key, ())):
            self.remove(live, key)

    # Members

    def describe(self, live: LiveSelection, key: TaskKey, details: TaskDetails) -> None:
        """A task has these details now."""
        if not live.loaded:
            return  # what is being read, or will be, has them
        if not live.shows(key, details):
            self.remove(live, key)
            return
        member = live.members.get(key)
        if member is not None:
            rank = max(member.rank, details.since)
            live.put(key, member._replace(since=details.since, rank=rank))
        elif self._ownership.is_shown(key):
            self._add(live, key, details, known=bool(details.since))
        else:
            self.hide(live, key, details)
            live.unverified[key] = None
            self.on_late(live)

    def _add(self, live: LiveSelection, key: TaskKey, details: TaskDetails, *, known: bool) -> None:
        """A task is a member from now on.

        Args:
            known: Whether it had a state before. Else its first one follows in this turn of the event loop.
        """
        rank = max(self._journal.head, details.since)
        live.put(key, SelectedTask(Status.UNKNOWN, 0, details.since, rank))
        self.link(live, key)
        if known:
            live.late[key] = None
        else:
            live.fresh[key] = None
            if live.collected:
                self.collect_member(live, key)
        live.count_unshown()
        self.on_late(live)
        if len(live.members) > MAX_MEMBERS + _SPARE:
            self._make_room(live)

    def _make_room(self, live: LiveSelection) -> None:
        ended = (key for key, member in live.members.items() if not is_watched(member.status))
        for key in list(islice(ended, _SPARE)):
            self.remove(live, key)

    def hide(self, live: LiveSelection, key: TaskKey, details: TaskDetails) -> None:
        """A task would be a member, but for its provider, which does not show it to its account."""
        if key not in live.members:
            live.hidden[key] = details
            live.count_unshown()
            self.link(live, key)

    def remove(self, live: LiveSelection, key: TaskKey, *, check: bool = True) -> None:
        """A task has left the selection."""
        was_hidden = live.hidden.pop(key, None) is not None
        if key not in live.members:
            if was_hidden:
                live.count_unshown()
                self._unlink(live, key)
            return
        live.remove(key)
        self._unlink(live, key)
        if live.collected:
            self._hub.release_member(live.collection, key)
        if check:
            self.on_change(live)

    def take(self, live: LiveSelection, event: Event) -> None:
        """A state of a task was recorded; the hub has it already."""
        key, cursor = event.key, event.cursor
        if key in live.hidden and self._ownership.is_shown(key):
            self.reveal(live, [key])
        member = live.members.get(key)
        if member is None or cursor.offset < member.offset:
            return
        status = event.state.status
        live.put(key, member._replace(status=status, offset=cursor.offset))
        if live.events is not None:
            live.events[key] = event
        if key in live.late:
            live.late[key] = event  # not sent yet: `_show` will
            return
        if live.fresh:
            live.fresh.pop(key, None)
            live.count_unshown()
        if live.collected and key in live.uncollected:
            # The hub does not follow it, and has not sent it.
            del live.uncollected[key]
            if is_watched(status):
                self.collect_member(live, key)
            self._hub.show(live.collection, event)
        if status.final:
            self.on_change(live)

    async def collect(self, live: LiveSelection) -> None:
        """Wait until the hub follows every open member; the first follower starts their watches."""
        if not live.collected and not live.finished:
            live.collected = True
            live.collecting = self.start(self._collect_members(live))
        if live.collecting is not None:
            await shared(live.collecting)

    async def _collect_members(self, live: LiveSelection) -> None:
        """Some at each turn of the event loop: each may start a watch."""
        watched = [key for key, member in live.members.items() if is_watched(member.status)]
        for start in range(0, len(watched), JOINED_PER_TURN):
            if start:
                await asyncio.sleep(0)
            for key in watched[start : start + JOINED_PER_TURN]:
                member = live.members.get(key)
                if member is not None and is_watched(member.status) and key not in live.late:
                    self.collect_member(live, key)
        live.collecting = None

    def collect_member(self, live: LiveSelection, key: TaskKey) -> None:
        try:
            self._hub.collect(live.collection, key)
        except BridgeError:
            # The key of its account is no longer held: nothing comes until another request brings it.
            live.uncollected[key] = None
        else:
            live.uncollected.pop(key, None)

    # Whose provider shows what

    async def hidden(self, keys: Sequence[TaskKey]) -> set[TaskKey]:
        """The tasks that are not shown to their account, or not yet; asks about the first ones at most."""
        hidden = [key for key in keys if not self._ownership.is_shown(key)]
        if not hidden:
            return set()
        asked = hidden[: selected.OPENED]
        denied = await self._ownership.verify_ownership(asked)
        return {*denied, *hidden[selected.OPENED :]}

    async def verify_hidden(self, live: LiveSelection) -> None:
        """Ask again about tasks that were not shown."""
        if live.hidden:
            denied = await self.hidden(list(live.hidden))
            self.reveal(live, [key for key in live.hidden if key not in denied])

    def reveal(self, live: LiveSelection, keys: Iterable[TaskKey]) -> None:
        """The provider shows these tasks to their account: they are members."""
        for key in keys:
            details = live.hidden.pop(key, None)
            if details is not None and key not in live.members:
                self._add(live, key, details, known=True)
        live.count_unshown()


async def shared(task: asyncio.Task[None]) -> None:
    """Wait for what others wait for too; they continue if this one is cancelled."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if not task.cancelled() or (current is not None and current.cancelling()):
            raise
        # It began again, with another task.
    except BridgeError as error:
        # Without its traceback, which would grow with every caller that gets this exception.
        raise error.with_traceback(None) from None


def _nothing(_live: LiveSelection) -> None:
    """Until `Selections` has set another one."""
