"""Joining, leaving, hearing, one thing at a time. What holds in any order: tests/stateful/test_hub.py."""

from __future__ import annotations

import orjson
import pytest

from bridge.core.event import Closing, Confirmation, Event, Notice, NoticeCode
from bridge.core.resume import Position
from bridge.core.task import Status, TaskKey
from bridge.errors import UnknownUpstream
from bridge.hub import broadcast, connections
from tests.fakes.clock import settle
from tests.fakes.hub import Scene
from tests.fakes.tasks import OTHER, TASK, state
from tests.fakes.writers import CHUNKED, NDJSON, SOCKET, SSE, RecordingWriter

pytestmark = pytest.mark.anyio

STALE = Notice(NoticeCode.STALE, "not confirmed")
FRESH = Notice(NoticeCode.FRESH, "confirmed")
MISSING = Notice(NoticeCode.TASK_NOT_FOUND, "no such task", retriable=False)
THIRD = TaskKey("qingbo", "task-3")


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast, "SLICE", 2)


def shown(writer: RecordingWriter) -> list[tuple[str, str, object]]:
    """The states an SSE client saw: task, status, progress."""
    documents = [orjson.loads(one.data) for one in writer.events if one.name is None]
    return [(one["task"], one["status"], one["progress"]) for one in documents]


def progress(writer: RecordingWriter) -> list[object]:
    return [number for _, _, number in shown(writer)]


def names(writer: RecordingWriter) -> list[str | None]:
    return [one.name for one in writer.events]


def cursors(writer: RecordingWriter) -> list[int]:
    """The offsets a client saw, states only."""
    return [int((one.id or "-0").rpartition("-")[2]) for one in writer.events if one.name is None]


async def test_a_newcomer_gets_the_current_state_and_then_every_one_that_follows(scene: Scene) -> None:
    await scene.tell(TASK, state(progress=1))
    _, writer = await scene.join([TASK], preface=b": ok\n", retry=2140)
    assert writer.sent.startswith(b": ok\nretry: 2140\ndata: ")
    assert writer.events[0].retry == 2140
    await scene.tell(TASK, state(progress=2))
    await scene.tell(TASK, state(progress=3))
    assert progress(writer) == [1, 2, 3]
    assert writer.events[-1].retry is None


async def test_what_was_recorded_between_reading_the_journal_and_beginning_is_not_lost(scene: Scene) -> None:
    await scene.tell(TASK, state(progress=1))
    writer = RecordingWriter()
    subscription = scene.place(writer)
    scene.hub.join(subscription, [TASK])
    read = [one for one in await scene.journal.latest([TASK]) if one is not None]
    await scene.tell(TASK, state(progress=2))
    scene.begin(subscription, read, [TASK])
    assert progress(writer) == [1, 2]


async def test_who_joins_in_the_turn_of_an_event_gets_it_once(scene: Scene) -> None:
    _, before = await scene.join([TASK])
    await scene.record(TASK, state(progress=1))
    _, writer = await scene.join([TASK])
    await settle()
    assert progress(writer) == progress(before) == [1]


async def test_nothing_is_sent_before_the_connection_has_begun(scene: Scene) -> None:
    writer = RecordingWriter()
    subscription = scene.place(writer)
    scene.hub.join(subscription, [TASK])
    await scene.tell(TASK, state(progress=1))
    scene.journal.announce(TASK, STALE)
    assert writer.writes == []
    scene.begin(subscription, [], [TASK])
    assert names(writer) == [None, "notice"]


async def test_the_news_of_one_turn_leaves_in_one_write(scene: Scene) -> None:
    _, writer = await scene.join([TASK, OTHER, THIRD])
    for number in range(5):
        await scene.record(TASK, state(progress=number))
    await scene.record(OTHER, state(progress=50))
    await settle()
    assert len(writer.writes) == 1
    assert shown(writer) == [(TASK.ref, "processing", 4), (OTHER.ref, "processing", 50)]
    assert scene.count("bridge_conflated_total", delivery="sse") == 4
    assert scene.count("bridge_events_total", delivery="sse") == 2


async def test_everybody_gets_the_same_bytes_object(scene: Scene) -> None:
    writers = [(await scene.join([TASK]))[1] for _ in range(3)]
    await scene.tell(TASK, state())
    assert len({id(writer.writes[-1]) for writer in writers}) == 1


async def test_each_form_gets_its_own_bytes(scene: Scene) -> None:
    forms = [SSE, NDJSON, SOCKET, CHUNKED]
    writers = [(await scene.join([TASK], RecordingWriter(form)))[1] for form in forms]
    await scene.tell(TASK, state(progress=7))
    event_stream, lines, messages, chunked = (writer.sent for writer in writers)
    assert orjson.loads(lines)["progress"] == 7
    assert orjson.loads(messages)["state"]["progress"] == 7
    assert chunked == b"%x\r\n%b\r\n" % (len(event_stream), event_stream)


# Endings


async def test_done_follows_an_ending_and_end_the_last_one(scene: Scene) -> None:
    _, writer = await scene.join([TASK, OTHER])
    await scene.tell(TASK, state("completed", 100))
    assert names(writer) == [None, "done"]
    assert writer.finished is None
    await scene.tell(OTHER, state("failed"))
    assert names(writer) == [None, "done", None, "done", "end"]
    assert orjson.loads(writer.events[-1].data) == {"tasks": 2}
    assert writer.finished is Closing.FINISHED


async def test_who_comes_after_the_end_gets_it_and_is_done(scene: Scene) -> None:
    await scene.tell(TASK, state("completed", 100))
    subscription, writer = await scene.join([TASK])
    assert names(writer) == [None, "done", "end"]
    assert subscription.closing is Closing.FINISHED
    assert scene.interests.total == 0


async def test_a_socket_stays_open_after_its_tasks(scene: Scene) -> None:
    _, writer = await scene.join([TASK], RecordingWriter(SOCKET))
    await scene.tell(TASK, state("completed"))
    kinds = [orjson.loads(line)["type"] for line in writer.sent.splitlines()]
    assert kinds == ["state", "done"]
    assert writer.finished is None
    assert scene.interests.total == 0


async def test_a_task_that_is_not_there_ends_with_a_notice_and_the_others_go_on(scene: Scene) -> None:
    _, writer = await scene.join([TASK, OTHER])
    scene.journal.announce(TASK, MISSING)
    assert names(writer) == ["notice"]
    await scene.tell(OTHER, state("completed"))
    assert names(writer) == ["notice", None, "done", "end"]


async def test_who_joins_while_a_task_is_known_not_to_be_there_is_told_so(scene: Scene) -> None:
    early = scene.place(RecordingWriter())
    scene.hub.join(early, [TASK])
    scene.journal.announce(TASK, MISSING)
    _, late = await scene.join([TASK])
    assert names(late) == ["notice", "end"]
    await scene.tell(TASK, state("queued"))  # it is there after all
    _, later = await scene.join([TASK])
    assert names(later) == [None]


async def test_on_a_socket_a_404_is_the_reply_to_the_subscribe_message(scene: Scene) -> None:
    subscription, writer = await scene.join([TASK], RecordingWriter(SOCKET))
    subscription.subscribe_ids = {TASK: 7}
    scene.journal.announce(TASK, MISSING)
    told = orjson.loads(writer.sent)
    assert (told["type"], told["id"], told["code"], told["task"]) == ("error", 7, "task_not_found", TASK.ref)
    assert scene.interests.total == 0


# Resuming


async def test_a_client_that_comes_back_gets_only_what_it_has_not_seen(scene: Scene) -> None:
    first = await scene.tell(TASK, state(progress=1))
    second = await scene.tell(OTHER, state(progress=2))
    _, writer = await scene.join([TASK, OTHER], after=first.cursor.offset)
    assert progress(writer) == [2]
    _, quiet = await scene.join([TASK, OTHER], after=second.cursor.offset, retry=1000)
    assert quiet.sent == b""
    await scene.tell(TASK, state(progress=3))
    assert progress(quiet) == [3]


async def test_history_comes_in_journal_order_before_what_follows(scene: Scene) -> None:
    kept: list[Event] = [
        await scene.tell(key, state(progress=number)) for number, key in enumerate([TASK, OTHER, TASK, OTHER])
    ]
    writer = RecordingWriter()
    subscription = scene.place(writer)
    scene.hub.join(subscription, [TASK, OTHER])
    scene.hub.replay(subscription, kept[:3], preface=b": ok\n", retry=1500)
    await scene.tell(OTHER, state(progress=9))
    scene.hub.replay(subscription, kept[3:])
    scene.begin(subscription, kept, [TASK, OTHER], after=kept[-1].cursor.offset)
    assert progress(writer) == [0, 1, 2, 3, 9]
    assert cursors(writer) == sorted(cursors(writer))
    assert writer.sent.startswith(b": ok\nretry: 1500\n")
    assert writer.sent.count(b"retry:") == 1
    assert subscription.events == 5


async def test_a_full_buffer_holds_back_a_replay_and_nothing_overtakes_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BURST_BYTES", 1)  # one state a write
    kept = [await scene.tell(TASK, state(progress=number)) for number in range(4)]
    writer = RecordingWriter()
    subscription = scene.place(writer)
    scene.hub.join(subscription, [TASK])
    scene.hub.replay(subscription, kept)
    assert progress(writer) == [0]
    writer.pause()
    await scene.tell(TASK, state(progress=4))
    scene.begin(subscription, kept[-1:], [TASK], after=kept[-1].cursor.offset)
    await scene.tell(TASK, state(progress=5))
    assert progress(writer) == [0]
    writer.wake()
    for _ in range(5):
        await settle()
    assert progress(writer) == [0, 1, 2, 3, 5], "only what was recorded meanwhile is conflated"


async def test_a_recorded_state_that_cannot_be_written_is_left_out_of_a_replay(scene: Scene) -> None:
    kept = [await scene.tell(TASK, state(progress=number)) for number in range(3)]
    broken = Event(TASK, kept[1].cursor, state(progress=object()))
    writer = RecordingWriter()
    subscription = scene.place(writer)
    scene.hub.join(subscription, [TASK])
    scene.hub.replay(subscription, [kept[0], broken, kept[2]])
    assert progress(writer) == [0, 2]


async def test_a_placeholder_is_sent_only_while_nothing_better_is_known(scene: Scene) -> None:
    subscription, writer = await scene.join([TASK], retry=1500)
    unknown = Event(TASK, (await scene.journal.append(OTHER, state())).cursor, state("unknown"))
    scene.hub.send_placeholders(subscription, [unknown])
    assert writer.events[0].retry == 1500
    await scene.tell(TASK, state(progress=1))
    scene.hub.send_placeholders(subscription, [unknown])
    assert [status for _, status, _ in shown(writer)] == ["unknown", "processing"]


async def test_a_newcomer_hears_when_the_state_was_last_confirmed(scene: Scene) -> None:
    await scene.join([TASK])
    await scene.tell(TASK, state())
    scene.clock.skip(60)
    scene.journal.confirm(TASK, Confirmation(scene.clock.time()))
    _, writer = await scene.join([TASK])
    document = orjson.loads(writer.events[0].data)
    assert document["observed_at"] > document["changed_at"]


# Notices


async def test_standing_notices_are_told_to_newcomers_until_fresh(scene: Scene) -> None:
    _, writer = await scene.join([TASK])
    scene.journal.announce(TASK, STALE)
    _, late = await scene.join([TASK])
    scene.journal.announce(TASK, FRESH)
    _, latest = await scene.join([TASK])
    codes = [[orjson.loads(one.data)["code"] for one in each.events] for each in (writer, late, latest)]
    assert codes == [["stale", "fresh"], ["stale", "fresh"], []]
    assert scene.count("bridge_notices_total", code="stale") == 1


async def test_what_interest_brings_to_light_reaches_whoever_caused_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = scene.interests.want

    def want(key: TaskKey, by: object = None, *, resumes: bool = False) -> None:
        scene.journal.announce(key, STALE)
        wanted(key)

    monkeypatch.setattr(scene.interests, "want", want)
    _, writer = await scene.join([TASK])
    assert names(writer) == ["notice"]


async def test_remarks_concern_one_connection(scene: Scene) -> None:
    _, other = await scene.join([TASK])
    expiring = Notice(NoticeCode.LINKS_EXPIRING, "soon")
    _, writer = await scene.join([TASK], remarks=[(TASK, expiring)])
    assert names(writer) == ["notice"]
    assert other.sent == b""


# Those who do not read


async def test_a_paused_client_gets_only_the_newest_of_each_task_when_it_wakes(scene: Scene) -> None:
    _, slow = await scene.join([TASK, OTHER])
    _, quick = await scene.join([TASK, OTHER])
    slow.pause()
    for number in range(10):
        await scene.tell(TASK if number % 2 else OTHER, state(progress=number))
    assert slow.writes == []
    slow.wake()
    await settle()
    assert progress(slow) == [8, 9]
    assert progress(quick) == list(range(10))
    assert len(slow.writes) == 1
    assert scene.count("bridge_conflated_total", delivery="sse") == 8
    assert scene.count("bridge_events_total", delivery="sse") == 12


async def test_endings_and_notices_wait_for_a_paused_client(scene: Scene) -> None:
    _, slow = await scene.join([TASK, OTHER, THIRD])
    slow.pause()
    scene.journal.announce(OTHER, STALE)
    await scene.tell(TASK, state("completed"))
    scene.journal.announce(THIRD, MISSING)
    await scene.tell(OTHER, state("failed"))
    assert slow.writes == []
    assert slow.finished is None
    slow.wake()
    await settle()
    assert names(slow) == [None, "done", None, "done", "notice", "notice", "end"]
    assert slow.finished is Closing.FINISHED


async def test_the_404_of_the_only_task_reaches_a_paused_client(scene: Scene) -> None:
    _, slow = await scene.join([TASK])
    slow.pause()
    scene.journal.announce(TASK, MISSING)
    slow.wake()
    await settle()
    assert names(slow) == ["notice", "end"]


async def test_fresh_takes_back_the_notices_a_paused_client_was_not_told(scene: Scene) -> None:
    _, slow = await scene.join([TASK, OTHER])
    slow.pause()
    scene.journal.announce(TASK, STALE)
    scene.journal.announce(OTHER, STALE)
    scene.journal.announce(TASK, FRESH)
    slow.wake()
    await settle()
    told = [(orjson.loads(one.data)["task"], orjson.loads(one.data)["code"]) for one in slow.events]
    assert told == [(OTHER.ref, "stale"), (TASK.ref, "fresh")]


async def test_news_in_the_turn_a_client_wakes_does_not_overtake_what_it_is_owed(scene: Scene) -> None:
    _, slow = await scene.join([TASK, OTHER])
    slow.pause()
    await scene.tell(TASK, state(progress=1))
    await scene.record(OTHER, state(progress=2))  # carried in this turn
    slow.wake()  # and the client reads again in this turn
    await settle()
    assert cursors(slow) == sorted(cursors(slow))
    assert progress(slow) == [1, 2]


async def test_an_unsubscribed_task_is_owed_nothing(scene: Scene) -> None:
    subscription, slow = await scene.join([TASK, OTHER], RecordingWriter(SOCKET))
    slow.pause()
    await scene.tell(TASK, state(progress=1))
    scene.journal.announce(TASK, STALE)
    scene.hub.unsubscribe(subscription, TASK)
    slow.wake()
    await settle()
    assert slow.sent == b""


async def test_asking_for_more_first_brings_what_was_owed(scene: Scene) -> None:
    subscription, slow = await scene.join([TASK])
    slow.pause()
    await scene.tell(TASK, state(progress=1))
    await scene.tell(OTHER, state(progress=2))
    await scene.subscribe(subscription, [OTHER])
    slow.wake()
    await settle()
    assert progress(slow) == [1, 2]
    assert cursors(slow) == sorted(cursors(slow))


# Slices


@pytest.mark.usefixtures("small_slices")
async def test_an_ending_heard_between_two_slices_reaches_everybody(scene: Scene) -> None:
    writers = [(await scene.join([TASK]))[1] for _ in range(7)]
    await scene.record(TASK, state(progress=50))
    scene.hub.broadcast.step()
    await scene.record(TASK, state("completed", 100))
    await settle()
    assert all(progress(writer) == [50, 100] for writer in writers)
    assert all(names(writer) == [None, None, "done", "end"] for writer in writers)


@pytest.mark.usefixtures("small_slices")
async def test_news_between_two_slices_overtakes_nothing(scene: Scene) -> None:
    writers = [(await scene.join([TASK, OTHER, THIRD]))[1] for _ in range(5)]
    for number, key in enumerate([TASK, OTHER, THIRD]):
        await scene.record(key, state(progress=number))
    scene.hub.broadcast.step()
    await scene.record(OTHER, state(progress=9))
    await settle()
    for writer in writers:
        assert progress(writer) == [0, 1, 2, 9]
        assert cursors(writer) == sorted(cursors(writer))


@pytest.mark.usefixtures("small_slices")
async def test_who_joins_between_two_slices_sees_nothing_older_after_something_newer(scene: Scene) -> None:
    for form in (SSE, SSE, SSE, NDJSON):
        await scene.join([TASK], RecordingWriter(form))
    await scene.record(TASK, state(progress=1))
    scene.hub.broadcast.step()
    await scene.record(TASK, state(progress=2))
    _, writer = await scene.join([TASK], RecordingWriter(NDJSON))
    await settle()
    assert [orjson.loads(line)["progress"] for line in writer.sent.splitlines()] == [2]


@pytest.mark.usefixtures("small_slices")
async def test_who_wakes_between_two_slices_sees_nothing_twice_or_late(scene: Scene) -> None:
    writers = [(await scene.join([TASK, OTHER]))[1] for _ in range(6)]
    writers[5].pause()
    await scene.tell(TASK, state(progress=1))
    await scene.record(TASK, state(progress=2))
    await scene.record(OTHER, state(progress=3))
    scene.hub.broadcast.step()
    writers[5].wake()
    await scene.record(TASK, state(progress=4))
    await settle()
    assert cursors(writers[5]) == sorted(set(cursors(writers[5])))
    assert progress(writers[5])[-2:] == [3, 4]


@pytest.mark.usefixtures("small_slices")
async def test_who_stalls_and_wakes_within_a_round_keeps_the_order(scene: Scene) -> None:
    joined = [await scene.join([TASK, OTHER, THIRD]) for _ in range(4)]
    first, writer = joined[0]
    for number, key in enumerate([TASK, OTHER, THIRD]):
        await scene.record(key, state(progress=number))
    scene.hub.broadcast.step()
    writer.pause()
    while not first.pending:
        scene.hub.broadcast.step()
    assert first in scene.hub.batched, "one task's news is kept for the write of this round"
    writer.write_paused = False
    scene.hub._resume(first)
    await settle()
    assert progress(writer) == [0, 1, 2]
    assert cursors(writer) == sorted(cursors(writer))


@pytest.mark.usefixtures("small_slices")
async def test_who_leaves_between_two_slices_is_written_to_no_more(scene: Scene) -> None:
    joined = [await scene.join([TASK]) for _ in range(6)]
    await scene.record(TASK, state(progress=1))
    scene.hub.broadcast.step()
    for subscription, _ in joined:
        scene.hub.leave(subscription, "left")
    written = [len(writer.writes) for _, writer in joined]
    await settle()
    assert [len(writer.writes) for _, writer in joined] == written
    assert scene.interests.total == 0


@pytest.mark.usefixtures("small_slices")
async def test_who_unsubscribes_between_two_slices_gets_no_more_of_the_task(scene: Scene) -> None:
    joined = [await scene.join([TASK]) for _ in range(6)]
    await scene.record(TASK, state(progress=1))
    scene.hub.broadcast.step()
    for subscription, _ in joined:
        scene.hub.unsubscribe(subscription, TASK)
    await settle()
    assert [len(writer.writes) for _, writer in joined] == [1, 1, 0, 0, 0, 0]


# Leaving


async def test_leaving_is_idempotent_and_leaves_nothing(scene: Scene) -> None:
    subscription, writer = await scene.join([TASK, OTHER])
    assert scene.interests.wanted == {TASK: 1, OTHER: 1}
    scene.hub.leave(subscription, "left")
    scene.hub.leave(subscription, "left")
    scene.hub.unsubscribe(subscription, TASK)
    await scene.tell(TASK, state())
    assert writer.writes == []
    assert scene.hub.channel_of(TASK) is None
    assert not scene.hub.subscriptions
    assert scene.interests.total == 0
    assert scene.count("bridge_disconnects_total", delivery="sse", reason="left") == 1
    assert scene.count("bridge_connections", delivery="sse") == 0


async def test_leaving_before_beginning_leaves_nothing(scene: Scene) -> None:
    subscription = scene.place(RecordingWriter())
    scene.hub.join(subscription, [TASK, TASK])
    assert scene.interests.total == 1
    scene.hub.leave(subscription, "left")
    scene.begin(subscription, [], [TASK])
    assert scene.hub.channel_of(TASK) is None
    assert scene.interests.total == 0


async def test_a_task_that_cannot_be_wanted_leaves_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(key: TaskKey, by: object = None, *, resumes: bool = False) -> None:
        raise UnknownUpstream(key.upstream)

    subscription = scene.place(RecordingWriter())
    monkeypatch.setattr(scene.interests, "want", refuse)
    with pytest.raises(UnknownUpstream):
        scene.hub.join(subscription, [TASK])
    scene.hub.leave(subscription, "left")
    assert scene.interests.total == 0
    assert scene.hub.channel_of(TASK) is None


async def test_finishing_says_a_last_word_once(scene: Scene) -> None:
    subscription, writer = await scene.join([TASK])
    scene.hub.finish(subscription, Closing.DRAIN, b"data: bye\n\n")
    scene.hub.finish(subscription, Closing.AGE, b"data: again\n\n")
    await scene.tell(TASK, state())
    assert writer.sent == b"data: bye\n\n"
    assert writer.finished is Closing.DRAIN
    assert scene.count("bridge_notices_total", code="closing") == 1


async def test_a_connection_that_cannot_be_written_to_ends_alone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, writer = await scene.join([TASK])
    _, other = await scene.join([TASK])

    def fail(_data: bytes) -> None:
        raise RuntimeError("a bug in a writer")

    broken.write = fail
    await scene.tell(TASK, state(progress=1))
    await scene.tell(TASK, state(progress=2))
    scene.journal.announce(TASK, STALE)
    assert writer.aborted
    assert names(other) == [None, None, "notice"]
    scene.hub.leave(broken, "gone")


async def test_a_client_that_left_in_the_middle_of_a_broadcast_is_no_bug(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    left, writer = await scene.join([TASK])
    _, other = await scene.join([TASK])

    def closed(_data: bytes) -> None:
        raise RuntimeError("unable to perform operation on a closed transport")

    left.write = closed
    writer.aborted = True
    await scene.tell(TASK, state(progress=1))
    assert names(other) == [None]
    assert caplog.records == []
    assert left.closing is None  # its own end comes on its own way
    scene.hub.leave(left, "left")


# Waiting for one change


async def test_a_wait_for_a_change_ends_with_it_or_with_nothing(scene: Scene) -> None:
    import asyncio

    first = await scene.tell(TASK, state(progress=1))
    waiting = asyncio.ensure_future(scene.hub.changed(TASK, Position(first.cursor.offset), seconds=60))
    await settle()
    assert scene.interests.total == 1
    second = await scene.tell(TASK, state(progress=2))
    assert await waiting == second
    assert await scene.hub.changed(TASK, Position(second.cursor.offset), seconds=0) is None
    assert scene.interests.total == 0
    assert scene.hub.channel_of(TASK) is None


async def test_a_change_already_heard_is_answered_at_once(scene: Scene) -> None:
    await scene.join([TASK])
    event = await scene.tell(TASK, state(progress=1))
    assert await scene.hub.changed(TASK, Position(event.cursor.offset - 1), seconds=60) == event
    assert scene.interests.total == 1


async def test_a_wait_that_is_cancelled_leaves_nothing(scene: Scene) -> None:
    import asyncio

    waiting = asyncio.ensure_future(scene.hub.changed(TASK, Position(0), seconds=60))
    await settle()
    waiting.cancel()
    await settle()
    assert scene.interests.total == 0
    assert scene.hub.channel_of(TASK) is None


async def test_delivery_is_timed_from_the_moment_a_state_was_seen(scene: Scene) -> None:
    await scene.join([TASK])
    await scene.tell(TASK, state(), observed_at=scene.clock.monotonic() - 0.2)
    assert scene.count("bridge_delivery_seconds_sum", delivery="sse") == pytest.approx(0.2)
    await scene.tell(TASK, state(Status.QUEUED))  # seen before a restart: nobody knows
    assert scene.count("bridge_delivery_seconds_count", delivery="sse") == 1
