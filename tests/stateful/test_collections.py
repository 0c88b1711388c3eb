"""Members come and go, followers stall, wake and leave: who stays ends with the truth, once, in order.

The machine plays the part of `bridge.delivery` too: it knows the members, and what each follower begins with.
"""

from __future__ import annotations

from collections import Counter

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.selection import Selection, SelectionKind
from bridge.core.task import TaskKey
from bridge.hub import broadcast, connections, followers
from bridge.hub.collection import Collection
from bridge.hub.subscription import Subscription
from bridge.wire.formats import SseFormat
from bridge.wire.frames import Format, format_of
from tests.fakes.hub import Scene
from tests.fakes.loop import ManualLoop
from tests.fakes.tasks import state
from tests.fakes.writers import NDJSON, SOCKET, RecordingWriter

KEYS = [TaskKey("qingbo", f"task-{number}") for number in range(5)]
MARKED = format_of(SseFormat, mark="abcd2345")
FORMATS = [MARKED, NDJSON, SOCKET]
some = st.integers(0, 1_000_000)


class Client:
    """One connection that follows collections, and on a WebSocket tasks besides."""

    def __init__(self, subscription: Subscription, writer: RecordingWriter) -> None:
        self.subscription = subscription
        self.writer = writer
        self.collections: list[int] = []
        self.tasks: list[TaskKey] = []
        self.due: dict[TaskKey, int] = {}  # the newest state that it has to be sent
        self.repeats: set[TaskKey] = set()  # asked for once more, so that a state may come twice
        self.floor = -1
        self.told_of: Counter[str] = Counter()  # groups that ended while it followed them
        self.kept_up = True
        self.gone = False
        self.ended = False

    def messages(self) -> list[dict[str, object]]:
        """Everything written, in the shape of WebSocket messages, with the id of a state if it has one."""
        if self.writer.fmt is MARKED:
            read = []
            before = None
            for block in self.writer.sent.split(b"\n\n")[:-1]:
                lines = block.split(b"\n")
                fields = dict(line.split(b": ", 1) for line in lines if b": " in line and line[:1] != b":")
                assert b"data" in fields, "a block without data"
                assert b"id" not in fields or lines[-1].startswith(b"id: "), "the id is not last"
                name = fields.get(b"event", b"state").decode()
                document = orjson.loads(fields[b"data"])
                before = fields.get(b"id", b"").decode()
                read.append({"type": name, "id": before, "state": document} | document)
            return read
        lines = [orjson.loads(line) for line in self.writer.sent.splitlines()]
        if self.writer.fmt is SOCKET:
            return lines
        return [{"type": line.get("event", "state"), "state": line} | line for line in lines]

    def states(self) -> list[tuple[TaskKey, int, str]]:
        """Task, offset and id of each state written."""
        found = []
        for one in self.messages():
            if one["type"] == "state":
                document: dict[str, str] = one["state"]  # type: ignore[assignment] # JSON
                key = TaskKey(document["upstream"], document["task_id"])
                found.append((key, int(document["cursor"].rpartition("-")[2]), str(one.get("id", ""))))
        return found


class Followed(RuleBasedStateMachine):
    """Two collections of the same tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = ManualLoop()
        self.tuned = broadcast.SLICE, connections.BURST_BYTES, followers.NOTIFIED_PER_TURN
        self.scene = Scene()
        self.hub = self.scene.hub
        self.collections = [Collection(Selection(SelectionKind.GROUP, name)) for name in "gh"]
        self.members: list[set[TaskKey]] = [set(), set()]
        self.newest: dict[TaskKey, Event] = {}
        self.clients: list[Client] = []
        self.numbers = 0

    @initialize(
        size=st.sampled_from([1, 2, 500]), burst=st.sampled_from([1, 1500, 2**17]), members=st.integers(0, 5)
    )
    def begin(self, size: int, burst: int, members: int) -> None:
        broadcast.SLICE, connections.BURST_BYTES, followers.NOTIFIED_PER_TURN = size, burst, size
        for key in KEYS[:members]:
            self.becomes_member(key, 0)
        self.arrive(MARKED, 0, resumes=False)

    def teardown(self) -> None:
        try:
            for client in self.clients:
                with self.loop.running():
                    client.writer.wake()
            self.everything_runs()
            for client in self.clients:
                if not client.gone:
                    self.leave(client)
                    assert client.subscription.sent == len(client.writer.sent)
                    assert client.subscription.events == len(client.states())
            self.loop.settle()
            for number, collection in enumerate(self.collections):
                assert collection.unused
                left = [collection.unsent, collection.mixed, collection.floors, collection.leaving]
                assert not any(left)
                for key in list(self.members[number]):
                    self.stops_being_member(key, number)
                assert not collection.members
            assert self.hub._channels == {}, "channels were kept"
            assert self.scene.interests.total == 0
            assert not self.hub.broadcast.dirty
            assert not self.hub.batched
        finally:
            broadcast.SLICE, connections.BURST_BYTES, followers.NOTIFIED_PER_TURN = self.tuned

    def pick(self, choice: int) -> Client | None:
        there = [one for one in self.clients if not (one.gone or one.ended)]
        return there[choice % len(there)] if there else None

    def concerned(self, key: TaskKey) -> list[Client]:
        """The connections that are sent the events of a task."""
        there = [one for one in self.clients if not (one.gone or one.ended)]
        return [one for one in there if self.concerns(one, key)]

    def concerns(self, client: Client, key: TaskKey) -> bool:
        """Whether a connection is sent the events of a task."""
        return key in client.tasks or any(key in self.members[number] for number in client.collections)

    # The tasks

    @rule(key=st.sampled_from(KEYS), status=st.sampled_from(["processing"] * 8 + ["completed", "lost"]))
    def record(self, key: TaskKey, status: str) -> None:
        before = self.newest.get(key)
        known = None if before is None else before.state.status.value
        if known == "completed" or (known == "lost" and status != "completed"):
            return
        self.numbers += 1
        changed = state(status, float(self.numbers % 100))
        event = self.newest[key] = self.loop.run(self.scene.record(key, changed))
        for client in self.concerned(key):
            client.due[key] = event.cursor.offset
        if status == "completed":
            for client in self.clients:
                client.tasks = [one for one in client.tasks if one != key]
            for number, members in enumerate(self.members):
                if key in members:
                    # As selections do: they hear the journal after the hub.
                    members.discard(key)
                    with self.loop.running():
                        self.hub.release_member(self.collections[number], key)

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=2, max_size=6))
    def record_several(self, keys: list[TaskKey]) -> None:
        for key in keys:
            self.record(key, "processing")

    @rule(key=st.sampled_from(KEYS), number=st.integers(0, 1))
    def becomes_member(self, key: TaskKey, number: int) -> None:
        known = self.newest.get(key)
        if key in self.members[number]:
            return
        if known is None or known.state.status.value != "completed":
            self.members[number].add(key)
            self.hub.collect(self.collections[number], key)
        if known is not None:
            with self.loop.running():
                self.hub.show(self.collections[number], known)
            for client in self.clients:
                if number in client.collections and not (client.gone or client.ended):
                    client.repeats.add(key)
                    client.due[key] = known.cursor.offset

    @rule(key=st.sampled_from(KEYS), number=st.integers(0, 1))
    def stops_being_member(self, key: TaskKey, number: int) -> None:
        if key in self.members[number]:
            self.members[number].discard(key)
            with self.loop.running():
                self.hub.release_member(self.collections[number], key)

    @rule(key=st.sampled_from(KEYS), code=st.sampled_from([NoticeCode.STALE, NoticeCode.FRESH]))
    def notice(self, key: TaskKey, code: NoticeCode) -> None:
        with self.loop.running():
            self.scene.journal.announce(key, Notice(code, "because"))

    @rule(key=st.sampled_from(KEYS))
    def missing(self, key: TaskKey) -> None:
        if key not in self.newest:
            with self.loop.running():
                self.scene.journal.announce(key, Notice(NoticeCode.TASK_NOT_FOUND, "no"))
            for members in self.members:
                members.discard(key)
            for client in self.clients:
                client.tasks = [one for one in client.tasks if one != key]

    # The clients

    @rule(fmt=st.sampled_from(FORMATS), number=st.integers(0, 1), resumes=st.booleans())
    def arrive(self, fmt: Format, number: int, *, resumes: bool) -> None:
        if sum(not one.gone for one in self.clients) >= 6:
            return
        writer = RecordingWriter(fmt)
        client = Client(self.scene.place(writer), writer)
        self.clients.append(client)
        self.follow(client, number, resumes=resumes)

    def follow(self, client: Client, number: int, *, resumes: bool) -> None:
        head = self.scene.journal.head
        floor = max(0, head - 2) if resumes else -1
        known = [self.newest[key] for key in self.members[number] if key in self.newest]
        events = [one for one in known if one.cursor.offset > floor]
        client.floor = max(client.floor, floor)
        client.repeats.update({key for key, _, _ in client.states()} | client.due.keys())
        client.due |= {one.key: one.cursor.offset for one in events}
        client.collections.append(number)
        with self.loop.running():
            self.hub.listen(client.subscription, self.collections[number], events, floor=floor)

    @rule(choice=some, number=st.integers(0, 1))
    def follow_another(self, choice: int, number: int) -> None:
        client = self.pick(choice)
        if client is not None and client.writer.fmt is SOCKET and number not in client.collections:
            self.follow(client, number, resumes=False)

    @rule(choice=some, key=st.sampled_from(KEYS))
    def subscribe(self, choice: int, key: TaskKey) -> None:
        client = self.pick(choice)
        known = self.newest.get(key)
        if client is None or client.writer.fmt is not SOCKET or key in client.tasks:
            return
        if known is not None and known.state.status.value == "completed":
            return
        client.tasks.append(key)
        self.hub.join(client.subscription, [key])
        if known is not None:
            client.repeats.add(key)
            client.due[key] = known.cursor.offset
        with self.loop.running():
            self.scene.begin(client.subscription, [known] if known is not None else [], [key])

    @rule(choice=some, key=st.sampled_from(KEYS))
    def unsubscribe(self, choice: int, key: TaskKey) -> None:
        client = self.pick(choice)
        if client is not None and key in client.tasks:
            client.tasks.remove(key)
            self.hub.unsubscribe(client.subscription, key)
            if not self.concerns(client, key):
                client.due.pop(key, None)

    @rule(choice=some, number=st.integers(0, 1))
    def unlisten(self, choice: int, number: int) -> None:
        client = self.pick(choice)
        if client is not None and number in client.collections:
            client.collections.remove(number)
            self.hub.unlisten(client.subscription, self.collections[number])
            # What was pending by way of it may have gone, or may still come.
            client.due = {key: offset for key, offset in client.due.items() if self.concerns(client, key)}
            client.kept_up = False

    @rule(choice=some)
    def stall(self, choice: int) -> None:
        client = self.pick(choice)
        if client is not None:
            client.writer.pause()
            client.kept_up = False

    @rule(choice=some)
    def wake(self, choice: int) -> None:
        client = self.pick(choice)
        if client is not None:
            with self.loop.running():
                client.writer.wake()

    @rule(choice=some)
    def leaves(self, choice: int) -> None:
        client = self.pick(choice)
        if client is not None:
            self.leave(client)

    def leave(self, client: Client) -> None:
        if not client.gone:
            client.gone = True
            self.hub.leave(client.subscription, "left")

    @rule(number=st.integers(0, 1))
    def group_ends(self, number: int) -> None:
        collection = self.collections[number]
        for client in self.clients:
            if number in client.collections and not (client.gone or client.ended):
                client.collections.remove(number)
                client.told_of["gh"[number]] += 1
                if client.writer.fmt is not SOCKET:
                    client.ended = True
        self.members[number].clear()
        with self.loop.running():
            cursor = max((one.cursor for one in self.newest.values()), default=None)
            if cursor is None:
                cursor = self.loop.run(self.scene.record(TaskKey("qingbo", "other"), state())).cursor
        with self.loop.running():
            self.hub.end_collection(collection, {"completed": 1}, cursor=cursor)
        self.loop.settle()
        # It has no followers now but those that are slow; a new one of the same name.
        self.collections[number] = Collection(collection.selection)

    # Turns

    @rule(turns=st.integers(1, 6))
    def some_turns(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.turn()

    @rule()
    def everything_runs(self) -> None:
        """Then who is awake has everything."""
        self.loop.settle()
        for client in self.clients:
            if client.gone or client.writer.write_paused:
                continue
            given = {key: offset for key, offset, _ in client.states()}
            for key, offset in client.due.items():
                # What left in the turn of an event may be followed by what came until it was broadcast.
                assert given.get(key, -1) >= offset, f"{key} is not the newest"
                if self.concerns(client, key):
                    assert given[key] == offset, f"{key} has a state of the future"
            names = Counter(str(one.get("group")) for one in client.messages() if one["type"] == "group_done")
            assert names == client.told_of, "not told of the end of a group once"
            if client.ended:
                assert [one["type"] for one in client.messages()][-2:] == ["group_done", "end"]
                assert client.writer.finished is Closing.FINISHED
            else:
                assert client.writer.finished is None

    # What always holds

    @invariant()
    def a_task_never_goes_back_nor_repeats(self) -> None:
        for client in self.clients:
            last: dict[TaskKey, int] = {}
            for key, offset, _ in client.states():
                before = last.get(key, -1)
                assert offset >= before, "an older state of a task after a newer one"
                assert offset > before or key in client.repeats, "the same state twice"
                last[key] = offset

    @invariant()
    def an_id_says_that_everything_up_to_there_was_written(self) -> None:
        for client in self.clients:
            if client.writer.fmt is not MARKED or client.gone:
                continue
            cursor = client.floor
            given: dict[TaskKey, int] = {}
            for key, offset, event_id in client.states():
                given[key] = offset
                if event_id:
                    place = int(event_id.partition(".")[0].rpartition("-")[2])
                    assert place >= cursor, "the cursor went back"
                    cursor = place
            if client.subscription.pending or client.kept_up:
                for key, offset in client.due.items():
                    if client.floor < offset <= cursor and key not in client.repeats:
                        assert given.get(key, -1) >= offset, "the cursor went over a state never sent"

    @invariant()
    def who_keeps_up_costs_nothing_per_task(self) -> None:
        if self.loop.idle:
            for client in self.clients:
                if client.kept_up and not client.gone:
                    assert not client.subscription.pending
                    assert not client.subscription.pending_notices

    @invariant()
    def interest_is_counted_exactly(self) -> None:
        wanted = Counter(key for one in self.clients for key in one.subscription.channels)
        for collection in self.collections:
            wanted.update(list(collection.members))
        counted = +self.scene.interests.wanted
        # A group that ended waits for the round with the members that are in it.
        assert counted == wanted or not self.loop.idle


TestFollowed = Followed.TestCase
TestFollowed.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
