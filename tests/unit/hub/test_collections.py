"""Collections: members, followers, and the end. In any order: tests/stateful/test_collections.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from bridge.core.cursor import Cursor
from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.resume import Position
from bridge.core.selection import Selection, SelectionKind
from bridge.core.task import TaskKey
from bridge.hub import broadcast, connections
from bridge.hub.collection import Collection
from bridge.hub.subscription import Subscription
from bridge.wire.formats import SseFormat
from bridge.wire.frames import format_of
from tests.fakes.clock import settle
from tests.fakes.hub import Scene
from tests.fakes.tasks import OTHER, TASK, state
from tests.fakes.writers import NDJSON, SOCKET, RecordingWriter

pytestmark = pytest.mark.anyio

THIRD = TaskKey("qingbo", "task-3")
MARKED = format_of(SseFormat, mark="abcd2345")
MISSING = Notice(NoticeCode.TASK_NOT_FOUND, "no such task", retriable=False)
STALE = Notice(NoticeCode.STALE, "not confirmed")
FRESH = Notice(NoticeCode.FRESH, "confirmed")


class Group(Scene):
    """A hub with one collection."""

    def __init__(self) -> None:
        super().__init__()
        self.collection = Collection(Selection(SelectionKind.GROUP, "g"))

    async def listen(
        self, writer: RecordingWriter | None = None, events: Sequence[Event] | None = None, **more: Any
    ) -> tuple[Subscription, RecordingWriter]:
        """A connection that follows the collection, and is sent what is known of its members."""
        writer = writer or RecordingWriter(MARKED)
        subscription = self.place(writer)
        await self.listen_too(subscription, self.collection, events, **more)
        return subscription, writer

    async def listen_too(
        self,
        subscription: Subscription,
        collection: Collection,
        events: Sequence[Event] | None = None,
        **more: Any,
    ) -> None:
        """An open connection follows a collection."""
        if events is None:
            events = [one for one in await self.journal.latest(list(collection.members)) if one is not None]
        self.hub.listen(subscription, collection, events, **more)

    def collect(self, *keys: TaskKey) -> None:
        """They are members."""
        for key in keys:
            self.hub.collect(self.collection, key)


@pytest.fixture
def scene() -> Group:
    return Group()


def shown(writer: RecordingWriter) -> list[tuple[str, str, object]]:
    """The states that were written: task, status, progress."""
    if writer.fmt is SOCKET:
        messages = [orjson.loads(line) for line in writer.sent.splitlines()]
        documents = [one["state"] for one in messages if one["type"] == "state"]
    else:
        documents = [orjson.loads(one.data) for one in writer.events if one.name is None]
    return [(one["task"], one["status"], one["progress"]) for one in documents]


def names(writer: RecordingWriter) -> list[str | None]:
    if writer.fmt is SOCKET:
        return [orjson.loads(line)["type"] for line in writer.sent.splitlines()]
    return [one.name for one in writer.events]


async def test_a_follower_gets_what_is_known_and_then_each_change_of_each_member(scene: Group) -> None:
    first = await scene.tell(TASK, state(progress=1))
    scene.collect(TASK, OTHER)
    _, writer = await scene.listen(preface=b": ok\n", retry=2140)
    assert writer.sent.startswith(b": ok\nretry: 2140\ndata: ")
    assert writer.events[0].id == f"{first.cursor}.abcd2345"
    second = await scene.tell(OTHER, state(progress=2))
    await scene.tell(THIRD, state(progress=3))
    assert shown(writer) == [(TASK.ref, "processing", 1), (OTHER.ref, "processing", 2)]
    assert writer.events[-1].id == f"{second.cursor}.abcd2345"


async def test_all_followers_get_the_same_bytes_object(scene: Group) -> None:
    scene.collect(TASK)
    writers = [(await scene.listen())[1] for _ in range(3)]
    await scene.tell(TASK, state())
    assert len({id(writer.writes[-1]) for writer in writers}) == 1


async def test_the_events_of_one_turn_leave_in_one_write(scene: Group) -> None:
    scene.collect(TASK, OTHER)
    _, writer = await scene.listen()
    await scene.record(TASK, state(progress=1))
    await scene.record(OTHER, state(progress=2))
    await scene.record(TASK, state(progress=3))
    await settle()
    assert len(writer.writes) == 1
    assert shown(writer) == [(OTHER.ref, "processing", 2), (TASK.ref, "processing", 3)]


async def test_who_keeps_up_costs_nothing_per_task(scene: Group) -> None:
    keys = [TaskKey("qingbo", f"many-{number}") for number in range(500)]
    scene.collect(*keys)
    subscription, writer = await scene.listen()
    for key in keys:
        await scene.tell(key, state(progress=1))
    assert len(shown(writer)) == 500
    assert not subscription.pending
    assert not subscription.channels
    assert scene.interests.total == 500


async def test_a_task_is_wanted_once_per_collection(scene: Group) -> None:
    scene.collect(TASK)
    for _ in range(3):
        await scene.listen()
    scene.collect(TASK)
    assert scene.interests.wanted[TASK] == 1
    scene.hub.release_member(scene.collection, TASK)
    scene.hub.release_member(scene.collection, TASK)
    assert scene.interests.total == 0
    assert scene.hub.channel_of(TASK) is None


async def test_a_slow_follower_gets_the_newest_of_each_task_and_every_end(scene: Group) -> None:
    scene.collect(TASK, OTHER)
    _, slow = await scene.listen()
    _, quick = await scene.listen()
    slow.pause()
    for number in range(4):
        await scene.tell(TASK, state(progress=number))
    await scene.tell(OTHER, state("completed", 100))
    assert shown(slow) == []
    assert len(shown(quick)) == 5
    assert scene.hub.channel_of(OTHER) is None, "the channel of a final task was kept"
    slow.wake()
    await settle()
    assert shown(slow) == [(TASK.ref, "processing", 3), (OTHER.ref, "completed", 100)]
    assert names(slow).count("done") == 1
    assert slow.finished is quick.finished is None, "a tag never ends by itself"


async def test_a_lost_member_stays(scene: Group) -> None:
    scene.collect(TASK)
    _, writer = await scene.listen()
    await scene.tell(TASK, state("lost"))
    assert TASK in scene.collection.members
    await scene.tell(TASK, state("completed", 100))
    assert [status for _, status, _ in shown(writer)] == ["lost", "completed"]
    assert TASK not in scene.collection.members


async def test_a_member_that_leaves_in_the_turn_of_its_end_is_broadcast_first(scene: Group) -> None:
    scene.collect(TASK)
    _, writer = await scene.listen()
    await scene.record(TASK, state("completed", 100))
    scene.hub.release_member(scene.collection, TASK)
    await settle()
    assert len(shown(writer)) == 1
    assert not scene.collection.members
    assert not scene.collection.leaving


async def test_group_done_follows_everything_and_then_the_end(scene: Group) -> None:
    scene.collect(TASK, OTHER)
    _, writer = await scene.listen()
    _, slow = await scene.listen()
    slow.pause()
    await scene.tell(TASK, state("completed", 100))
    last = await scene.record(OTHER, state("failed", 10))
    scene.hub.end_collection(scene.collection, {"completed": 1, "failed": 1}, cursor=last.cursor)
    await settle()
    assert names(writer) == [None, "done", None, "done", "group_done", "end"]
    done = writer.events[-2]
    assert orjson.loads(done.data) == {"group": "g", "counts": {"completed": 1, "failed": 1}}
    assert done.id == f"{last.cursor}.abcd2345"
    assert orjson.loads(writer.events[-1].data) == {"tasks": 2}
    assert writer.finished is Closing.FINISHED
    assert slow.finished is None
    slow.wake()
    await settle()
    assert names(slow) == names(writer)
    assert slow.finished is Closing.FINISHED
    assert scene.collection.unused
    assert not scene.collection.members


async def test_a_websocket_stays_open_after_group_done(scene: Group) -> None:
    scene.collect(TASK)
    subscription, writer = await scene.listen(RecordingWriter(SOCKET))
    last = await scene.tell(TASK, state("completed", 100))
    scene.hub.end_collection(scene.collection, {"completed": 1}, cursor=last.cursor, mark="ended234")
    await settle()
    assert names(writer) == ["state", "done", "group_done"]
    assert writer.finished is None
    assert subscription.collections == ()


async def test_an_event_reaches_a_websocket_once_however_many_ways_lead_to_it(scene: Group) -> None:
    another = Collection(Selection(SelectionKind.TAG, "h"))
    scene.collect(TASK, OTHER)
    scene.hub.collect(another, TASK)
    subscription, writer = await scene.listen(RecordingWriter(SOCKET))
    await scene.listen_too(subscription, another)
    await scene.subscribe(subscription, [TASK])
    await scene.tell(TASK, state(progress=1))
    await scene.tell(OTHER, state(progress=2))
    writer.pause()
    await scene.tell(TASK, state(progress=3))
    writer.wake()
    await settle()
    assert shown(writer) == [
        (TASK.ref, "processing", 1),
        (OTHER.ref, "processing", 2),
        (TASK.ref, "processing", 3),
    ]
    scene.hub.unsubscribe(subscription, TASK)
    scene.hub.unlisten(subscription, another)
    await scene.tell(TASK, state(progress=4))
    assert len(shown(writer)) == 4
    scene.hub.unlisten(subscription, scene.collection)
    await scene.tell(TASK, state(progress=5))
    assert len(shown(writer)) == 4


async def test_what_was_recorded_before_it_was_a_member_is_shown_and_without_an_id(scene: Group) -> None:
    early = await scene.tell(TASK, state(progress=1))
    scene.collect(OTHER)
    _, writer = await scene.listen()
    await scene.tell(OTHER, state(progress=2))
    scene.collect(TASK)
    scene.hub.show(scene.collection, early)
    await settle()
    assert shown(writer) == [(OTHER.ref, "processing", 2), (TASK.ref, "processing", 1)]
    assert b"id:" not in writer.writes[-1]
    await scene.tell(TASK, state(progress=3))
    assert b"id:" in writer.writes[-1]


async def test_what_is_recorded_in_the_turn_it_became_a_member_is_sent_once(scene: Group) -> None:
    _, viewer = await scene.join([TASK])
    _, writer = await scene.listen()
    first = await scene.record(TASK, state(progress=1))
    scene.collect(TASK)
    scene.hub.show(scene.collection, first)
    await settle()
    second = await scene.record(TASK, state(progress=2))
    scene.hub.show(scene.collection, second)
    await settle()
    assert shown(writer) == shown(viewer) == [(TASK.ref, "processing", 1), (TASK.ref, "processing", 2)]


async def test_a_member_shown_late_reaches_all_once_and_no_id_passes_it_by(scene: Group) -> None:
    early = await scene.tell(TASK, state(progress=1))
    scene.collect(OTHER)
    _, before = await scene.listen()
    scene.collect(TASK)
    scene.collection.unshown = 1
    _, between = await scene.listen(events=[early])
    await scene.tell(OTHER, state(progress=2))
    scene.hub.show(scene.collection, early)
    await settle()
    assert shown(before) == [(OTHER.ref, "processing", 2), (TASK.ref, "processing", 1)]
    assert shown(between) == [(TASK.ref, "processing", 1), (OTHER.ref, "processing", 2)]
    assert b"id:" not in before.sent + between.sent
    scene.collection.unshown = 0
    last = await scene.tell(OTHER, state(progress=3))
    assert before.events[-1].id == between.events[-1].id == f"{last.cursor}.abcd2345"


async def test_who_listens_in_the_turn_of_an_event_gets_it_once(scene: Group) -> None:
    scene.collect(TASK, OTHER)
    await scene.record(TASK, state(progress=1))
    await scene.record(OTHER, state(progress=2))
    _, writer = await scene.listen()
    await settle()
    assert shown(writer) == [(TASK.ref, "processing", 1), (OTHER.ref, "processing", 2)]


async def test_who_is_collected_again_before_it_left_stays(scene: Group) -> None:
    scene.collect(TASK)
    _, writer = await scene.listen()
    await scene.record(TASK, state(progress=1))
    scene.hub.release_member(scene.collection, TASK)
    scene.collect(TASK)
    await settle()
    await scene.tell(TASK, state(progress=2))
    assert [progress for _, _, progress in shown(writer)] == [1, 2]
    assert scene.interests.wanted[TASK] == 1


async def test_an_active_notice_of_a_new_member_reaches_who_comes_after(scene: Group) -> None:
    await scene.join([TASK])
    scene.journal.announce(TASK, STALE)
    scene.collect(TASK)
    _, writer = await scene.listen()
    assert names(writer) == ["notice"]


async def test_what_was_broadcast_is_not_shown_again(scene: Group) -> None:
    scene.collect(TASK)
    _, writer = await scene.listen()
    event = await scene.tell(TASK, state(progress=1))
    scene.hub.show(scene.collection, event)
    await settle()
    assert shown(writer) == [(TASK.ref, "processing", 1)]


async def test_who_follows_no_longer_is_sent_nothing_of_it(scene: Group) -> None:
    subscription, writer = await scene.listen(RecordingWriter(SOCKET))
    scene.collect(TASK, OTHER)
    await scene.subscribe(subscription, [OTHER, THIRD])
    writer.pause()
    for key in (TASK, OTHER, THIRD):
        await scene.tell(key, state(progress=1))
        scene.journal.announce(key, STALE)
        await settle()
    scene.hub.end_collection(
        scene.collection, {"completed": 1}, cursor=Cursor(scene.journal.epoch, scene.journal.head)
    )
    scene.hub.unlisten(subscription, scene.collection)
    writer.wake()
    await settle()
    assert shown(writer) == [(OTHER.ref, "processing", 1), (THIRD.ref, "processing", 1)]
    assert names(writer) == ["state", "state", "notice", "notice"]


async def test_a_notice_on_its_way_does_not_reach_who_follows_no_longer(scene: Group) -> None:
    scene.collect(TASK)
    subscription, writer = await scene.listen(RecordingWriter(SOCKET))
    scene.journal.announce(TASK, STALE)
    await asyncio.sleep(0)
    scene.hub.unlisten(subscription, scene.collection)
    await settle()
    assert writer.writes == []


async def test_of_a_task_in_two_ways_what_is_owed_by_one_stays(scene: Group) -> None:
    scene.collect(TASK)
    subscription, writer = await scene.listen(RecordingWriter(SOCKET))
    await scene.subscribe(subscription, [TASK])
    writer.pause()
    await scene.tell(TASK, state(progress=1))
    scene.journal.announce(TASK, STALE)
    await settle()
    scene.hub.unsubscribe(subscription, TASK)
    writer.wake()
    await settle()
    assert names(writer) == ["state", "notice"]


async def test_a_notice_follows_the_states_that_are_pending(scene: Group) -> None:
    scene.collect(TASK)
    _, writer = await scene.listen()
    writer.pause()
    await scene.tell(TASK, state(progress=1))
    scene.journal.announce(TASK, STALE)
    await settle()
    assert writer.writes == []
    writer.wake()
    await settle()
    assert names(writer) == [None, "notice"]


@pytest.mark.parametrize(("account", "ends"), [("k123", True), ("-", False)])
async def test_a_refused_key_ends_the_streams_of_its_owner(scene: Group, account: str, *, ends: bool) -> None:
    key = TaskKey("qingbo", "task-4", account)
    scene.collect(key)
    subscription, _ = await scene.listen()
    scene.journal.announce(key, Notice(NoticeCode.CREDENTIAL_REFUSED, "no"))
    await settle()
    assert (subscription.ends_by is Closing.EXPIRED) is ends
    assert (subscription.ends_at <= scene.clock.monotonic()) is ends


async def test_a_group_that_ends_releases_what_is_lost_too(scene: Group) -> None:
    scene.collect(TASK)
    await scene.listen()
    last = await scene.tell(TASK, state("lost"))
    assert scene.interests.total == 1
    scene.hub.end_collection(scene.collection, {"lost": 1}, cursor=last.cursor)
    await settle()
    assert scene.interests.total == 0


async def test_an_end_of_another_history_is_not_mixed_with_the_first(scene: Group) -> None:
    early = await scene.tell(TASK, state("failed", 10))
    other = await scene.tell(OTHER, state())
    late = early._replace(cursor=other.cursor, state=state("completed", 100))
    await scene.listen(events=[late])
    _, writer = await scene.listen(events=[early])
    assert shown(writer) == [(TASK.ref, "failed", 10)]


async def test_who_comes_with_a_cursor_in_the_turn_of_an_event_gets_only_what_is_above(scene: Group) -> None:
    scene.collect(TASK, OTHER)
    seen = await scene.record(TASK, state(progress=1))
    await scene.record(OTHER, state(progress=2))
    _, writer = await scene.listen(events=[], floor=seen.cursor.offset)
    await settle()
    assert shown(writer) == [(OTHER.ref, "processing", 2)]


async def test_who_has_everything_is_sent_nothing_in_the_turn_of_an_event(scene: Group) -> None:
    scene.collect(TASK)
    seen = await scene.record(TASK, state(progress=1))
    _, writer = await scene.listen(events=[], floor=seen.cursor.offset)
    await settle()
    assert writer.writes == []


async def test_what_changes_again_before_its_broadcast_is_not_passed_by(scene: Group) -> None:
    another = Collection(Selection(SelectionKind.TAG, "h"))
    scene.collect(TASK, OTHER, THIRD)
    subscription, writer = await scene.listen(RecordingWriter(SOCKET))
    await scene.record(TASK, state(progress=1))
    await scene.record(OTHER, state(progress=2))
    await scene.listen_too(subscription, another, [])
    await scene.record(TASK, state(progress=3))
    await scene.record(THIRD, state(progress=4))
    scene.hub.flush(subscription)
    await settle()
    assert [progress for _, _, progress in shown(writer)] == [1, 2, 3, 4]


async def test_who_is_closed_follows_nothing(scene: Group) -> None:
    scene.collect(TASK)
    writer = RecordingWriter(MARKED)
    subscription = scene.place(writer)
    scene.hub.finish(subscription, Closing.DRAIN)
    await scene.listen_too(subscription, scene.collection)
    assert scene.collection.unused


async def test_who_follows_one_again_is_not_mixed(scene: Group) -> None:
    another = Collection(Selection(SelectionKind.TAG, "h"))
    subscription, _ = await scene.listen(RecordingWriter(SOCKET))
    await scene.listen_too(subscription, another)
    assert subscription in scene.hub.mixed
    assert subscription in another.mixed
    scene.hub.unlisten(subscription, another)
    assert [*scene.hub.mixed, *another.mixed, *scene.collection.mixed] == []
    await scene.listen_too(subscription, another)
    scene.hub.leave(subscription, "left")
    assert [*scene.hub.mixed, *another.mixed, *scene.collection.mixed] == []


async def test_what_a_follower_began_with_is_remembered_only_while_it_matters(scene: Group) -> None:
    early = await scene.tell(TASK, state(progress=1))
    scene.collect(TASK)
    scene.collection.unshown = 1
    leaves, _ = await scene.listen(events=[early])
    await scene.listen(events=[early])
    scene.hub.leave(leaves, "left")
    assert len(scene.collection.begun) == 1
    scene.collection.unshown = 0
    await scene.listen(events=[early])
    assert not scene.collection.begun


async def test_a_held_follower_that_leaves_holds_nothing_back(scene: Group) -> None:
    scene.collect(TASK)
    one, _ = await scene.listen()
    two, writer = await scene.listen(floor=0)
    scene.collection.hold(one, Position(ahead=True, epoch="x"))
    scene.hub.leave(one, "left")
    assert scene.collection.held is None
    assert scene.collection.max_join_offset == 0
    assert two in scene.collection.followers
    await scene.tell(TASK, state(progress=1))
    assert len(shown(writer)) == 1


async def test_a_flush_within_a_round_takes_what_the_round_would_write(
    scene: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "SLICE", 1)
    scene.collect(TASK, OTHER)
    _, quick = await scene.listen()
    subscription, slow = await scene.listen()
    slow.pause()
    await scene.tell(TASK, state(progress=1))
    await scene.record(TASK, state(progress=2))
    await scene.record(OTHER, state(progress=3))
    slow.wake()
    await settle()
    assert shown(slow) == [(TASK.ref, "processing", 2), (OTHER.ref, "processing", 3)]
    assert len(shown(quick)) == 3
    assert not subscription.pending


async def test_the_states_that_do_not_fit_into_one_burst_follow(
    scene: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BURST_BYTES", 1)
    events = [await scene.tell(TaskKey("qingbo", f"t-{n}"), state(progress=n)) for n in range(5)]
    ended = await scene.tell(TASK, state("completed", 100))
    _, writer = await scene.listen(events=[ended, *events])
    await settle()
    assert [number for _, _, number in shown(writer)] == [0, 1, 2, 3, 4, 100]
    assert all(one.id for one in writer.events)


async def test_the_end_follows_the_states_that_do_not_fit_into_one_burst(
    scene: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BURST_BYTES", 1)
    events = [await scene.tell(TaskKey("qingbo", f"t-{n}"), state("completed", n)) for n in range(4)]
    _, writer = await scene.listen(events=events)
    scene.hub.end_collection(scene.collection, {"completed": 4}, cursor=events[-1].cursor)
    await settle()
    assert names(writer) == [None, "done"] * 4 + ["group_done", "end"]


async def test_what_a_client_has_seen_has_no_id(scene: Group) -> None:
    early = await scene.tell(TASK, state("completed", 100))
    late = await scene.tell(OTHER, state(progress=2))
    _, writer = await scene.listen(events=[early], floor=late.cursor.offset)
    assert shown(writer) == [(TASK.ref, "completed", 100)]
    assert b"id:" not in writer.sent


async def test_notices_of_members_reach_all_followers_in_one_write(scene: Group) -> None:
    scene.collect(TASK, OTHER)
    _, writer = await scene.listen()
    _, slow = await scene.listen()
    slow.pause()
    for key in (TASK, OTHER):
        scene.journal.announce(key, STALE)
    scene.journal.announce(OTHER, FRESH)
    await settle()
    assert len(writer.writes) == 1
    assert [orjson.loads(one.data)["code"] for one in writer.events] == ["stale", "fresh"]
    _, newcomer = await scene.listen()
    assert [orjson.loads(one.data)["task"] for one in newcomer.events] == [TASK.ref]
    slow.wake()
    await settle()
    assert slow.sent == writer.sent


async def test_a_member_that_does_not_exist_leaves_after_its_notice(scene: Group) -> None:
    scene.collect(TASK)
    _, writer = await scene.listen()
    _, socket = await scene.listen(RecordingWriter(SOCKET))
    scene.journal.announce(TASK, MISSING)
    await settle()
    assert names(writer) == names(socket) == ["notice"]
    assert writer.finished is None
    assert not scene.collection.members
    assert scene.interests.total == 0


async def test_a_notice_reaches_a_websocket_once(scene: Group) -> None:
    another = Collection(Selection(SelectionKind.TAG, "h"))
    scene.collect(TASK, OTHER)
    scene.hub.collect(another, OTHER)
    subscription, writer = await scene.listen(RecordingWriter(SOCKET))
    subscription.subscribe_ids = {TASK: 7}
    await scene.listen_too(subscription, another)
    await scene.subscribe(subscription, [TASK])
    scene.journal.announce(TASK, STALE)
    scene.journal.announce(OTHER, STALE)
    await settle()
    assert names(writer) == ["notice", "notice"]
    scene.journal.announce(TASK, MISSING)
    await settle()
    assert names(writer) == ["notice", "notice", "error"]


async def test_who_leaves_leaves_nothing_behind(scene: Group) -> None:
    scene.collect(TASK)
    subscription, writer = await scene.listen()
    writer.pause()
    await scene.tell(TASK, state(progress=1))
    scene.hub.leave(subscription, "left")
    assert scene.collection.unused
    assert not subscription.pending
    scene.hub.release_member(scene.collection, TASK)
    assert scene.hub.channel_of(TASK) is None


async def test_a_broken_connection_is_its_own_affair(scene: Group) -> None:
    class Broken(RecordingWriter):
        def write(self, data: bytes) -> None:
            raise RuntimeError("broken")

    scene.collect(TASK)
    _, broken = await scene.listen(Broken(MARKED))
    _, writer = await scene.listen()
    await scene.tell(TASK, state(progress=1))
    assert broken.aborted
    assert len(shown(writer)) == 1


async def test_each_format_gets_its_own_bytes(scene: Group) -> None:
    scene.collect(TASK)
    _, lines = await scene.listen(RecordingWriter(NDJSON))
    _, socket = await scene.listen(RecordingWriter(SOCKET))
    last = await scene.tell(TASK, state("completed", 100))
    scene.hub.end_collection(scene.collection, {"completed": 1}, cursor=last.cursor, mark="ended234")
    await settle()
    written = [orjson.loads(line) for line in lines.sent.splitlines()]
    assert [one.get("event") for one in written] == [None, "done", "group_done", "end"]
    assert written[2]["cursor"] == f"{last.cursor}.ended234"
    assert names(socket) == ["state", "done", "group_done"]


class CountingWriter(RecordingWriter):
    """Counts instead of keeping what it is sent."""

    def __init__(self) -> None:
        super().__init__(MARKED)
        self.counted = {b"event: done\n": 0, b"event: group_done\n": 0, b"event: end\n": 0, b"id: ": 0}

    def write(self, data: bytes) -> None:
        for word in self.counted:
            self.counted[word] += data.count(word)


@pytest.mark.parametrize(
    ("tasks", "followers"), [(500, 50), pytest.param(10_000, 1_000, marks=pytest.mark.extended)]
)
async def test_of_many_tasks_each_of_many_followers_is_sent_each_change_once_and_the_end_once(
    scene: Group, tasks: int, followers: int
) -> None:
    keys = [TaskKey("qingbo", f"many-{number}") for number in range(tasks)]
    scene.collect(*keys)
    writers = [CountingWriter() for _ in range(followers)]
    for writer in writers:
        await scene.listen(writer, [])
    for start in range(0, tasks, 100):
        for key in keys[start : start + 100]:
            last = await scene.record(key, state("completed", 100))
        while scene.hub.broadcast.busy:
            await settle()
    scene.hub.end_collection(scene.collection, {"completed": tasks}, cursor=last.cursor)
    while not scene.collection.unused:
        await settle()
    for writer in writers:
        assert list(writer.counted.values()) == [tasks, 1, 1, 2 * tasks + 1]
        assert writer.finished is Closing.FINISHED
    assert scene.interests.total == 0
