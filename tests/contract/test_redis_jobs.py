"""Jobs and answers on a real server: what other versions, other programs and a full memory leave of them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from bridge.core.task import TaskKey
from bridge.engine.base import JOB_SECONDS, Job, Mode, OperationState, Waiting
from bridge.engine.redis.engine import RedisEngine
from bridge.engine.redis.link import EngineLimits
from bridge.errors import EngineRefused
from tests.fakes.engines import EngineUse, VirtualTime, require, state_of
from tests.fakes.redis_engines import RedisMaker, engine_on
from tests.fakes.redis_servers import RedisServer

pytestmark = pytest.mark.anyio

SECOND = 1_000_000
MAKERS = [RedisMaker("valkey"), RedisMaker("redis62")]
PARTS = ("all", "ready", "order", "info", "flight", "age")

_names = itertools.count(1)


class ServerUse(EngineUse):
    """An engine, its server and its keys."""

    engine: RedisEngine

    def __init__(self, server: RedisServer, engine: RedisEngine, time: VirtualTime) -> None:
        super().__init__(engine, time)
        self.server = server
        self._versions = itertools.count(1)

    def ask(self, command: str, key: str, *arguments: str) -> str:
        """Send a command about one key; the answer as it comes, without the line's end."""
        return self.server.ask(command, f"{{{self.engine.name}}}:{key}", *arguments).rstrip("\r\n")

    async def add(self, *jobs: Job) -> int:
        """Write jobs with a state; how many were dropped."""
        key = TaskKey("video", f"task-{next(self._versions)}")
        (applied,) = await self.apply("a", state_of(key, 1, mode=Mode.FREE, jobs=jobs))
        return applied.dropped

    async def claimed(self, session: str = "a") -> list[str]:
        jobs = await self.engine.claim_jobs(session, "hook", limit=100, lease=30)
        return [job.id for job in jobs]

    def count(self, key: str) -> int:
        """Members of a sorted set."""
        return int(self.ask("ZCARD", key).removeprefix(":"))


@pytest.fixture(params=MAKERS, ids=lambda maker: maker.name)
async def use(request: pytest.FixtureRequest) -> AsyncIterator[ServerUse]:
    """An engine with the sessions `a` and `b`."""
    maker: RedisMaker = request.param
    require(maker)
    time = VirtualTime()
    limits = EngineLimits(max_answers=3)
    engine = engine_on(maker.server, name=f"jobs-{next(_names)}", now=time, limits=limits)
    await engine.connect()
    use = ServerUse(maker.server, engine, time)
    await use.session("a", ttl=1e6)
    await use.session("b", ttl=1e6)
    yield use
    await engine.close()


def job(number: int, ordering: str = "", *, replaceable: bool = False, due: int = 0) -> Job:
    return Job("hook", f"job-{number}", b"x", ordering, due, replaceable=replaceable)


def write_as_before(use: ServerUse, number: int, ordering: str = "", *, first: bool = True) -> None:
    """A job as the scripts of the version before wrote it: without `r`, `f` and `age`."""
    id_ = f"job-{number}"
    sequence = use.ask("HINCRBY", "jobs-info:hook", "seq", "1").removeprefix(":")
    handle = f"{int(sequence):016d}{id_}"
    use.ask("HINCRBY", "jobs-info:hook", "n", "1")
    use.ask("HINCRBY", "jobs-info:hook", "z", "206")
    use.ask("HINCRBY", "queues", "hook", "1")
    fields = {"b": "x", "o": ordering, "d": "0", "a": "0", "s": "", "z": "206", "h": handle}
    for name, value in fields.items():
        use.ask("HSET", "jobs-all:hook", name + id_, value)
    if ordering:
        use.ask("ZADD", "jobs-order:hook", "0", f"{ordering}\0{handle}")
    if first:
        use.ask("ZADD", "jobs-ready:hook", "0", handle)


async def test_jobs_of_the_version_before_are_read_finished_and_never_replaced(use: ServerUse) -> None:
    write_as_before(use, 1, "x")
    write_as_before(use, 2, "x", first=False)
    write_as_before(use, 3)
    assert await use.engine.waiting(["hook"]) == [Waiting(3, use.time.now)]
    await use.add(job(4, "x", replaceable=True), job(5, "x"))
    assert await use.engine.claim_jobs("a", "hook", limit=9, lease=30) == [
        Job("hook", "job-1", b"x", "x", 0, 1),
        Job("hook", "job-3", b"x", "", 0, 1),
    ]
    found = ["job-1", "job-3"]
    assert await use.engine.finish_job("a", "hook", "job-1", retry_at=use.time.now)
    assert await use.engine.finish_job("a", "hook", "job-3")
    assert await use.claimed("b") == ["job-1"]
    use.time.advance(30)  # its lease ends
    while claims := await use.claimed():
        for one in claims:
            found.append(one)
            assert await use.engine.finish_job("a", "hook", one)
    assert found == ["job-1", "job-3", "job-1", "job-2", "job-5"]
    assert (await use.engine.census()).jobs == 0
    assert use.ask("EXISTS", "queues") == ":0"


async def test_jobs_that_the_version_before_finished_leave_nothing_that_counts(use: ServerUse) -> None:
    await use.add(job(1, replaceable=True), job(2))
    handle = use.ask("HGET", "jobs-all:hook", "hjob-1").split("\r\n")[1]
    for field in "bodaszh":
        use.ask("HDEL", "jobs-all:hook", f"{field}job-1")
    use.ask("ZREM", "jobs-ready:hook", handle)
    use.ask("HINCRBY", "jobs-info:hook", "n", "-1")
    use.ask("HINCRBY", "queues", "hook", "-1")
    (waiting,) = await use.engine.waiting(["hook"])
    assert waiting.jobs == 1
    assert await use.claimed() == ["job-2"]
    await use.add(job(1))
    assert await use.claimed("b") == ["job-1"]


async def test_the_keys_of_a_queue_expire_whoever_wrote_them_last(use: ServerUse) -> None:
    def left() -> dict[str, int]:
        found = {part: int(use.ask("PTTL", f"jobs-{part}:hook").removeprefix(":")) for part in PARTS}
        return {part: left for part, left in found.items() if left != -2}

    await use.add(job(1, "x"), job(2, "x", replaceable=True), job(3, "x"))
    assert set(left()) == {"all", "ready", "order", "info", "age"}
    assert all(0 < one <= JOB_SECONDS * 1000 for one in left().values())
    await use.claimed()
    assert set(left()) == {"all", "order", "info", "flight", "age"}
    assert all(0 < one <= JOB_SECONDS * 1000 for one in left().values())
    await use.engine.finish_job("a", "hook", "job-1", retry_at=5)
    assert set(left()) == {"all", "ready", "order", "info", "age"}
    await use.claimed()
    await use.engine.finish_job("a", "hook", "job-1")
    assert all(0 < one <= JOB_SECONDS * 1000 for one in left().values())
    # Once they have expired, the queue is empty for everybody.
    for part in PARTS:
        if part != "ready":
            use.ask("DEL", f"jobs-{part}:hook")
    assert await use.claimed() == []
    assert (await use.engine.census()).jobs == 0
    assert use.ask("EXISTS", "queues") == ":0"
    await use.add(job(3), job(4))
    assert await use.claimed() == ["job-3", "job-4"]
    assert use.count("jobs-ready:hook") == 0


async def test_asking_an_empty_queue_is_one_cheap_command(use: ServerUse) -> None:
    await use.add(job(1))
    await use.claimed()
    await use.engine.finish_job("a", "hook", "job-1")
    use.server.ask("CONFIG", "RESETSTAT")
    assert await use.claimed() == []
    stats = use.server.ask("INFO", "commandstats")
    asked = {line.partition(":")[0].removeprefix("cmdstat_") for line in stats.split() if "cmdstat" in line}
    assert asked - {"config", "config|resetstat", "info"} == {"evalsha", "exists"}


@pytest.mark.parametrize("part", PARTS)
async def test_a_key_of_a_queue_that_another_program_wrote_costs_this_queue_only(
    use: ServerUse, part: str
) -> None:
    await use.add(job(1, "x"), job(2, "x"), Job("other", "1", b""))
    use.ask("DEL", f"jobs-{part}:hook")
    use.ask("SET", f"jobs-{part}:hook", "theirs")
    # The state is not recorded without its job.
    assert await use.add(job(3, "x")) == 0
    assert await use.claimed() == ["job-3"]
    assert await use.engine.finish_job("a", "hook", "job-3")
    assert await use.engine.waiting(["hook", "other"]) == [Waiting(), Waiting(1, use.time.now)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d", "junk"),
        ("d", "1e9"),
        ("a", "x"),
        ("f", "-"),
        ("a", "9" * 20),
        ("b", None),
        ("z", "x"),
    ],
)
async def test_a_job_that_another_program_wrote_over_costs_itself(
    use: ServerUse, field: str, value: str | None
) -> None:
    await use.add(job(1, "x"), job(2, "x"), job(3))
    if value is None:
        use.ask("HDEL", "jobs-all:hook", f"{field}job-1")
    else:
        use.ask("HSET", "jobs-all:hook", f"{field}job-1", value)
    found = await use.claimed()
    assert "job-3" in found
    for one in found:
        assert await use.engine.finish_job("a", "hook", one)
    assert await use.claimed() == ["job-2"]
    assert (await use.engine.census()).jobs == 1


async def test_a_full_server_takes_no_job_and_lets_those_it_has_be_finished() -> None:
    maker = RedisMaker("valkey")
    require(maker)
    server = RedisServer("valkey").start()
    try:
        time = VirtualTime()
        engine = engine_on(server, now=time)
        await engine.connect()
        use = ServerUse(server, engine, time)
        await use.session("a", ttl=1e6)
        await use.add(job(1, "x", replaceable=True), job(2), job(3), job(4, "x", replaceable=True))
        assert await use.claimed() == ["job-4", "job-2", "job-3"]
        await use.add(job(5, "x"), job(9))
        before = await engine.waiting(["hook"]), await engine.read(0, block=0)
        server.ask("CONFIG", "SET", "maxmemory", "1")
        refused = [
            lambda: use.add(job(6), job(7, "x")),
            use.claimed,
            lambda: engine.finish_job("a", "hook", "job-4", retry_at=5),
            lambda: engine.finish("a", "op", b"answer"),
        ]
        server.ask("CONFIG", "SET", "maxmemory", "0")
        await engine.begin("a", "op", b"d", seconds=60)
        server.ask("CONFIG", "SET", "maxmemory", "1")
        for attempt in refused:
            with pytest.raises(EngineRefused, match="is full"):
                await attempt()
            await engine.connect()
        assert (await engine.waiting(["hook"]), await engine.read(0, block=0)) == before
        assert await engine.finish_job("a", "hook", "job-2")
        assert await engine.finish_job("a", "hook", "job-4")
        assert [found.jobs for found in await engine.waiting(["hook"])] == [3]
        server.ask("CONFIG", "SET", "maxmemory", "0")
        assert await use.claimed() == ["job-5", "job-9"]
        assert (await engine.begin("a", "op", b"d", seconds=60)).state is OperationState.PENDING
        server.ask("CONFIG", "SET", "maxmemory", "1")
        assert await engine.drop_queue("hook") == 3
        await engine.close()
    finally:
        server.close()


async def test_answers_that_are_too_many_leave_no_key(use: ServerUse) -> None:
    for number in range(8):
        await use.engine.begin("a", f"op-{number}", b"d", seconds=60)
        await use.engine.finish("a", f"op-{number}", b"x" * 1000)
    kept = [number for number in range(8) if use.ask("EXISTS", f"op:op-{number}") == ":1"]
    assert kept == [5, 6, 7]
    assert use.count("answers") == 3
    held = int(use.ask("HGET", "meta", "answers").split("\r\n")[1])
    assert held == 3 * (600 + 4 + 1 + 1000)
    # Its index is lost: it is built anew.
    use.ask("DEL", "answers")
    await use.engine.begin("a", "op-8", b"d", seconds=60)
    await use.engine.finish("a", "op-8", b"x" * 1000)
    assert (await use.engine.begin("b", "op-8", b"d", seconds=60)).state is OperationState.DONE
    assert int(use.ask("HGET", "meta", "answers").split("\r\n")[1]) == 1605
