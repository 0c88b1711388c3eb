"""What viewers get where several processes write to the journal: a test for each rule that faults taught."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from bridge.core.cursor import Cursor, EventId
from bridge.core.event import Event
from bridge.core.resume import Position, Resume, unrecorded
from bridge.core.task import TaskKey
from bridge.delivery.subscriptions import PendingSubscription, SubscribeRequest
from bridge.wire.formats import SseFormat
from bridge.wire.frames import Format, format_of
from tests.fakes.loop import ManualLoop
from tests.fakes.shared import KEYS, LAST, Engine, Replica, number_of, version
from tests.fakes.tasks import state
from tests.fakes.writers import SOCKET, RecordingWriter

ONE, OTHER, _ = KEYS


class Place:
    """An engine, two replicas, and a loop."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.engine = Engine()
        self.a, self.b = Replica(self.engine), Replica(self.engine)

    def record(self, number: int, key: TaskKey = ONE) -> Event:
        """The engine has one more state; nobody has heard it."""
        self.engine.append(key, version(number))
        return self.engine.log[-1]

    def hear(self, *replicas: Replica) -> None:
        """They hear all of the log, and write it."""
        with self.loop.running():
            for replica in replicas or (self.a, self.b):
                replica.hear(100)
        self.loop.settle()

    def see(self, replica: Replica, number: int, key: TaskKey = ONE) -> None:
        """It polls."""
        with self.loop.running():
            replica.see(key, version(number))
        self.loop.settle()

    def return_of(self, replica: Replica, *, asks: bool = True) -> None:
        """The engine is there again."""
        with self.loop.running():
            replica.connect()
            for key in KEYS if asks else ():
                replica.ask(key)
        self.loop.settle()

    def split(self, replica: Replica) -> Engine:
        """From now on it is alone with a copy of the engine."""
        replica.engine = self.engine.promoted()
        self.return_of(replica)
        return replica.engine

    def heal(self, replica: Replica, *, asks: bool = True) -> None:
        """It is with the others again; their epoch is the older one."""
        replica.engine = self.engine
        self.return_of(replica, asks=asks)

    def wait(self, replica: Replica) -> None:
        """A second passes."""
        with self.loop.running():
            replica.wait()
        self.loop.settle()

    def open(
        self, replica: Replica, token: str | None = None, *keys: TaskKey, fmt: Format | None = None
    ) -> Viewer:
        """A client comes with its last id."""
        request = SubscribeRequest(keys or (ONE,), token)
        fmt = fmt or format_of(SseFormat, mark=request.mark)
        subscription = replica.subscriptions.reserve(fmt)
        pending = self.loop.run(replica.subscriptions.open(subscription, request, wait_for_state=False))
        writer = RecordingWriter(fmt)
        if not pending.ended:
            subscription.begin(writer, fmt)
            self.loop.run(replica.subscriptions.begin(pending))
            self.loop.settle()
        return Viewer(writer, pending)


class Viewer:
    """What one stream was written."""

    def __init__(self, writer: RecordingWriter, pending: PendingSubscription) -> None:
        self.writer = writer
        self.resume = pending.decision.resume

    @property
    def got(self) -> list[int | str]:
        """Versions of states, and names of control events."""
        return [_what(one.data) if one.name is None else one.name for one in self.writer.events]

    @property
    def ids(self) -> list[str | None]:
        """The id after each state."""
        return [one.id for one in self.writer.events if one.name is None]

    @property
    def token(self) -> str:
        """The newest id."""
        return str(self.writer.events[-1].id)


def _what(data: str) -> int | str:
    document = orjson.loads(data)
    if document["status"] == "unknown":
        return "unknown"
    return LAST if document["status"] == "completed" else int(document["progress"] / 10)


@pytest.fixture
def place() -> Place:
    """Nothing was recorded."""
    return Place()


def test_a_replica_that_catches_up_writes_nothing_at_or_below_the_cursor(place: Place) -> None:
    """Rule 4."""
    place.record(1)
    place.hear()
    place.record(2)
    newest = place.record(3)
    place.hear(place.a)
    token = place.open(place.a).token
    assert token == str(newest.cursor)
    late = place.open(place.b, token)
    assert (late.resume, late.got) == (Resume.CURRENT, [])
    place.hear(place.b)
    assert late.got == []
    place.record(4)
    place.hear()
    assert late.got == [4]


def test_a_cursor_of_an_unrecorded_state_gets_only_what_goes_beyond_it(place: Place) -> None:
    """Rule 5."""
    base = place.record(1)
    place.hear()
    viewer = place.open(place.a)
    place.a.up = place.b.up = False
    place.see(place.a, 5)
    assert viewer.got == [1, 5]
    assert viewer.token == f"{base.cursor}~p500"
    moved = place.open(place.b, viewer.token)
    place.see(place.b, 4)
    assert moved.got == []
    place.see(place.b, 6)
    assert moved.got == [6]
    assert moved.token == f"{base.cursor}~p600"


def test_a_client_ahead_of_its_replica_is_shown_nothing_that_is_not_recorded(place: Place) -> None:
    """Rule 5, and rule 7: the end is not `done` before that connection was sent it."""
    place.record(1)
    place.hear()
    place.record(6)
    place.hear(place.a)
    token = place.open(place.a).token
    place.b.up = False
    viewer = place.open(place.b, token)
    place.see(place.b, 3)
    place.see(place.b, LAST)
    assert viewer.got == []
    place.return_of(place.b)
    place.hear(place.b)
    assert viewer.got == [LAST, "done", "end"]


def test_an_end_that_is_recorded_nowhere_is_no_204(place: Place) -> None:
    """Rule 15: the client saw a recorded state, this process an end that nobody recorded."""
    place.record(6)
    place.hear()
    token = place.open(place.a).token
    place.b.up = False
    place.see(place.b, LAST)
    viewer = place.open(place.b, token)
    assert (viewer.resume, viewer.got) == (Resume.NEWER, [LAST, "done", "end"])
    assert place.open(place.b, viewer.token).resume is Resume.ENDED
    assert viewer.token.endswith("~c1000")


def test_what_was_shown_is_not_sent_again_when_it_is_recorded(place: Place) -> None:
    place.record(1)
    place.hear()
    viewer = place.open(place.a)
    place.a.up = False
    place.see(place.a, 5)
    left = viewer.token
    place.return_of(place.a)
    place.hear()
    assert viewer.got == [1, 5]
    for replica in (place.a, place.b):
        back = place.open(replica, left)
        assert (back.resume, back.got) == (Resume.CURRENT, [])
    place.record(7)
    place.hear()
    assert viewer.got == [1, 5, 7]
    assert back.got == [7]


def test_older_records_of_others_do_not_take_back_what_was_shown(place: Place) -> None:
    """Rule 3."""
    place.record(1)
    place.hear()
    viewer = place.open(place.a)
    place.a.up = False
    place.see(place.a, 6)
    for number in (2, 4):
        place.record(number)
    place.return_of(place.a)
    place.hear()
    assert viewer.got == [1, 6]


def test_a_list_is_given_ids_only_while_all_its_tasks_are_known(place: Place) -> None:
    """Rule 8."""
    place.record(1)
    place.record(1, OTHER)
    place.hear()
    viewer = place.open(place.a, None, ONE, OTHER)
    before = viewer.ids[-1]
    place.a.up = False
    place.record(LAST)
    later = place.record(3, OTHER)
    place.return_of(place.a, asks=False)
    with place.loop.running():
        place.a.ask(OTHER)
    place.loop.settle()
    assert viewer.got == [1, 1, 3]
    assert viewer.ids == [viewer.ids[0], before, before]
    with place.loop.running():
        for key in place.a.unsettled.copy():
            place.a.ask(key)
    place.loop.settle()
    assert viewer.got == [1, 1, 3, LAST, "done"]
    # The end is older than what was written: its id would move the cursor back.
    assert viewer.token == before
    place.record(4, OTHER)
    place.hear()
    event_id = EventId.parse(viewer.token)
    assert event_id is not None
    assert event_id.cursor.offset > later.cursor.offset


def test_an_unrecorded_state_of_a_list_has_no_id(place: Place) -> None:
    place.record(1)
    place.hear()
    viewer = place.open(place.a, None, ONE, OTHER)
    before = viewer.ids[0]
    place.a.up = False
    place.see(place.a, 5)
    place.see(place.a, 2, OTHER)
    assert viewer.got == [1, "unknown", 5, 2]
    assert set(viewer.ids) == {before}


def test_only_what_is_recorded_in_this_epoch_is_compared_with_a_cursor(place: Place) -> None:
    """Rule 9: the log lost what the replica still holds, and more than that was recorded since."""
    place.record(1)
    place.record(LAST)
    place.hear()
    place.engine.begin_epoch(forgets=1)
    place.return_of(place.b, asks=False)
    place.record(2, OTHER)
    cursor = place.engine.log[-1].cursor
    viewer = place.open(place.a, str(cursor))
    assert (viewer.resume, viewer.got) == (Resume.RESET, ["reset", LAST, "done", "end"])


def test_a_later_epoch_is_not_reset_by_a_replica_that_is_cut_off(place: Place) -> None:
    """Rule 12."""
    place.record(1)
    place.hear()
    place.a.up = False
    place.engine.begin_epoch()
    place.return_of(place.b)
    place.record(5)
    place.hear(place.b)
    token = place.open(place.b).token
    viewer = place.open(place.a, token)
    place.see(place.a, 4)
    assert (viewer.resume, viewer.got) == (Resume.CURRENT, [])
    place.return_of(place.a)
    assert viewer.got == []
    place.record(6)
    place.hear()
    assert viewer.got == [6]


def test_a_stream_that_resumed_and_was_sent_nothing_is_reset_with_the_epoch(place: Place) -> None:
    """Rule 13."""
    place.record(3)
    place.hear()
    first = place.open(place.a)
    resumed = place.open(place.a, first.token)
    place.engine.begin_epoch()
    place.return_of(place.a)
    place.wait(place.a)
    assert resumed.got == ["reset", 3]
    assert first.got == [3]
    assert resumed.token == str(place.engine.log[-1].cursor)
    place.record(4)
    place.hear(place.a)
    assert (first.got, resumed.got) == ([3, 4], ["reset", 3, 4])
    assert first.token == str(place.engine.log[-1].cursor)


def test_a_stream_of_the_losing_side_is_reset_when_its_epoch_goes_back(place: Place) -> None:
    """Rule 13: a stream that was sent ids of the later epoch."""
    place.record(1)
    place.hear()
    viewer = place.open(place.a)
    copy = place.split(place.a)
    copy.append(ONE, version(4))
    place.hear(place.a)
    assert viewer.token == str(copy.log[-1].cursor)
    newest = place.record(5)
    place.heal(place.a)
    assert viewer.got == [1, 4]
    place.wait(place.a)
    assert viewer.got == [1, 4, "reset", 5]
    assert viewer.token == str(newest.cursor)
    place.record(6)
    place.hear(place.a)
    assert viewer.got == [1, 4, "reset", 5, 6]


def test_a_list_of_the_losing_side_is_reset_and_has_ids_again(place: Place) -> None:
    """Although the offsets are lower than those of the other side."""
    place.record(1)
    place.record(1, OTHER)
    place.hear()
    viewer = place.open(place.a, None, ONE, OTHER)
    copy = place.split(place.a)
    copy.clock += 5000
    copy.append(ONE, version(4))
    place.hear(place.a)
    place.record(5)
    place.record(3, OTHER)
    place.heal(place.a)
    assert viewer.got == [1, 1, 4]
    place.wait(place.a)
    assert viewer.got == [1, 1, 4, "reset", 5, 3]
    event_id = EventId.parse(viewer.token)
    assert event_id is not None
    assert event_id.cursor == place.engine.log[-1].cursor


def test_a_socket_of_the_losing_side_is_reset_too(place: Place) -> None:
    place.record(1)
    place.record(1, OTHER)
    place.hear()
    viewer = place.open(place.a, None, ONE, OTHER, fmt=SOCKET)
    place.split(place.a).append(ONE, version(4))
    place.hear(place.a)
    newest = place.record(5)
    place.heal(place.a)
    place.wait(place.a)
    messages = [orjson.loads(line) for line in viewer.writer.sent.splitlines()]
    assert [one["type"] for one in messages] == ["state"] * 3 + ["reset"] + ["state"] * 2
    assert str(newest.cursor) in {one.get("cursor") for one in messages[4:]}


def test_epochs_that_change_within_a_second_leave_no_stream_mute(place: Place) -> None:
    place.record(1)
    place.hear()
    first = place.open(place.a)
    resumed = place.open(place.a, first.token)
    place.split(place.a)
    place.heal(place.a)
    place.record(2)
    place.hear(place.a)
    place.wait(place.a)
    assert [one for one in resumed.got if one != "reset"] == [2]
    assert [one for one in first.got if one != "reset"][-1] == 2
    place.engine.begin_epoch()
    place.return_of(place.a)
    place.record(3)
    place.hear(place.a)
    place.wait(place.a)
    assert (first.got[-1], resumed.got[-1]) == (3, 3)


def test_a_long_poll_of_the_losing_side_is_answered() -> None:
    """Its cursor is of the later epoch, and beyond everything that this side will record for a while."""
    engine = Engine()
    a = Replica(engine)
    engine.append(ONE, version(1))
    a.hear(1)
    copy = a.engine = engine.promoted()
    a.connect()
    copy.clock += 5000
    copy.append(ONE, version(4))
    cursor = copy.log[-1].cursor
    position = Position(cursor.offset, resumes=True, epoch=cursor.epoch)

    async def wait() -> Event | None:
        a.ask(ONE)
        waiting = asyncio.create_task(a.hub.changed(ONE, position, seconds=1.0))
        await asyncio.sleep(0)
        engine.append(ONE, version(5))
        a.engine = engine
        a.connect()
        a.ask(ONE)
        return await waiting

    event = asyncio.run(wait())
    assert event is not None
    assert (event.cursor.epoch, number_of(event.state)) == (engine.epoch, 5)


def test_a_client_of_the_losing_side_is_not_left_mute_at_the_other(place: Place) -> None:
    """It came while that bridge, too, could not reach the engine."""
    place.record(1)
    place.hear()
    copy = place.split(place.b)
    copy.append(ONE, version(4))
    place.hear(place.b)
    token = place.open(place.b).token
    place.a.up = False
    viewer = place.open(place.a, token)
    place.return_of(place.a)
    place.record(5)
    place.hear(place.a)
    assert viewer.got == []
    place.wait(place.a)
    place.wait(place.a)
    assert viewer.got == ["reset", 5]


def test_a_reset_waits_for_those_who_have_shown_more_than_is_recorded(place: Place) -> None:
    """The client saw 5 at b, which nobody had recorded, and moved to a while the engine was away."""
    place.record(3)
    place.hear()
    place.a.up = place.b.up = False
    shown = place.open(place.b)
    place.see(place.b, 5)
    viewer = place.open(place.a, shown.token)
    place.engine.begin_epoch()
    place.return_of(place.a)
    assert viewer.got == []
    place.return_of(place.b)
    place.record(5)  # b records what it has shown
    place.hear(place.a)
    assert viewer.got == []
    place.wait(place.a)
    assert viewer.got == ["reset", 5]


def test_who_is_ahead_of_a_replica_is_told_nothing_older_whatever_its_list_was(place: Place) -> None:
    """A list without its mark: offsets say nothing of a task, but what is known here may be older."""
    place.record(1)
    place.record(2, OTHER)
    place.hear()
    place.a.up = False
    newest = place.record(3)
    place.record(4, OTHER)
    place.hear(place.b)
    viewer = place.open(place.a, str(place.engine.log[-1].cursor), ONE, OTHER)
    assert viewer.got == []
    place.wait(place.a)
    assert viewer.got == []
    place.return_of(place.a)
    place.hear(place.a)
    place.wait(place.a)
    assert sorted(map(str, viewer.got)) == ["3", "4"]
    assert newest.cursor.offset <= place.a.head


def test_a_final_that_the_other_side_recorded_with_a_lower_offset_arrives(place: Place) -> None:
    place.record(2)
    place.hear()
    viewer = place.open(place.a)
    with place.loop.running():  # this side of a split went further
        place.a.report_to(Event(ONE, Cursor(place.a.epoch, place.engine.clock + 500), version(4)))
    place.loop.settle()
    place.engine.begin_epoch()
    place.engine.clock -= 900
    place.record(LAST)
    place.return_of(place.a)
    assert viewer.got == [2, 4, LAST, "done", "end"]


def test_the_same_entries_again_are_written_once(place: Place) -> None:
    place.record(1)
    place.hear()
    viewer = place.open(place.a)
    place.record(2)
    place.hear()
    place.a.up = False
    place.return_of(place.a)
    place.a.heard = 0
    place.hear()
    assert viewer.got == [1, 2]


def test_a_socket_that_resumes_at_a_replica_behind_is_not_sent_what_it_has(place: Place) -> None:
    place.record(1)
    place.hear()
    token = str(place.record(4).cursor)
    place.b.up = False
    viewer = place.open(place.b, token, fmt=SOCKET)
    place.see(place.b, LAST)
    assert viewer.writer.sent == b""
    place.return_of(place.b)
    place.hear()
    assert b'"completed"' in viewer.writer.sent
    assert b"processing" not in viewer.writer.sent


def test_a_wait_ends_with_what_goes_beyond_what_was_shown(place: Place) -> None:
    """The long-poll."""
    from bridge.core.resume import is_seen, locate

    base = place.record(1)
    shown = unrecorded(Event(ONE, base.cursor, version(5)), base.cursor.epoch, base.cursor.offset)
    position = locate(str(shown.cursor), None, epoch=place.engine.epoch, head=place.engine.head)
    assert is_seen(shown, position)
    assert is_seen(place.record(5), position)
    assert not is_seen(place.record(6), position)
    assert number_of(state("completed", 100.0)) == LAST
