"""What one selection has: its members and what has become of them, and what its followers ask for.

Nothing here waits. `bridge.delivery.members` changes it.
"""

from __future__ import annotations

import asyncio
from base64 import b32encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple, Protocol

from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.core.selection import Selection, SelectionKind
from bridge.core.task import Status, TaskKey
from bridge.hub.collection import Collection
from bridge.hub.subscription import Subscription

OPENED = 1_000
"""States that a follower begins with: the newest members."""


class TaskRights(Protocol):
    """What a caller may read; hashable, and equal for two callers that may read the same."""

    def __hash__(self) -> int: ...

    def shows(self, key: TaskKey, details: TaskDetails) -> bool:
        """Whether they cover a task with these details."""

    def covers_selection(self, selection: Selection) -> bool:
        """Whether they cover every task of a selection, also future ones."""


class SelectedTask(NamedTuple):
    """A task of a selection.

    Args:
        offset: Of its newest state; 0 before it is known.
        since: See `TaskDetails`.
        rank: Its order among the members: the place of its first state, or `since` if that is later.
    """

    status: Status
    offset: int
    since: int
    rank: int

    @property
    def is_open(self) -> bool:
        """Whether more will come of it."""
        return not self.status.final


class Summary(NamedTuple):
    """What has become of a group.

    Args:
        counts: How many of its tasks have ended, by status.
        unfinished: How many have not.
    """

    counts: Mapping[str, int]
    unfinished: int


@dataclass(frozen=True, slots=True)
class FollowRequest:
    """One parsed request for the events of a tag or a group.

    Args:
        token: The last event id the client sent.
        has_room: Whether a first burst of so many bytes may wait for the client.
    """

    selection: Selection
    rights: TaskRights
    token: str | None = None
    has_room: Callable[[int], bool] = lambda _: True

    @property
    def mark(self) -> str:
        """What the event ids of this selection carry."""
        return mark_of_selection(self.selection, self.rights)

    @property
    def end_mark(self) -> str:
        """What the id of its `group_done` carries."""
        return mark_of_selection(self.selection, self.rights, end=True)


class LiveSelection:
    """The members of one selection, as far as one set of rights shows them.

    Attributes:
        collection: Its followers and open members in the hub.
        members: By rank, the last one is the newest.
        counts: How many members have each status.
        fresh: Members whose first state is about to be recorded.
        late: Members that have a state and were not sent yet, because they were registered later, each with
            what was recorded meanwhile.
        hidden: Tasks that their provider has not shown to their account yet.
        unverified: Those of them about which it has not been asked.
        uncollected: Open members whose watch could not be started.
        closed: Whether the group is closed.
        loaded: Whether `members` are all that there are.
        collected: Whether the hub follows the open members, or is about to.
        users: Followers and requests that keep it alive.
        events: Newest states of some members, kept while followers join; None otherwise.
        opening: Requests that read them.
        reached: The newest offset of what its members have shown, and of their tagging.
    """

    def __init__(self, selection: Selection, rights: TaskRights) -> None:
        self.selection = selection
        self.rights = rights
        self.collection = Collection(selection, mark_of_selection(selection, rights))
        self.members: dict[TaskKey, SelectedTask] = {}
        self.counts: Counter[Status] = Counter()
        self.fresh: dict[TaskKey, None] = {}
        self.late: dict[TaskKey, Event | None] = {}
        self.hidden: dict[TaskKey, TaskDetails] = {}
        self.unverified: dict[TaskKey, None] = {}
        self.uncollected: dict[TaskKey, None] = {}
        self.followers: dict[Subscription, None] = {}
        self.closed = False
        self.loaded = False
        self.collected = False
        self.users = 0
        self.events: dict[TaskKey, Event] | None = None
        self.opening = 0
        self.reached = 0
        self.loading: asyncio.Task[None] | None = None
        self.collecting: asyncio.Task[None] | None = None
        self.showing: asyncio.Task[None] | None = None
        self.reading = asyncio.Lock()

    def shows(self, key: TaskKey, details: TaskDetails) -> bool:
        """Whether a task with these details belongs to it."""
        return self.selection.selects(key, details) and self.rights.shows(key, details)

    @property
    def summary(self) -> Summary:
        """What has become of its members."""
        ended = {status.value: count for status, count in self.counts.items() if status.final and count}
        return Summary(dict(sorted(ended.items())), len(self.members) - sum(ended.values()))

    @property
    def ended(self) -> bool:
        """Whether it is a closed group of which everything has ended."""
        return self.closed and self.loaded and not (self.late or self.fresh) and self.summary.unfinished == 0

    @property
    def finished(self) -> bool:
        """Whether `group_done` is sent to its followers.

        A caller that can read none of its tasks must not learn of the group, unless it covers all of it:
        for that caller it is as one that does not exist.
        """
        return self.ended and (bool(self.members) or self.rights.covers_selection(self.selection))

    def count_unshown(self) -> None:
        """Count what was not sent: no id may run over it (`Collection.unshown`, `Collection.hides`)."""
        self.collection.unshown = len(self.late) + len(self.fresh)
        self.collection.hides = bool(self.hidden)

    def put(self, key: TaskKey, member: SelectedTask) -> None:
        """Add a member, or replace what is known of it."""
        before = self.members.get(key)
        if before is not None:
            self.counts[before.status] -= 1
            if before.rank != member.rank:
                del self.members[key]  # it is the newest now
        self.counts[member.status] += 1
        self.members[key] = member
        self.reached = max(self.reached, member.offset, member.since)

    def remove(self, key: TaskKey) -> None:
        """Leave it out."""
        member = self.members.pop(key, None)
        if member is not None:
            self.counts[member.status] -= 1
        self.late.pop(key, None)
        self.fresh.pop(key, None)
        self.count_unshown()
        self.uncollected.pop(key, None)
        if self.events is not None:
            self.events.pop(key, None)

    def newest(self) -> list[TaskKey]:
        """What a new follower begins with."""
        return list(islice(reversed(self.members), OPENED))

    def newer(self, after: int) -> list[TaskKey]:
        """What a follower lacks that has seen everything up to `after`."""
        return [
            key
            for key, member in self.members.items()
            if member.offset > after or (member.since and member.since >= after)
        ]


def mark_of_selection(selection: Selection, rights: TaskRights, *, end: bool = False) -> str:
    """The mark of a selection as one set of rights shows it: 8 characters, the same in every process.

    With the rights: a client that may read more has not seen the rest.

    Args:
        end: The one that `group_done` carries: its client needs nothing more.
    """
    text = "\n".join([*selection, *_words_of(rights), "end" if end else ""])
    return b32encode(blake2b(text.encode(), digest_size=5).digest()).decode().lower()


def _words_of(value: object) -> Iterator[str]:
    """The words of a value made of tuples, sets and dataclasses, in a fixed order."""
    if is_dataclass(value) and not isinstance(value, type):
        value = tuple(getattr(value, one.name) for one in fields(value))
    if isinstance(value, frozenset):
        value = tuple(sorted(value))
    if isinstance(value, tuple):
        yield f"({len(value)}"
        for one in value:
            yield from _words_of(one)
    else:
        yield "" if value is None else f"={value}"


def selections_of(key: TaskKey, details: TaskDetails) -> Iterator[Selection]:
    """Every selection that a task with these details belongs to."""
    for tag in details.tags:
        yield Selection(SelectionKind.TAG, tag, key.account)
    if details.group is not None:
        yield Selection(SelectionKind.GROUP, details.group, key.account)


def is_watched(status: Status) -> bool:
    """Whether more may come of a task: a real end may replace `lost`."""
    return not status.final or status is Status.LOST
