"""What followers of a collection get where several processes write to the journal, rule by rule."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from bridge.core.cursor import EventId
from bridge.core.event import Event
from bridge.core.resume import locate
from bridge.core.selection import Selection, SelectionKind
from bridge.hub.collection import Collection
from bridge.hub.subscription import Subscription
from bridge.wire.formats import SseFormat
from bridge.wire.frames import format_of
from tests.fakes.shared import KEYS, LAST, Replica, version
from tests.fakes.writers import RecordingWriter
from tests.unit.hub.test_shared_history import Place, _what

ONE, OTHER, THIRD = KEYS
MARKED = format_of(SseFormat, mark="abcd2345")


class Follower:
    """What one stream was written."""

    def __init__(self, subscription: Subscription, writer: RecordingWriter) -> None:
        self.subscription = subscription
        self.writer = writer

    @property
    def got(self) -> list[int | str]:
        """Versions of states, and names of control events."""
        events = [one for one in self.writer.events if one.name != "done"]
        return [_what(one.data) if one.name is None else one.name for one in events]

    @property
    def ids(self) -> list[int | None]:
        """The offset in the id of each state; None for one without."""
        blocks = self.writer.sent.decode().split("\n\n")
        states = [block for block in blocks if "data:" in block and "event:" not in block]
        found = [re.search(r"^id: (.*)$", block, re.MULTILINE) for block in states]
        parsed = [EventId.parse(one[1]) if one else None for one in found]
        return [one.cursor.offset if one else None for one in parsed]


class Followed(Place):
    """Two replicas, each with a collection of all tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.collections: dict[int, Collection] = {}

    def collection(self, replica: Replica) -> Collection:
        """That of a replica."""
        if id(replica) not in self.collections:
            made = self.collections[id(replica)] = Collection(Selection(SelectionKind.TAG, "all"))
            for key in KEYS:
                replica.hub.collect(made, key)
        return self.collections[id(replica)]

    def follow(self, replica: Replica, token: str | None = None, events: Iterable[Event] = ()) -> Follower:
        """A client comes with its last id, and is sent what is held."""
        event_id = EventId.parse(token) if token else None
        sure = event_id is None or self.loop.run(replica.caught_up(event_id.cursor))
        position = locate(token, MARKED.mark, epoch=replica.epoch, head=replica.head, sure=sure)
        floor = -1 if position.after is None else position.after
        writer = RecordingWriter(MARKED)
        subscription = replica.subscriptions.reserve(MARKED)
        subscription.begin(writer, MARKED)
        held = [one for one in self.loop.run(replica.latest(KEYS)) if one is not None]
        with self.loop.running():
            replica.hub.listen(
                subscription,
                self.collection(replica),
                [*events, *(one for one in held if one.cursor.shown or one.cursor.offset > floor)],
                floor=floor,
                position=position,
                resumed=position.epoch,
            )
        return Follower(subscription, writer)

    def token(self, event: Event) -> str:
        """The id of a state in this list."""
        return f"{event.cursor}.{MARKED.mark}"

    def away(self, replica: Replica) -> None:
        """It does not reach the engine."""
        replica.up = False


@pytest.fixture
def place() -> Followed:
    """Nothing was recorded."""
    return Followed()


def test_what_is_not_recorded_is_shown_without_an_id(place: Followed) -> None:
    follower = place.follow(place.a)
    first = place.record(1)
    place.hear()
    place.away(place.a)
    place.see(place.a, 2)
    place.see(place.a, 2)
    assert follower.got == [1, 2]
    assert follower.ids == [first.cursor.offset, None]
    place.return_of(place.a)
    place.hear()
    assert follower.got == [1, 2], "the same state again"


def test_what_is_heard_late_is_sent_to_who_lacks_it_only(place: Followed) -> None:
    has_none = place.follow(place.a)
    first = place.record(1)
    second = place.record(2, OTHER)
    place.a.head = second.cursor.offset  # the log is read in another order
    has_one = place.follow(place.a, place.token(first))
    with place.loop.running():
        place.a.report_to(second)
    place.loop.settle()
    with place.loop.running():
        place.a.report_to(first)
    place.loop.settle()
    assert has_none.got == [2, 1]
    assert has_none.ids == [second.cursor.offset, None], "its cursor would go back"
    assert has_one.got == [2]


def test_what_is_pushed_instead_of_broadcast_leaves_nothing_behind(place: Followed) -> None:
    follower = place.follow(place.a)
    collection = place.collection(place.a)
    place.record(1)
    with place.loop.running():
        place.a.report_to(place.engine.log[0])
        place.away(place.a)
        place.a.see(ONE, version(2))
        place.a.hub.release_member(collection, ONE)
    place.loop.settle()
    assert follower.got == [2]
    assert ONE not in collection.members
    assert not collection.unsent


def test_an_end_that_is_heard_late_releases_its_task(place: Followed) -> None:
    place.follow(place.a)
    place.record(LAST)
    place.record(1, OTHER)
    with place.loop.running():
        place.a.report_to(place.engine.log[1])
        place.a.report_to(place.engine.log[0])
    place.loop.settle()
    assert ONE not in place.collection(place.a).members


def test_who_is_ahead_gets_what_is_beyond_its_cursor_once(place: Followed) -> None:
    for number in (1, 2):
        place.record(number)
    third = place.record(3)
    place.away(place.a)
    follower = place.follow(place.a, place.token(third))
    collection = place.collection(place.a)
    assert collection.is_held(follower.subscription)
    place.return_of(place.a)
    place.record(4)
    place.record(5, OTHER)
    place.hear(place.a)
    assert follower.got == [4, 5]
    place.record(LAST)
    place.hear(place.a)
    place.wait(place.a)
    place.record(6, OTHER)
    place.hear(place.a)
    assert follower.got == [4, 5, LAST, 6]
    assert not collection.is_held(follower.subscription)


def test_who_is_ahead_gets_what_follows_a_state_that_is_certainly_new(place: Followed) -> None:
    place.record(1)
    second = place.record(2)
    place.away(place.a)
    follower = place.follow(place.a, place.token(second))
    place.return_of(place.a)
    place.record(3)
    place.hear(place.a)
    place.away(place.a)
    place.see(place.a, 4)
    assert place.collection(place.a).is_held(follower.subscription)
    assert follower.got == [3, 4]
    assert follower.ids[1] is None


def test_who_is_ahead_while_the_engine_is_away_gets_nothing_it_may_have(place: Followed) -> None:
    place.record(1)
    place.hear()
    second = place.record(2)
    place.away(place.a)
    follower = place.follow(place.a, place.token(second))
    place.see(place.a, 2)
    place.see(place.a, 3)
    place.wait(place.a)
    assert follower.got == []
    place.return_of(place.a)
    place.hear(place.a)
    place.wait(place.a)
    assert follower.got == [3]


def test_what_was_held_back_is_sent_once_the_replica_has_caught_up(place: Followed) -> None:
    place.record(1)
    place.record(2, OTHER)
    place.hear()
    third = place.record(3)
    place.away(place.a)
    follower = place.follow(place.a, f"{third.cursor}.zzzzzzzz")
    assert follower.got == []
    place.return_of(place.a)
    place.hear(place.a)
    place.wait(place.a)
    assert follower.got == [2, 3]
    place.record(4, OTHER)
    place.hear(place.a)
    assert follower.got == [2, 3, 4]


def test_a_later_epoch_holds_back_what_a_client_of_the_one_before_may_have(place: Followed) -> None:
    place.record(1)
    second = place.record(2, OTHER)
    place.hear()
    follower = place.follow(place.a, place.token(second))
    newcomer = place.follow(place.a)
    place.split(place.a)
    with place.loop.running():
        place.a.engine.append(THIRD, version(3))
        place.a.hear(100)
    place.loop.settle()
    assert newcomer.got == [1, 2, 3]
    assert follower.got == []
    assert place.collection(place.a).is_held(follower.subscription)
    place.wait(place.a)
    place.wait(place.a)
    # It begins again, with a reset: what it has is of another history.
    assert follower.subscription.ends_at <= place.a.clock.monotonic()


def test_no_id_is_given_while_a_state_of_a_member_may_be_unknown(place: Followed) -> None:
    follower = place.follow(place.a)
    place.return_of(place.a, asks=False)
    with place.loop.running():
        place.a.unsettled = {OTHER}
        place.record(1)
        place.a.report_to(place.engine.log[0])
    place.loop.settle()
    assert (follower.got, follower.ids) == ([1], [None])
