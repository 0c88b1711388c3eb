"""The engine on servers that fail: late, full, gone, set back, without its scripts, with data of others."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.engine.address import parse_address
from bridge.engine.base import (
    LEARNED_SECONDS,
    BeatEntry,
    End,
    ForgetEntry,
    Job,
    Listing,
    Mode,
    Release,
    Report,
    SessionState,
    Take,
    Want,
    Welcome,
)
from bridge.engine.redis.connect import EngineUnfit, ServerAccess
from bridge.engine.redis.engine import RedisEngine
from bridge.engine.redis.scripts import load_scripts
from bridge.errors import EngineRefused, EngineUnavailable
from tests.conftest import missing
from tests.fakes.engines import EngineUse, VirtualTime, state_of
from tests.fakes.redis_engines import PATIENCE, engine_on
from tests.fakes.redis_servers import RedisServer, free_port, unavailable

pytestmark = pytest.mark.anyio

TASK = TaskKey("video", "one")
OTHERS = [pytest.param(kind, marks=pytest.mark.extended) for kind in ("redis7", "redis62")]
KINDS = ["valkey", *OTHERS]


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    if unavailable(request.param):
        missing(request.param)
    with RedisServer(request.param) as server:
        yield server


@pytest.fixture
def valkey() -> Iterator[RedisServer]:
    if unavailable("valkey"):
        missing("valkey")
    with RedisServer("valkey") as server:
        yield server


async def opened(server: RedisServer, session: str = "a", **more: Any) -> RedisEngine:
    engine = engine_on(server, **more)
    await engine.connect()
    await open_session(engine, session)
    return engine


async def open_session(engine: RedisEngine, session: str = "a", *, epoch: str = "e1") -> Welcome:
    return await engine.session(session, ttl=60, known_head=0, new_epoch=epoch, about=b"", opens=True)


async def until(server: RedisServer, mark: str, *command: str) -> None:
    """Ask a server until it has come so far."""
    while mark not in server.ask(*command):  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.01)


async def record(engine: RedisEngine, version: int, session: str = "a") -> str:
    (applied,) = await engine.apply(session, [state_of(TASK, version, session, mode=Mode.FREE)])
    return applied.outcome.value


async def fails(call: Awaitable[Any]) -> str:
    with pytest.raises(EngineUnavailable) as caught:
        await call
    return str(caught.value)


async def test_scripts_that_the_server_has_lost_are_sent_once_and_run_once(server: RedisServer) -> None:
    engine = await opened(server)
    assert await record(engine, 1) == "recorded"
    server.ask("SCRIPT", "FLUSH")

    answers = await asyncio.gather(*(record(engine, version) for version in (2, 2, 2)), engine.census())

    assert sorted(answers[:3]) == ["duplicate", "duplicate", "recorded"]
    assert len(await engine.history(TASK, 0)) == 2
    await engine.close()


async def test_calls_at_the_same_time_are_answered_each_with_its_own(server: RedisServer) -> None:
    engine = await opened(server)
    keys = [TaskKey("video", str(number)) for number in range(300)]

    applied = await asyncio.gather(
        *(engine.apply("a", [state_of(key, 1, mode=Mode.FREE, content=key.task_id)]) for key in keys)
    )
    records = await asyncio.gather(*(engine.records([key]) for key in keys))

    assert len({one.offset for (one,) in applied}) == 300
    assert [record.document for (record,) in records] == [key.task_id.encode() for key in keys]
    await engine.close()


async def test_an_answer_that_is_late_drops_both_connections(server: RedisServer) -> None:
    engine = await opened(server, timeout=0.2)
    head = (await open_session(engine)).head
    reading = asyncio.create_task(engine.read(head, block=30))
    await asyncio.sleep(0)
    server.pause()
    try:
        sentence = await fails(record(engine, 1))
        assert sentence == f"the engine at {server.socket} did not answer within 0.2 s"
        assert await fails(reading) == sentence
        assert await fails(engine.census()) == sentence
        assert "did not answer in time" in await fails(engine.connect())
    finally:
        server.resume()
    await engine.connect()
    assert (await open_session(engine, "b")).state is SessionState.OPENED
    await engine.close()


async def test_a_server_that_is_killed_is_noticed_at_once_and_its_new_history_begins_an_epoch(
    server: RedisServer,
) -> None:
    server.kill()
    server.options += ["--appendonly", "yes", "--appendfsync", "always"]
    server.start()
    engine = await opened(server)
    first = await open_session(engine)
    assert await record(engine, 1) == "recorded"
    reading = asyncio.create_task(engine.read((await open_session(engine)).head, block=30))
    await asyncio.sleep(0)
    server.kill()

    await fails(reading)
    await fails(record(engine, 2))
    assert "cannot be reached" in await fails(engine.connect())
    server.start()
    await engine.connect()
    again = await open_session(engine, "b", epoch="e2")

    assert (first.epoch, again.epoch) == ("e1", "e2")
    assert again.head > first.head
    # Its data is there; the session that was open before lives on in it.
    assert (await engine.records([TASK]))[0].version == 1
    await engine.close()


async def test_a_server_that_comes_back_empty_begins_above_what_replicas_know(valkey: RedisServer) -> None:
    engine = await opened(valkey)
    await record(engine, 1)
    head = (await open_session(engine)).head
    valkey.kill()
    valkey.empty()
    valkey.start()
    await engine.connect()

    renewed = await engine.session(
        "a", ttl=60, known_head=head + 3_600_000_000, new_epoch="e2", about=b"", opens=False
    )

    assert renewed.state is SessionState.EXPIRED
    assert renewed.epoch == "e2"
    assert renewed.head > head + 3_600_000_000
    assert (await engine.records([TASK]))[0].version == 0
    await engine.close()


async def test_a_full_server_behaves_as_one_that_is_away_and_nothing_is_half_written(
    server: RedisServer,
) -> None:
    engine = await opened(server)
    await engine.want("a", [Want(TASK)], linger=60)
    assert await record(engine, 1) == "recorded"
    before = await engine.records([TASK]), await engine.history(TASK, 0), await engine.read(0, block=0)
    server.ask("CONFIG", "SET", "maxmemory", "1")
    attempts: list[Callable[[], Awaitable[Any]]] = [
        lambda: record(engine, 2),
        lambda: engine.apply("a", [state_of(TASK, 2, end=End.ENDED)]),
        lambda: open_session(engine),
        lambda: engine.release("a", [Release(TASK, 5)], transfer=True),
        lambda: engine.put("x", b"1", expect=None, seconds=9, announced=True),
        lambda: engine.announce("a", TASK, "stalled", b"{}"),
        lambda: engine.register("a", TASK, b"{}"),
        lambda: engine.keep("a", TASK, called_back=True),
        lambda: engine.begin("a", "x", b"d", seconds=9),
        lambda: engine.call("a", TASK),
        lambda: engine.leave("a"),
    ]
    for attempt in attempts:
        with pytest.raises(EngineRefused, match="is full: its memory has reached maxmemory"):
            await attempt()
        await engine.connect()
    server.ask("CONFIG", "SET", "maxmemory", "0")

    after = await engine.records([TASK]), await engine.history(TASK, 0), await engine.read(0, block=0)
    assert after == before
    assert await record(engine, 2) == "recorded"
    await engine.close()


async def test_a_master_that_becomes_a_replica_is_dropped(server: RedisServer) -> None:
    engine = await opened(server)
    with RedisServer(server.kind) as other:
        server.ask("REPLICAOF", "127.0.0.1", str(other.port))
        assert "is a replica, not the master" in await fails(record(engine, 1))
        assert "is a replica, not the master" in await fails(engine.connect())
    await engine.close()


async def test_a_promoted_copy_is_another_history(server: RedisServer) -> None:
    engine = await opened(server)
    await record(engine, 1)
    first = await open_session(engine)
    with RedisServer(server.kind) as copy:
        copy.ask("REPLICAOF", "127.0.0.1", str(server.port))
        await until(copy, "master_link_status:up", "INFO", "replication")
        server.ask("WAIT", "1", "2000")
        copy.ask("REPLICAOF", "NO", "ONE")
        promoted = engine_on(copy)
        await promoted.connect()
        second = await open_session(promoted, "b", epoch="e2")

        assert (first.epoch, second.epoch) == ("e1", "e2")
        assert second.head > first.head
        # With the log that it has: entries of the old epoch are below.
        assert all(entry.offset < second.head for entry in await promoted.read(0, block=0))
        await promoted.close()
    await engine.close()


async def test_somebody_elses_data_under_our_names_is_an_error_and_not_a_crash(valkey: RedisServer) -> None:
    engine = await opened(valkey)
    await record(engine, 1)
    record_key, log = "{bridge}:t:video/-/one", "{bridge}:log"
    for spoil in (
        ("HSET", record_key, "v", "many"),
        ("HSET", record_key, "e", "7"),
        ("SET", record_key, "text"),
    ):
        valkey.ask("DEL", record_key)
        valkey.ask(*spoil)
        assert [one.version for one in await engine.records([TASK])] == [0]
    for entry in (
        ("x", "y"),
        ("p", "1"),
        ("p", "1", "unknown", "2"),
        ("p", "1", "k", "no-task", "s", "1", "c", "2"),
    ):
        valkey.ask("DEL", log)
        valkey.ask("XADD", log, "5-0", *entry)
        assert "has an entry" in await fails(engine.read(0, block=0))
        await engine.connect()
    valkey.ask("DEL", log)
    valkey.ask("XADD", log, "5-7", "p", "1", "a", "somebody")
    assert await engine.read(0, block=0) == [BeatEntry(5, 1, "somebody")]
    await engine.close()


async def test_a_spoiled_record_in_a_call_leaves_the_log_of_the_others_whole(server: RedisServer) -> None:
    engine = await opened(server)
    others = [TaskKey("video", f"other-{number}") for number in range(4)]
    server.ask("SET", "{bridge}:t:video/-/one", "text")
    states = [state_of(key, 1, mode=Mode.FREE) for key in (*others[:3], TASK, others[3])]

    applied = await engine.apply("a", states)

    # Those before the spoiled one were recorded when it was met.
    assert [one.outcome.value for one in applied] == [*["duplicate"] * 3, "recorded", "recorded"]
    entries = await engine.read(0, block=0)
    assert [entry.previous for entry in entries[1:]] == [entry.offset for entry in entries[:-1]]
    newest = await engine.newest("video", TASK.account, final=False, limit=9)
    assert newest == [others[3], TASK, *others[2::-1]]
    await engine.close()


async def test_data_of_another_format_is_refused_for_good(valkey: RedisServer) -> None:
    engine = await opened(valkey)
    valkey.ask("HSET", "{bridge}:meta", "format", "0.9")

    with pytest.raises(EngineUnavailable, match=r"format 0\.9") as caught:
        await open_session(engine)

    assert caught.value.lasting
    await engine.close()


async def test_a_read_that_is_cancelled_loses_no_entry(server: RedisServer) -> None:
    engine = await opened(server)
    head = (await open_session(engine)).head
    reading = asyncio.create_task(engine.read(head, block=30))
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await record(engine, 1)

    entries = await engine.read(head, block=30)
    assert [entry.previous for entry in entries] == [head]
    # What another read had asked for is not taken for this one's.
    reading = asyncio.create_task(engine.read(entries[-1].offset, block=0.05))
    await asyncio.sleep(0.01)
    reading.cancel()
    assert await engine.read(head, block=1) == entries
    await engine.close()


async def test_a_call_that_is_cancelled_leaves_the_others_their_answers(valkey: RedisServer) -> None:
    engine = await opened(valkey)
    calls = [asyncio.create_task(engine.get([f"x{number}"])) for number in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)

    assert [await call for call in calls[1::2]] == [[(0, None)]] * 10
    assert await record(engine, 1) == "recorded"
    await engine.close()


NONSENSE = (
    b"*1\r\n",
    b"!?\r\n",
    b"+OK\r\n",
    b":3\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"-MOVED nowhere\r\n",
    b"*0\r\n",
)


@pytest.mark.parametrize("nonsense", NONSENSE, ids=repr)
async def test_a_server_that_talks_nonsense_is_dropped(nonsense: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await reader.read(1 << 16):
            if b"PING" in asked:
                writer.write(b"+PONG\r\n")
            elif b"INFO" in asked:
                writer.write(b"$13\r\nrole:master\r\n\r\n" * 3)
            else:
                writer.write(nonsense * asked.count(b"\r\n$7\r\nEVALSHA"))
        writer.close()

    talker = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = talker.sockets[0].getsockname()[1]
    engine = RedisEngine(ServerAccess(address=parse_address(f"redis://127.0.0.1:{port}"), timeout=0.3))
    await engine.connect()

    assert "engine" in await fails(open_session(engine))
    assert "engine" in await fails(open_session(engine))

    await engine.close()
    talker.close()


async def test_old_tasks_are_deleted_with_everything_that_leads_to_them(valkey: RedisServer) -> None:
    clock = VirtualTime()
    engine = engine_on(valkey, now=clock)
    await engine.connect()
    use = EngineUse(engine, clock)
    await use.session("a", ttl=10_000_000)
    ended, lost, open_ = TaskKey("video", "x/ended"), TaskKey("video", "lost"), TaskKey("video", "open")
    details = b'{"tags": ["red"], "group": "g"}'
    await use.apply("a", state_of(ended, 1, mode=Mode.FREE, end=End.ENDED, details=details))
    await use.apply("a", state_of(lost, 1, mode=Mode.FREE, end=End.LOST))
    await use.apply("a", state_of(open_, 1, mode=Mode.FREE))
    await use.want("a", lost, linger=10_000_000)
    await engine.want("a", [Want(TaskKey("video", "blank"))], linger=1)
    clock.advance(2)
    await use.engine.release("a", [Release(TaskKey("video", "blank"), 0)], transfer=False)
    clock.advance(86_401)
    await use.session("a", ttl=10_000_000, opens=False)
    assert [(await use.record(key)).version for key in (ended, lost, open_)] == [0, 1, 1]
    assert await engine.listing("video", "-", tag="red") == []
    assert await engine.newest("video", "-", final=True, limit=10) == [lost]
    clock.advance(8 * 86_400)
    await use.session("a", ttl=10_000_000, opens=False)
    assert [(await use.record(key)).version for key in (lost, open_)] == [1, 0]
    left = valkey.ask("KEYS", "*")
    found = [name for name in ("x/ended", "one/open", "tails", "blank", "open:") if name in left]
    assert found == [], left
    assert valkey.ask("ZCARD", "{bridge}:tasks:video/-") == ":1\r\n"
    await engine.close()


async def test_what_a_version_before_listed_is_listed_by_account(valkey: RedisServer) -> None:
    """It had one list of all accounts of an upstream, and may go on writing it while both are deployed."""
    engine = await opened(valkey)
    keys = [TaskKey("video", f"{number}\0x", f"{number % 2}/of") for number in range(1300)]
    tagged = b'{"tags": ["red"], "group": "g"}'
    for start in range(0, len(keys), 50):
        batch = keys[start : start + 50]
        await engine.apply("a", [state_of(key, 1, mode=Mode.FREE, details=tagged) for key in batch])
    moved = """
        for _, name in ipairs({'0%2Fof', '1%2Fof'}) do
          local list = '{bridge}:tasks:video/' .. name
          for _, one in ipairs(redis.call('ZRANGE', list, 0, -1)) do
            redis.call('ZADD', '{bridge}:list:video', 0, one)
          end
          redis.call('UNLINK', list, '{bridge}:listed:video')
        end
        return redis.call('ZCARD', '{bridge}:list:video')"""
    assert valkey.ask("EVAL", moved, "0") == ":3900\r\n"
    listed = [one.key for one in await engine.listing("video", "1/of", tag="red", group="g", limit=1000)]
    assert listed == keys[::-1][::2]
    assert valkey.ask("EXISTS", "{bridge}:list:video") == ":0\r\n"
    assert await engine.accounts("video") == ["0/of", "1/of"]
    # It forgets a task that is listed here: nothing leads to it any more.
    text = "video/1%2Fof/1299\0x"
    assert valkey.ask("UNLINK", f"{{bridge}}:t:{text}") == ":1\r\n"
    assert (await engine.listing("video", "1/of", limit=1))[0].key == keys[1297]
    assert [one.key for one in await engine.listing("video", "1/of", tag="red", limit=2)] == [
        keys[1297],
        keys[1295],
    ]
    assert valkey.ask("ZCARD", "{bridge}:tasks:video/1%2Fof") == f":{650 * 3 - 2}\r\n"
    # It registers one anew.
    first = (await engine.records([keys[0]]))[0].first_seen
    valkey.ask("HSET", f"{{bridge}}:t:video/0%2Fof/{keys[0].task_id}", "x", '{"tags": ["blue"]}')
    valkey.ask("ZADD", "{bridge}:list:video", "0", f"tag:blue\0{first:016d}\0video/0%2Fof/{keys[0].task_id}")
    assert [one.key for one in await engine.listing("video", "0/of", tag="blue")] == [keys[0]]
    assert keys[0] not in [one.key for one in await engine.listing("video", "0/of", tag="red", limit=1000)]
    await engine.close()


async def test_a_version_before_takes_a_deletion_for_that_of_a_document(valkey: RedisServer) -> None:
    """One that does not know it must not lose its connection over it."""
    engine = await opened(valkey)
    await record(engine, 1)
    before = (await open_session(engine)).head
    assert await engine.forget("a", TASK)
    (entry,) = await engine.read(before, block=0)
    assert isinstance(entry, ForgetEntry)
    raw = valkey.ask("XRANGE", "{bridge}:log", f"{entry.offset}", "+").split("\r\n")
    assert [raw[place] for place in (10, 12, 14, 16)] == ["j", "forgotten", "g", "video/-/one"]
    await engine.close()


async def test_keys_expire_by_themselves_if_no_bridge_is_left(valkey: RedisServer) -> None:
    engine = await opened(valkey)
    await record(engine, 1)
    await engine.begin("a", "x", b"d", seconds=60)
    await engine.put("x", b"1", expect=None, seconds=60)

    for key in ("t:video/-/one", "h:video/-/one", "op:x", "doc:x"):
        assert int(valkey.ask("PTTL", f"{{bridge}}:{key}")[1:]) > 0
    await engine.close()


async def test_every_key_of_a_cluster_is_in_one_slot(server: RedisServer) -> None:
    server.kill()
    while server.port > 55_000:  # its port for other nodes is 10,000 above
        server.port = free_port()
    server.options += ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
    server.start()
    slot = int(server.ask("CLUSTER", "KEYSLOT", "{bridge}:meta")[1:])
    engine = engine_on(server)
    await engine.connect()
    # It owns no slot at all, then this one: a key that has another one, or that is not declared, is refused.
    assert "cluster" in await fails(open_session(engine))
    server.ask("CLUSTER", "ADDSLOTS", str(slot))
    server.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
    await until(server, "cluster_state:ok", "CLUSTER", "INFO")
    await engine.connect()
    await open_session(engine)

    await everything(engine)

    await engine.close()


async def test_the_documented_user_may_do_everything_and_nothing_else(server: RedisServer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "replicas.md").read_text("utf-8")
    (rule,) = re.findall(r"^user bridge on (>PASSWORD .*)$", page, re.MULTILINE)
    assert server.ask("ACL", "SETUSER", "bridge", "on", *rule.split()) == "+OK\r\n"
    access = ServerAccess(
        address=parse_address(f"unix://bridge@{server.socket}?db=0"), password="PASSWORD", timeout=PATIENCE
    )
    engine = RedisEngine(access)
    await engine.connect()
    await engine.check()
    await open_session(engine)

    await everything(engine)

    needed = set(
        re.findall(r"\bcall\('([A-Z]+)'", "".join(script.text for script in engine.scripts.values()))
    )
    assert needed <= {word[1:].upper() for word in rule.split() if word.startswith("+")}
    await engine.close()


async def everything(engine: RedisEngine) -> None:
    """Each operation once, with results where it can have some."""
    task, now = TaskKey("video", "models/one"), time.time_ns() // 1000
    details = b'{"tags": ["red"], "group": "g"}'
    await engine.want("a", [Want(task), Want(TASK)], linger=60)
    await engine.rewant([task, TASK], linger=60)
    await engine.keep("a", task, called_back=True)
    state = state_of(task, 1, details=details)
    assert (await engine.apply("a", [state]))[0].outcome == "recorded"
    assert (await engine.call("a", TaskKey("video", "one")))[0] == "told"
    await engine.register("a", task, details)
    await engine.announce("a", task, "stalled", b"{}")
    await engine.confirm("a", [(task, Confirmation(1.5, 2.5))])
    listed = Listing((await engine.records([task]))[0].first_seen, task, details)
    assert await engine.listing("video", "-", tag="red", group="g") == [listed]
    assert await engine.oldest("video", "-", after=0, limit=9) == [listed]
    assert await engine.accounts("video") == ["-"]
    assert await engine.newest("video", "-", final=False, limit=3) == [task]
    assert len(await engine.history(task, 0)) == 1
    await engine.release("a", [Release(task, now)], transfer=True)
    assert [record.key for record in await engine.claim("a", account="-", limit=9)] == [task]
    await open_session(engine, "b")
    await engine.want("b", [Want(TaskKey("video", "two"))], linger=60)
    await engine.leave("b")
    await engine.bury(limit=5, spacing=0.1)
    assert (await engine.census()).orphans == 1
    await engine.take("a", Take("video/-", rate=9, slots=2, permits=1, max_permits=2, planned=0.5))
    assert (await engine.report("a", "video/-", Report.FAILED))[1] == 1
    assert await engine.probe("a", "video/-", seconds=5)
    await engine.learn("x", [b"1"], keep=3)
    assert await engine.learned(["x"]) == [[b"1"]]
    assert (await engine.put("x", b"1", expect=0, seconds=9, announced=True)).written
    assert (await engine.get(["x"]))[0][1] == b"1"
    assert (await engine.begin("a", "x", b"d", seconds=9)).state == "new"
    assert await engine.finish("a", "x", b"answer")
    job = Job("hook", "1", b"body", ordering="o")
    await engine.apply("a", [state_of(task, 2, end=End.ENDED, jobs=[job])])
    assert len(await engine.claim_jobs("a", "hook", limit=5, lease=9)) == 1
    assert await engine.finish_job("a", "hook", "1")
    await engine.run("forget_answers", [engine.keys.operation(b"x")])
    newer = [Job("hook", str(number), b"body", "o", replaceable=True) for number in range(2, 5)]
    await engine.apply("a", [state_of(TASK, 1, mode=Mode.FREE, jobs=newer[:2])])
    assert len(await engine.claim_jobs("a", "hook", limit=5, lease=9)) == 1
    await engine.apply("a", [state_of(TASK, 2, mode=Mode.FREE, jobs=newer[2:])])
    assert await engine.finish_job("a", "hook", "3", retry_at=5)
    assert [found.jobs for found in await engine.waiting(["hook", "none"])] == [1, 0]
    assert await engine.drop_queue("hook") == 1
    assert (await engine.hold("x", "1", 1.0, limit=5.0, window=60.0)).ok
    await engine.settle("x", "1", 0.5)
    assert await engine.read(0, block=0.01) != []


async def test_samples_are_gone_a_week_after_the_last_one(valkey: RedisServer) -> None:
    engine = await opened(valkey)
    await engine.learn("x", [b"1"], keep=3)
    left = int(valkey.ask("PTTL", "{bridge}:learned:x").removeprefix(":"))
    assert 0 < left <= LEARNED_SECONDS * 1000
    await engine.close()


def test_scripts_touch_only_keys_that_are_declared() -> None:
    for name, script in load_scripts(("1",)).items():
        for key in re.findall(r"\bcall\('[A-Z]+', ([^,)]+)", script.text):
            made = ".." in key or "'" in key
            assert not made or key.startswith("'MAXLEN'"), f"{name}: {key}"


async def test_a_log_that_is_too_long_loses_its_oldest_entries(valkey: RedisServer) -> None:
    engine = await opened(valkey)
    for version in range(1, 3):
        await record(engine, version)
    valkey.ask("XTRIM", "{bridge}:log", "MAXLEN", "1")

    (entry,) = await engine.read(0, block=0)

    assert entry.previous > 0
    await engine.close()


WRONG = [
    ("LPUSH", "x"),
    ("SET", "x"),
    ("XADD", "*", "f", "x"),
]


@pytest.mark.parametrize("command", WRONG, ids=lambda command: command[0].lower())
async def test_a_record_of_another_type_costs_nothing_but_itself(
    server: RedisServer, caplog: pytest.LogCaptureFixture, command: tuple[str, ...]
) -> None:
    engine = await opened(server)
    tasks = [TaskKey("video", str(number)) for number in range(3)]
    await engine.want("a", [Want(task) for task in tasks], linger=60)
    await engine.apply("a", [state_of(task, 1) for task in tasks])

    async def spoil() -> None:
        key = "{bridge}:t:video/-/1"
        server.ask("DEL", key)
        server.ask(command[0], key, *command[1:])

    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: engine.want("a", [Want(task) for task in tasks], linger=60),
        lambda: engine.records(tasks),
        lambda: engine.apply("a", [state_of(task, 2) for task in tasks]),
        lambda: engine.confirm("a", [(task, Confirmation(1.5)) for task in tasks]),
        lambda: engine.keep("a", tasks[1], called_back=False),
        lambda: engine.announce("a", tasks[1], "stale", b"{}"),
        lambda: engine.release("a", [Release(task, 0) for task in tasks], transfer=True),
        lambda: engine.call("a", tasks[1]),
        lambda: engine.bury(limit=10, spacing=0),
    ]
    for call in calls:
        await spoil()
        await call()
        assert len(await engine.records(tasks)) == 3
    answers = await engine.apply("a", [state_of(task, 3, mode=Mode.FREE) for task in tasks])
    assert {answer.outcome.value for answer in answers} == {"recorded"}
    assert sum("no bridge wrote" in line for line in caplog.messages) >= len(calls)
    await engine.close()


@pytest.mark.parametrize("field", ["v", "f", "fs", "due", "p", "e"])
async def test_a_record_with_a_field_that_cannot_be_read_is_made_anew(
    server: RedisServer, field: str
) -> None:
    engine = await opened(server)
    await engine.want("a", [Want(TASK)], linger=60)
    assert await record(engine, 1) == "recorded"
    server.ask("HSET", "{bridge}:t:video/-/one", field, "junk")
    (found,) = await engine.records([TASK])
    assert found.version == 0
    server.ask("HSET", "{bridge}:t:video/-/one", field, "junk")
    await engine.want("a", [Want(TASK)], linger=60)
    assert await record(engine, 2) == "recorded"
    await engine.close()


@pytest.mark.parametrize("key", ["h:video/-/one", "list:video", "open:video/-", "orphans:-"])
async def test_what_belongs_to_a_task_and_is_of_another_type_is_made_anew(
    server: RedisServer, key: str
) -> None:
    engine = await opened(server)
    await engine.want("a", [Want(TASK)], linger=60)
    server.ask("DEL", "{bridge}:" + key)
    server.ask("SET", "{bridge}:" + key, "x")
    # What was written before the key was met is there already.
    assert await record(engine, 1) in {"recorded", "duplicate"}
    assert await record(engine, 2) == "recorded"
    await engine.release("a", [Release(TASK, 0)], transfer=True)
    assert len(await engine.claim("a", account="-", limit=5)) == 1
    assert (await engine.census()).orphans == 0
    await engine.close()


@pytest.mark.parametrize("key", ["meta", "s", "log", "wants"])
async def test_a_key_that_everything_depends_on_is_named_and_left_alone(
    server: RedisServer, key: str
) -> None:
    engine = await opened(server)
    server.ask("DEL", "{bridge}:" + key)
    server.ask("RPUSH", "{bridge}:" + key, "theirs")

    async def use() -> None:
        await engine.session("a", ttl=60, known_head=0, new_epoch="e", about=b"", opens=False)
        await engine.want("a", [Want(TASK)], linger=60)
        await record(engine, 1)

    with pytest.raises(EngineUnfit) as caught:
        await use()
    assert "{bridge}:" + key in str(caught.value)
    assert "delete it" in str(caught.value)
    assert "theirs" in server.ask("LRANGE", "{bridge}:" + key, "0", "-1")
    await engine.close()
