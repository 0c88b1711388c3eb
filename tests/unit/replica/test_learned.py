"""What ended tasks taught one replica is known to the others, and to those that start later; virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from bridge.core.learned import MAX_RUNS, Measurement, Run, TaskKind
from bridge.engine.base import LEARNED_SECONDS
from bridge.journal.learned import Choice, LearnedIndex, encode_run, index_name, kind_digest, list_name
from bridge.journal.sqlite.learned_rows import forget_in_store
from bridge.replica.learned import EXCHANGE_SECONDS, LISTS_PER_CALL, MAX_SENT_KINDS
from tests.fakes.replicas import World
from tests.fakes.virtual import WALL, LoopClock, run
from tests.unit.replica.test_shared import Sharing, started

KIND = TaskKind("wan2.7", "generate")
OTHER = TaskKind("flux", None)


def taught(seconds: float, kind: TaskKind = KIND, ended_at: float = WALL) -> Run:
    return Run(kind, ended_at, {"run": Measurement(seconds)})


def known(sharing: Sharing, kind: TaskKind = KIND) -> int:
    """How many runs of a kind a replica knows."""
    rows = sharing.upstream.learned.statistics()
    return sum(row["samples"] for row in rows if (row["model"], row["action"]) == (kind.model, kind.action))


async def exchanged(times: float = 2.5) -> None:
    await asyncio.sleep(times * EXCHANGE_SECONDS)


def test_runs_are_shared_and_survive_a_restart_of_all_replicas() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await started(world, "a", "b")
        a.upstream.learned.learn(taught(30.0))
        for seconds in (40.0, 50.0):
            b.upstream.learned.learn(taught(seconds))
        assert (known(a), known(b)) == (1, 2)
        await exchanged()
        assert (known(a), known(b)) == (3, 3)
        await a.house.kill()
        await b.house.kill()
        (c,) = await started(world, "c")
        await asyncio.sleep(0.1)
        assert c.upstream.learned.statistics() == [
            {**row, "samples": 3} for row in c.upstream.learned.statistics()
        ]
        assert known(c) == 3
        await world.close()

    run(play)


def test_an_exchange_without_news_reads_one_document() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await started(world, "a", "b")
        for kind in (KIND, OTHER):
            a.upstream.learned.learn(taught(30.0, kind))
        await exchanged()
        before = [Counter(one.house.calls) for one in (a, b)]
        await exchanged(10)
        for one, counted in zip((a, b), before, strict=True):
            news = Counter(one.house.calls) - counted
            assert not {"learn", "learned", "put"} & news.keys()
            assert news["get"] == 10
        b.upstream.learned.learn(taught(31.0))
        await exchanged()
        news = Counter(b.house.calls) - before[1]
        assert (news["learn"], news["put"], news["learned"]) == (1, 1, 1)
        assert known(a) == known(b) == 2
        await world.close()

    run(play)


def test_many_kinds_go_over_several_exchanges_and_only_so_many_runs_of_each() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await started(world, "a", "b")
        kinds = [TaskKind(str(number), None) for number in range(MAX_SENT_KINDS + 5)]
        for kind in kinds:
            a.upstream.learned.learn(taught(1.0, kind))
        for number in range(MAX_RUNS + 20):
            a.upstream.learned.learn(taught(2.0, kinds[0], WALL + number))
        await asyncio.sleep(EXCHANGE_SECONDS + 0.5)
        assert a.house.calls.count("learn") == MAX_SENT_KINDS
        await exchanged()
        assert a.house.calls.count("learn") == len(kinds)
        assert [known(b, kind) for kind in kinds] == [MAX_RUNS] + [1] * (len(kinds) - 1)
        assert b.house.calls.count("learned") <= 2 + len(kinds) / LISTS_PER_CALL
        await world.close()

    run(play)


@pytest.mark.parametrize("lost", ["learn", "put", "learned", "get"])
def test_a_call_without_an_answer_costs_no_run_and_makes_none_twice(lost: str) -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await started(world, "a", "b")
        await exchanged(1.1)
        a.house.loses.add(lost)
        for seconds in (1.0, 2.0, 3.0):
            a.upstream.learned.learn(taught(seconds))
        b.upstream.learned.learn(taught(4.0))
        await exchanged(1.1)
        a.house.cut = False
        a.upstream.learned.learn(taught(5.0))
        await exchanged(3)
        (c,) = await started(world, "c")
        await asyncio.sleep(0.1)
        assert [known(one) for one in (a, b, c)] == [5, 5, 5]
        await world.close()

    run(play)


def test_replicas_that_write_the_index_at_once_lose_no_kind() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        houses = await started(world, *"abcdef")
        kinds = [TaskKind(name, None) for name in "abcdef"]
        for house, kind in zip(houses, kinds, strict=True):
            house.upstream.learned.learn(taught(1.0, kind))
        await asyncio.gather(*(house.knowledge.flush() for house in houses))
        await exchanged(6)
        for house in houses:
            assert [known(house, kind) for kind in kinds] == [1] * 6
        await world.close()

    run(play)


def test_what_was_forgotten_in_the_engine_is_forgotten_by_every_replica() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await started(world, "a", "b")
        for kind in (KIND, OTHER):
            for seconds in (1.0, 2.0, 3.0):
                a.upstream.learned.learn(taught(seconds, kind))
        await exchanged()
        a.upstream.learned.learn(taught(4.0))  # not sent when the operator asks
        a.upstream.learned.learn(taught(4.0, OTHER))
        now = world.engine._time()
        assert forget_in_store(world.engine.store, Choice("video", "wan2.7"), now) == [KIND]
        await exchanged()
        for one in (a, b):
            assert (known(one, KIND), known(one, OTHER)) == (0, 4)
        b.upstream.learned.learn(taught(5.0))
        await exchanged()
        assert (known(a), known(b)) == (1, 1)
        forget_in_store(world.engine.store, Choice("video"), world.engine._time())
        await exchanged()
        assert a.upstream.learned.statistics() == b.upstream.learned.statistics() == []
        await world.close()

    run(play)


def test_an_engine_that_lost_its_data_takes_nothing_away() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await started(world, "a", "b")
        a.upstream.learned.learn(taught(1.0))
        await exchanged()
        world.wipe()
        await world.until(lambda: all(one.house.replica.connection.up for one in (a, b)))
        b.upstream.learned.learn(taught(2.0, OTHER))
        await exchanged()
        assert (known(a), known(b), known(a, OTHER)) == (1, 1, 1)
        await world.close()

    run(play)


def test_what_is_learned_just_before_the_end_is_sent() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await started(world, "a")
        await exchanged(1.1)
        a.upstream.learned.learn(taught(1.0))
        await a.knowledge.flush()
        await a.house.kill()
        (b,) = await started(world, "b")
        await asyncio.sleep(0.1)
        assert known(b) == 1
        world.away = True
        b.upstream.learned.learn(taught(1.0))
        await b.knowledge.flush()  # nothing is raised
        await world.close()

    run(play)


def test_what_makes_no_sense_is_left_out() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        digest = kind_digest(KIND)
        index = LearnedIndex()
        index.change([digest, kind_digest(OTHER)], "ab", WALL)
        await world.engine.put(index_name("video"), index.encode(), expect=None, seconds=60)
        odd = [b"", b"{}", b"[1", b'[1,"m","a",1e999,{}]', encode_run(taught(1.0, OTHER)) or b""]
        old = encode_run(taught(1.0, ended_at=WALL - LEARNED_SECONDS - 60)) or b""
        good = [encode_run(taught(seconds)) or b"" for seconds in (5.0, 6.0, 7.0)]
        await world.engine.learn(list_name("video", digest), [*odd, old, *good], keep=100)
        (a,) = await started(world, "a")
        await asyncio.sleep(0.1)
        assert (known(a), len(a.upstream.learned.statistics())) == (3, 1)
        await world.engine.put(index_name("video"), b"[1", expect=None, seconds=60)
        a.upstream.learned.learn(taught(8.0))
        await exchanged()
        ((_, document),) = await world.engine.get([index_name("video")])
        assert list(LearnedIndex.read(document).kinds) == [digest]
        assert known(a) == 4
        await world.close()

    run(play)


def test_runs_of_an_account_are_shared_without_it() -> None:
    async def play(clock: LoopClock) -> None:
        from bridge.core.learned import LearnedRuns

        world = World(clock)
        a, b = await started(world, "a", "b")
        theirs = LearnedRuns(a.upstream.learned)
        theirs.learn(taught(1.0))
        await exchanged()
        assert known(b) == 1
        assert all(name.startswith("runs:video") for name in world.engine.store.samples._lists)
        await world.close()

    run(play)
