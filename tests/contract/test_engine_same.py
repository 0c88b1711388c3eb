"""Whatever is asked, in whatever order: every engine answers as the `Store` does, and its log is the same."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import (
    Census,
    End,
    Engine,
    Job,
    JobLimits,
    Lent,
    Mode,
    Put,
    Release,
    Report,
    Take,
    Want,
)
from bridge.engine.store import Store
from tests.fakes.engines import ENGINES, START, EngineMaker, VirtualTime, require, state_of

CONFIRMATIONS = [Confirmation(1.5), Confirmation(2.25, 9.0, 12.5)]
SECOND = 1_000_000
KEYS = [
    TaskKey("video", "one"),
    TaskKey("video", "models/two"),
    TaskKey("video", "three", "theirs"),
    TaskKey("image", "one"),
]
SEARCHED = [*KEYS, TaskKey("video", "two"), TaskKey("video", "unknown")]

sessions = st.sampled_from("abc")
keys = st.sampled_from(KEYS)
names = st.sampled_from(["x", "y"])
short = st.sampled_from([0.5, 2.0, 30.0])
details = st.sampled_from(
    [None, None, orjson.dumps({"tags": ["red"], "group": "g"}), orjson.dumps({"tags": ["red", "blue"]}), b"?"]
)
releases = st.builds(
    Release, key=keys, due=st.just(START + 5 * SECOND), polled_at=st.sampled_from([0, START, START + SECOND])
)
jobs = st.lists(
    st.builds(
        Job,
        queue=st.just("hook"),
        id=st.sampled_from("1234567"),
        body=st.binary(max_size=3),
        ordering=st.sampled_from(["", "o", "o", "\0\1"]),
        due=st.sampled_from([0, START + SECOND]),
        attempts=st.just(0),
        replaceable=st.booleans(),
        offset=st.just(0),
    ),
    max_size=3,
)
states = st.builds(
    lambda key, version, session, mode, end, content, raw, jobs, details, keep: state_of(
        key, version, session, mode=mode, end=end, content=content, raw=raw, jobs=jobs, details=details
    )._replace(keep=keep),
    keys,
    st.integers(1, 4),
    sessions,
    st.sampled_from([Mode.OWNER, Mode.OWNER, Mode.OWNER, Mode.FREE, Mode.AMEND]),
    st.sampled_from([End.OPEN, End.OPEN, End.OPEN, End.ENDED, End.LOST]),
    st.sampled_from(["", "", "same"]),
    st.sampled_from([None, b"raw"]),
    jobs,
    details,
    st.sampled_from([False, False, True]),
)


def call(name: str, *args: Any, **options: Any) -> st.SearchStrategy[tuple[str, tuple[Any, ...], Any]]:
    """Calls of one operation, drawn from strategies for its arguments."""
    return st.tuples(st.just(name), st.tuples(*args), st.fixed_dictionaries(options))


TAKES = st.builds(
    Take,
    credential=names,
    rate=st.sampled_from([None, 3.0, 40.0]),
    slots=st.integers(0, 4),
    horizon=st.just(0.5),
    permits=st.integers(0, 4),
    max_permits=st.sampled_from([None, 3, 5]),
    planned=st.sampled_from([0.0, 1.5, -1.0]),
    open_tasks=st.sampled_from([0, 3]),
    factor=st.sampled_from([1.0, 2.5, 1e9]),
    raised=st.sampled_from([1.0, 1.1, 0.3]),
)
operations = st.one_of(
    call("advance", st.sampled_from([0.0, 0.3, 1.0, 2.5, 40.0])),
    call(
        "session",
        sessions,
        ttl=short,
        known_head=st.sampled_from([0, 0, 0, START + 90 * SECOND]),
        new_epoch=st.sampled_from(["e1", "e2"]),
        about=st.just(b"about"),
        opens=st.booleans(),
    ),
    call("session", sessions, ttl=st.just(30.0), known_head=st.just(0), new_epoch=st.just("e1"),
         about=st.just(b""), opens=st.just(True)),
    call("leave", sessions),
    call("bury", limit=st.just(100), spacing=st.just(0.0)),
    call("want", sessions, st.lists(st.builds(Want, keys, st.booleans()), max_size=3), linger=short),
    call("want", sessions, st.lists(st.builds(Want, keys, st.just(True)), min_size=1, max_size=3),
         linger=short),
    call("owned", sessions, after=st.one_of(st.none(), keys), limit=st.just(100)),
    call("rewant", st.lists(keys, max_size=3), linger=short),
    call("keep", sessions, keys, called_back=st.booleans()),
    call("claim", sessions, account=st.sampled_from(["-", "theirs"]), limit=st.just(100)),
    call("release", sessions, st.lists(releases, max_size=2),
         transfer=st.booleans()),
    call("call", sessions, st.sampled_from(SEARCHED), called_back=st.booleans()),
    call("apply", sessions, st.lists(states, min_size=1, max_size=3), limits=st.just(JobLimits(jobs=3))),
    call("apply", sessions, st.lists(states, min_size=1, max_size=3), limits=st.just(JobLimits(jobs=3))),
    call("records", st.lists(st.sampled_from(SEARCHED), max_size=3)),
    call("history", keys, st.sampled_from([0, START + SECOND])),
    call("newest", st.sampled_from(["video", "image"]), st.just("-"), final=st.booleans(), limit=st.just(2)),
    call("listing", st.just("video"), st.sampled_from(["-", "theirs"]), tag=st.sampled_from(["", "red"]),
         group=st.sampled_from(["", "g"]), before=st.sampled_from([0, START + SECOND]), limit=st.just(3)),
    call("oldest", st.just("video"), st.just("-"), after=st.sampled_from([0, START + SECOND]),
         limit=st.just(3)),
    call("accounts", st.sampled_from(["video", "image"])),
    call("forget", sessions, keys),
    call("register", sessions, keys, details.filter(lambda found: found is not None)),
    call("announce", sessions, keys, st.sampled_from(["stalled", "fresh"]), st.sampled_from([b"n", None])),
    call("confirm", sessions, st.lists(st.tuples(keys, st.sampled_from(CONFIRMATIONS)), max_size=2)),
    call("take", sessions, TAKES),
    call("report", sessions, names, st.sampled_from(list(Report)), seconds=st.sampled_from([0.0, 2.0])),
    call("probe", sessions, names, seconds=short),
    call("learn", names, st.lists(st.binary(max_size=3), max_size=4), keep=st.sampled_from([0, 3, 3])),
    call("learned", st.lists(names, max_size=2)),
    call("put", names, st.sampled_from([b"v", b"w", None]), expect=st.sampled_from([None, 0]),
         seconds=short, announced=st.booleans()),
    call("get", st.lists(names, max_size=2)),
    call("begin", sessions, names, st.sampled_from([b"d", b"e"]), seconds=short),
    call("finish", sessions, names, st.sampled_from([b"done", None])),
    call("add_jobs", jobs, limits=st.just(JobLimits(jobs=3))),
    call("claim_jobs", sessions, st.just("hook"), limit=st.just(100), lease=short),
    call("claim_jobs", sessions, st.just("hook"), limit=st.just(100), lease=short,
         ahead=st.sampled_from([0.0, 2.0, 1e6])),
    call("finish_job", sessions, st.just("hook"), st.sampled_from("1234567"),
         retry_at=st.sampled_from([0, START + 3 * SECOND])),
    call("finish_job", sessions, st.just("hook"), st.sampled_from("1234567"),
         retry_at=st.sampled_from([0, START + 3 * SECOND]), attempted=st.booleans()),
    call("waiting", st.lists(st.sampled_from(["hook", "none"]), max_size=3)),
    call("drop_queue", st.sampled_from(["hook", "none"])),
    call("hold", names, st.sampled_from("12"), st.sampled_from([1.0, 4.0]), limit=st.just(5.0),
         window=st.just(10.0)),
    call("settle", names, st.sampled_from("12"), st.sampled_from([0.0, 0.5])),
    call("census"),
)  # fmt: skip


def comparable(name: str, answer: Any) -> Any:
    """An answer without what an engine may choose: the order of equals, the numbers of versions, memory."""
    match answer:
        case Put():
            answer = answer._replace(version=answer.version > 0)
        case Census():
            answer = answer._replace(used=0, limit=0)
        case Lent():
            answer = answer._replace(slots=list(answer.slots))
    if name == "owned":
        answer = sorted(answer)
    elif name == "claim":
        answer = sorted(answer, key=lambda record: record.key)
    elif name == "claim_jobs":
        answer = sorted(answer, key=lambda job: job.id)
    elif name == "get":
        answer = [(version > 0, value) for version, value in answer]
    return answer


async def run(engine: Engine, store: Store, time: VirtualTime, asked: list[Any]) -> None:
    for name, args, options in asked:
        if name == "advance":
            time.advance(*args)
            # When what is old is deleted is the engine's choice; a session's call does it in all.
            janitor: dict[str, Any] = {
                "ttl": 1.0,
                "known_head": 0,
                "new_epoch": "e1",
                "about": b"",
                "opens": False,
            }
            store.session("janitor", **janitor, now=time.now)
            await engine.session("janitor", **janitor)
            continue
        expected = comparable(name, getattr(store, name)(*args, **options, now=time.now))
        assert comparable(name, await getattr(engine, name)(*args, **options)) == expected, name
    assert await engine.read(0, block=0, limit=10_000) == store.read(0, limit=10_000)
    assert await engine.records(SEARCHED) == store.records(SEARCHED, now=time.now)
    for key in KEYS:
        assert await engine.history(key, 0) == store.history(key, 0, now=time.now)


def check(maker: EngineMaker, asked: list[Any]) -> None:
    require(maker)
    time = VirtualTime()

    async def compare() -> None:
        async with maker.open(time) as engine:
            opening = ("session", tuple("a"), {"ttl": 20.0, "known_head": 0, "new_epoch": "e1",
                       "about": b"", "opens": True})  # fmt: skip
            await run(engine, Store(), time, [opening, *asked])

    asyncio.run(compare())


def named(maker: EngineMaker) -> str:
    return maker.name


HERE = [maker for maker in ENGINES if maker.name in ("embedded", "keeper")]
SERVERS = [maker for maker in ENGINES if maker not in HERE]


@pytest.mark.parametrize("maker", HERE, ids=named)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(asked=st.lists(operations, min_size=5, max_size=40))
def test_an_engine_answers_as_the_store(maker: EngineMaker, asked: list[Any]) -> None:
    check(maker, asked)


@pytest.mark.parametrize("maker", SERVERS, ids=named)
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(asked=st.lists(operations, min_size=10, max_size=40))
def test_a_server_answers_as_the_store(maker: EngineMaker, asked: list[Any]) -> None:
    check(maker, asked)


@pytest.mark.extended
@pytest.mark.parametrize("maker", ENGINES, ids=named)
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(asked=st.lists(operations, min_size=10, max_size=60))
@pytest.mark.timeout(600)
def test_an_engine_answers_as_the_store_for_long(maker: EngineMaker, asked: list[Any]) -> None:
    check(maker, asked)
