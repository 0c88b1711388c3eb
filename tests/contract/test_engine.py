"""What every engine promises of sessions, ownership and interest: `bridge.engine.base.Engine`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import (
    CALL_SECONDS,
    ApplyOutcome,
    BeatEntry,
    Called,
    CallEntry,
    End,
    Mode,
    Owner,
    Release,
    Released,
    SessionState,
    Want,
)
from tests.fakes.engines import ENGINES, START, EngineMaker, EngineUse, VirtualTime, require, state_of

pytestmark = pytest.mark.anyio

TASK = TaskKey("video", "one")
OTHER = TaskKey("video", "two")
THEIRS = TaskKey("video", "three", "an-account")
SECOND = 1_000_000


@pytest.fixture(params=ENGINES, ids=lambda maker: maker.name)
async def use(request: pytest.FixtureRequest) -> AsyncIterator[EngineUse]:
    maker: EngineMaker = request.param
    require(maker)
    time = VirtualTime()
    async with maker.open(time) as engine:
        yield EngineUse(engine, time)


# Sessions


async def test_the_first_session_begins_an_epoch_at_the_engines_time(use: EngineUse) -> None:
    welcome = await use.session("a", about=b"one")
    assert welcome == (SessionState.OPENED, START, "e1", START + 1, {"a": b"one"})
    assert (await use.session("b", epoch="e2")).epoch == "e1"


async def test_a_session_lives_for_its_ttl_from_the_last_renewal(use: EngineUse) -> None:
    await use.session("a", ttl=3)
    use.time.advance(2.9)
    assert (await use.session("a", ttl=3, opens=False)).state is SessionState.RENEWED
    use.time.advance(2.9)
    assert (await use.session("a", ttl=3, opens=False)).state is SessionState.RENEWED
    use.time.advance(3)
    assert (await use.session("a", ttl=3, opens=False)).state is SessionState.EXPIRED


async def test_a_renewal_revives_nothing(use: EngineUse) -> None:
    await use.session("a", ttl=3)
    await use.want("a", TASK)
    use.time.advance(4)
    assert (await use.session("a", opens=False)).state is SessionState.EXPIRED
    assert (await use.session("a", opens=True)).state is SessionState.EXPIRED
    assert (await use.session("never", opens=False)).state is SessionState.EXPIRED
    (applied,) = await use.apply("a", state_of(TASK, 1))
    assert applied.outcome is ApplyOutcome.FENCED


async def test_a_session_that_opens_again_while_it_lives_keeps_what_it_owns(use: EngineUse) -> None:
    await use.session("a")
    await use.want("a", TASK)
    assert (await use.session("a")).state is SessionState.OPENED
    assert (await use.apply("a", state_of(TASK, 1)))[0].outcome is ApplyOutcome.RECORDED


async def test_what_a_session_owns_is_named_whether_it_knows_or_not(use: EngineUse) -> None:
    await use.session("a", ttl=5)
    await use.session("b", ttl=50)
    tasks = {TaskKey("video", f"t/{number}", "x/y") for number in range(5)} | {TASK, THEIRS}
    for task in tasks:
        await use.want("a", task)
    await use.want("b", OTHER)
    found: list[TaskKey] = []
    while page := await use.engine.owned("a", after=found[-1] if found else None, limit=3):
        found += page
    assert len(found) == len(tasks)
    assert set(found) == tasks
    assert await use.engine.owned("b", after=None, limit=1000) == [OTHER]
    await use.engine.release("a", [Release(TASK, use.time.now)], transfer=True)
    assert TASK not in await use.engine.owned("a", after=None, limit=1000)
    assert await use.engine.owned("never", after=None, limit=1000) == []
    use.time.advance(6)
    assert await use.engine.owned("a", after=None, limit=1000) == []


async def test_a_welcome_lists_the_live_sessions_only(use: EngineUse) -> None:
    await use.session("a", ttl=1, about=b"one")
    await use.session("b", ttl=5, about=b"two")
    use.time.advance(2)
    assert (await use.session("c", about=b"x" * 2000)).sessions == {"b": b"two", "c": b"x" * 1024}


async def test_a_head_beyond_the_engines_own_begins_a_new_epoch_above_it(use: EngineUse) -> None:
    first = await use.session("a")
    known = first.head + 60 * SECOND
    welcome = await use.session("b", known_head=known, epoch="e2")
    assert (welcome.epoch, welcome.head) == ("e2", known + 1)
    assert (await use.session("c", known_head=known, epoch="e3")).epoch == "e2"


async def test_a_head_that_no_client_could_read_is_not_believed(use: EngineUse) -> None:
    await use.session("a")
    welcome = await use.session("b", known_head=2**53 + 5, epoch="e2")
    assert (welcome.epoch, welcome.head) == ("e1", START + 1)


async def test_an_expired_renewal_with_a_newer_head_begins_a_new_epoch_too(use: EngineUse) -> None:
    await use.session("a")
    welcome = await use.session("gone", known_head=START + 5 * SECOND, epoch="e2", opens=False)
    assert (welcome.state, welcome.epoch) == (SessionState.EXPIRED, "e2")


async def test_renewals_write_one_beat_where_the_log_is_quiet(use: EngineUse) -> None:
    await use.session("a")
    await use.session("b")
    for _ in range(12):
        await use.renew("a")
        await use.renew("b")
        use.time.advance(0.25)
    beats = await use.log()
    assert [type(entry) for entry in beats] == [BeatEntry, BeatEntry]
    assert beats[1].offset - beats[0].offset == pytest.approx(SECOND, abs=10)


async def test_a_log_that_has_other_entries_needs_no_beat(use: EngineUse) -> None:
    await use.session("a")
    await use.want("a", TASK)
    for version in range(1, 5):
        await use.apply("a", state_of(TASK, version))
        use.time.advance(0.5)
        await use.renew("a")
    assert BeatEntry not in {type(entry) for entry in await use.log()}


async def test_a_session_that_has_left_is_dead_and_its_tasks_are_due(use: EngineUse) -> None:
    await use.session("a")
    await use.session("b")
    await use.want("a", TASK)
    await use.engine.leave("a")
    assert (await use.session("a", opens=False)).state is SessionState.EXPIRED
    (record,) = await use.engine.claim("b", account=TASK.account, limit=10)
    assert (record.key, record.owner) == (TASK, "b")
    await use.engine.leave("a")
    await use.engine.leave("never")


# Interest and owners


async def test_who_is_asked_first_owns(use: EngineUse) -> None:
    await use.session("a")
    await use.session("b")
    assert await use.want("a", TASK, OTHER) == [Owner.ME, Owner.ME]
    assert await use.want("b", TASK, THEIRS) == [Owner.OTHER, Owner.ME]
    assert await use.want("a", TASK, THEIRS) == [Owner.ME, Owner.OTHER]


async def test_a_task_is_not_taken_by_who_may_not_own_it(use: EngineUse) -> None:
    await use.session("a")
    await use.session("b")
    assert await use.want("a", TASK, may_own=False) == [Owner.NONE]
    assert await use.want("b", TASK) == [Owner.ME]
    assert await use.want("a", TASK, may_own=False) == [Owner.OTHER]


async def test_want_answers_the_whole_record(use: EngineUse) -> None:
    await use.session("a")
    await use.want("a", TASK)
    await use.apply("a", state_of(TASK, 1, raw=b"theirs", details=b'{"tags":["x"]}'))
    await use.engine.keep("a", TASK, called_back=True)
    await use.engine.announce("a", TASK, "stalled", b"body")
    await use.engine.confirm("a", [(TASK, Confirmation(17.5, 40.25, None))])
    await use.session("b")
    (wanted,) = await use.engine.want("b", [Want(TASK)], linger=1)
    record = wanted.record
    assert record == await use.record(TASK)
    assert (record.owner, record.stamp, record.end) == ("a", (1, "a"), End.OPEN)
    assert (record.document, record.raw, record.details) == (b"a-1", b"theirs", b'{"tags":["x"]}')
    assert (record.persistent, record.called_back, dict(record.notices)) == (True, True, {"stalled": b"body"})
    assert (record.confirmation, record.first_seen) == ((17.5, 40.25, None), record.offset)


async def test_the_task_of_a_dead_owner_is_taken_by_who_wants_it(use: EngineUse) -> None:
    await use.session("a", ttl=3)
    await use.session("b", ttl=60)
    await use.want("a", TASK)
    use.time.advance(2.9)
    assert await use.want("b", TASK) == [Owner.OTHER]
    use.time.advance(0.1)
    assert await use.want("b", TASK, may_own=False) == [Owner.NONE]
    assert await use.want("b", TASK) == [Owner.ME]
    assert await use.engine.bury(limit=10, spacing=0) == 0


async def test_a_dead_session_takes_nothing_and_wants_nothing(use: EngineUse) -> None:
    await use.session("a", ttl=1)
    await use.session("b", ttl=60)
    use.time.advance(2)
    assert await use.want("a", TASK) == [Owner.NONE]
    await use.want("b", OTHER)
    assert await use.want("a", OTHER) == [Owner.OTHER]


async def test_an_ended_task_is_owned_by_nobody(use: EngineUse) -> None:
    await use.session("a")
    await use.session("b")
    await use.want("a", TASK)
    await use.engine.keep("a", TASK, called_back=False)
    await use.apply("a", state_of(TASK, 1, end=End.ENDED))
    record = await use.record(TASK)
    assert (record.owner, record.persistent, record.end) == ("", False, End.ENDED)
    assert await use.want("b", TASK) == [Owner.OVER]
    await use.engine.keep("b", TASK, called_back=False)
    assert (await use.record(TASK)).persistent is False
    assert (await use.engine.census()).orphans == 0


async def test_a_lost_task_stays_owned(use: EngineUse) -> None:
    await use.session("a")
    await use.want("a", TASK)
    await use.apply("a", state_of(TASK, 1, end=End.LOST))
    assert (await use.record(TASK)).owner == "a"
    assert await use.want("a", TASK) == [Owner.ME]


# Orphans


async def test_bury_makes_orphans_of_a_dead_sessions_tasks_wanted_ones_first(use: EngineUse) -> None:
    await use.session("a", ttl=3)
    await use.session("b", ttl=60)
    keys = [TaskKey("video", str(number)) for number in range(6)]
    await use.want("a", *keys, linger=1)
    for key in keys:
        await use.engine.keep("a", key, called_back=False)
    use.time.advance(4)
    await use.want("b", *keys[4:], may_own=False)
    assert await use.engine.bury(limit=2, spacing=0.5) == 2
    assert {key for key in keys if (await use.record(key)).owner == ""} == set(keys[4:])
    assert await use.engine.bury(limit=10, spacing=0.5) == 4
    assert await use.engine.bury(limit=10, spacing=0.5) == 0
    dues = sorted([(await use.record(key)).due for key in keys[:4]])
    assert [later - earlier for earlier, later in pairwise(dues)] == [SECOND // 2] * 3
    assert dues[0] == use.time.now
    assert (await use.engine.census()).orphans == 6


async def test_orphans_are_claimed_when_due_and_by_account(use: EngineUse) -> None:
    await use.session("a", ttl=3)
    await use.session("b", ttl=60)
    await use.want("a", TASK, OTHER, THEIRS)
    use.time.advance(3)
    assert await use.engine.bury(limit=10, spacing=2) == 3
    own, account = TASK.account, THEIRS.account
    due = {key: (await use.record(key)).due for key in (TASK, OTHER, THEIRS)}
    claimed = await use.engine.claim("b", account=own, limit=10)
    claimed += await use.engine.claim("b", account=account, limit=10)
    assert {record.key for record in claimed} == {key for key, at in due.items() if at <= use.time.now}
    use.time.advance(4)
    claimed += await use.engine.claim("b", account=own, limit=10)
    assert THEIRS in {record.key for record in claimed} or await use.engine.claim(
        "b", account=account, limit=10
    )
    assert {(await use.record(key)).owner for key in due} == {"b"}
    assert await use.engine.claim("b", account=own, limit=10) == []


async def test_claim_takes_no_more_than_its_limit(use: EngineUse) -> None:
    await use.session("a")
    await use.session("b")
    await use.want("a", *[TaskKey("video", str(number)) for number in range(5)])
    await use.engine.leave("a")
    assert len(await use.engine.claim("b", account="-", limit=3)) == 3
    assert len(await use.engine.claim("b", account="-", limit=3)) == 2


async def test_an_orphan_that_nobody_wants_is_forgotten_as_open_work(use: EngineUse) -> None:
    await use.session("a", ttl=60)
    await use.want("a", TASK, OTHER, linger=5)
    await use.engine.keep("a", OTHER, called_back=False)
    await use.engine.release("a", [Release(TASK, use.time.now), Release(OTHER, use.time.now)], transfer=True)
    use.time.advance(6)
    assert [record.key for record in await use.engine.claim("a", account="-", limit=10)] == [OTHER]
    assert (await use.engine.census()).orphans == 0
    assert (await use.record(TASK)).owner == ""


async def test_interest_is_prolonged_in_bulk(use: EngineUse) -> None:
    await use.session("a", ttl=600)
    keys = [TaskKey("video", str(number)) for number in range(250)]
    for start in range(0, 250, 50):
        await use.want("a", *keys[start : start + 50], linger=5)
    await use.engine.rewant(keys[:-1], linger=20)
    await use.engine.rewant([keys[0]], linger=1)  # never shortened
    use.time.advance(10)
    released: list[Released] = []
    for start in range(0, 250, 50):
        due = [Release(key, use.time.now) for key in keys[start : start + 50]]
        released += await use.engine.release("a", due, transfer=False)
    assert released == [Released.WANTED] * 249 + [Released.OK]


async def test_a_dead_session_claims_nothing(use: EngineUse) -> None:
    await use.session("a", ttl=3)
    await use.want("a", TASK)
    await use.session("b", ttl=1)
    use.time.advance(3)
    await use.engine.bury(limit=10, spacing=0)
    assert await use.engine.claim("b", account="-", limit=10) == []
    assert (await use.engine.census()).orphans == 1


async def test_a_kept_task_that_nobody_owns_is_an_orphan(use: EngineUse) -> None:
    await use.session("a")
    await use.engine.keep("a", TASK, called_back=True)
    (record,) = await use.engine.claim("a", account="-", limit=1)
    assert (record.key, record.persistent, record.called_back) == (TASK, True, True)
    await use.engine.keep("a", TASK, called_back=False)
    assert (await use.record(TASK)).called_back is True


# Giving up and handing over


async def test_release_gives_up_what_nobody_wants_and_nobody_keeps(use: EngineUse) -> None:
    await use.session("a", ttl=60)
    await use.session("b", ttl=60)
    await use.want("a", TASK, OTHER, linger=5)
    await use.want("b", THEIRS)
    await use.engine.keep("a", OTHER, called_back=False)
    use.time.advance(5)
    due = [Release(key, use.time.now + SECOND) for key in (TASK, OTHER, THEIRS)]
    answers = await use.engine.release("a", due, transfer=False)
    assert answers == [Released.OK, Released.WANTED, Released.NOT_MINE]
    assert [(await use.record(key)).owner for key in (TASK, OTHER, THEIRS)] == ["", "a", "b"]
    assert (await use.engine.census()).orphans == 0


async def test_a_task_handed_over_keeps_its_due_whoever_takes_it_and_how(use: EngineUse) -> None:
    await use.session("a", ttl=60)
    await use.session("b", ttl=60)
    await use.want("a", TASK, OTHER)
    due = use.time.now + 7 * SECOND
    released = await use.engine.release("a", [Release(TASK, due), Release(OTHER, due)], transfer=True)
    assert released == [Released.OK, Released.OK]
    assert await use.engine.claim("b", account="-", limit=10) == []
    (wanted,) = await use.engine.want("b", [Want(TASK)], linger=30)
    assert (wanted.owner, wanted.record.due) == (Owner.ME, due)
    use.time.advance(7)
    (claimed,) = await use.engine.claim("b", account="-", limit=10)
    assert (claimed.key, claimed.due) == (OTHER, due)


async def test_who_takes_a_task_learns_of_its_newest_poll_by_anybody(use: EngineUse) -> None:
    await use.session("a", ttl=60)
    await use.session("b", ttl=60)
    await use.want("a", TASK, OTHER, linger=0)
    at = use.time.now
    await use.engine.release("a", [Release(TASK, at, at - 5)], transfer=True)
    await use.engine.release("a", [Release(OTHER, at, at - 7)], transfer=False)
    wanted = await use.engine.want("b", [Want(TASK), Want(OTHER)], linger=0)
    assert [one.record.polled_at for one in wanted] == [at - 5, at - 7]
    await use.engine.release("b", [Release(TASK, at), Release(OTHER, at, at - 9)], transfer=True)
    assert [(await use.record(key)).polled_at for key in (TASK, OTHER)] == [at - 5, at - 7]


@pytest.mark.parametrize(("ttl", "unheard"), [(3, 1.5), (10, 2)])
@pytest.mark.parametrize("way", ["want", "bury", "call"])
async def test_a_dead_session_may_have_polled_until_it_should_have_been_renewed(
    use: EngineUse, way: str, ttl: float, unheard: float
) -> None:
    await use.session("a", ttl=ttl)
    await use.session("b", ttl=60)
    await use.want("a", TASK, linger=60)
    use.time.advance(1)
    await use.renew("a", ttl=ttl)
    renewed = use.time.now
    use.time.advance(ttl)
    if way == "bury":
        assert await use.engine.bury(limit=10, spacing=0) == 1
    elif way == "call":
        assert (await use.engine.call("b", TASK))[0] is Called.ORPHANED
    (wanted,) = await use.engine.want("b", [Want(TASK)], linger=60)
    assert wanted.owner is Owner.ME
    assert wanted.record.polled_at == renewed + unheard * SECOND


async def test_a_session_that_leaves_may_have_polled_until_then(use: EngineUse) -> None:
    await use.session("a", ttl=60)
    await use.session("b", ttl=60)
    await use.want("a", TASK, linger=60)
    use.time.advance(5)
    await use.engine.leave("a")
    (wanted,) = await use.engine.want("b", [Want(TASK)], linger=60)
    assert (wanted.owner, wanted.record.polled_at) == (Owner.ME, use.time.now)


async def test_a_dead_session_hands_nothing_over(use: EngineUse) -> None:
    await use.session("a", ttl=3)
    await use.want("a", TASK)
    use.time.advance(3)
    assert await use.engine.release("a", [Release(TASK, 0)], transfer=True) == [Released.NOT_MINE]


# Calls


async def test_a_call_is_told_to_the_owner_through_the_log_once_a_second(use: EngineUse) -> None:
    await use.session("a")
    await use.session("b")
    await use.want("a", TASK)
    assert await use.engine.call("b", TASK, called_back=True) == (Called.TOLD, TASK)
    assert await use.engine.call("b", TASK) == (Called.SOON, TASK)
    use.time.advance(CALL_SECONDS - 0.01)
    assert await use.engine.call("a", TASK) == (Called.SOON, TASK)
    use.time.advance(0.01)
    assert await use.engine.call("b", TASK) == (Called.TOLD, TASK)
    calls = [entry for entry in await use.log() if isinstance(entry, CallEntry)]
    assert [(call.key, call.session, call.called_back) for call in calls] == [
        (TASK, "a", True),
        (TASK, "a", False),
    ]


async def test_a_call_for_a_task_that_nobody_owns_makes_it_due_now(use: EngineUse) -> None:
    await use.session("a", ttl=60)
    await use.want("a", TASK, linger=1)
    await use.apply("a", state_of(TASK, 1))
    use.time.advance(2)
    await use.engine.release("a", [Release(TASK, use.time.now + 60 * SECOND)], transfer=False)
    assert await use.engine.call("a", TASK) == (Called.ORPHANED, TASK)
    (record,) = await use.engine.claim("a", account="-", limit=10)
    assert (record.key, record.due) == (TASK, use.time.now)


async def test_calls_for_unknown_and_ended_tasks(use: EngineUse) -> None:
    await use.session("a")
    assert await use.engine.call("a", TASK) == (Called.UNKNOWN, None)
    await use.apply("a", state_of(TASK, 1, mode=Mode.FREE, end=End.ENDED))
    assert await use.engine.call("a", TASK) == (Called.OVER, TASK)
    assert (await use.engine.census()).orphans == 0


async def test_a_call_finds_a_task_by_the_last_part_of_its_id(use: EngineUse) -> None:
    await use.session("a")
    named, others = TaskKey("video", "models/fast/1234"), TaskKey("video", "models/fast/1234", "an-account")
    await use.want("a", named, others, TaskKey("image", "models/fast/1234"), TaskKey("video", "x1234"))
    assert await use.engine.call("a", TaskKey("video", "1234")) == (Called.TOLD, named)
    use.time.advance(2)
    assert await use.engine.call("a", TaskKey("video", "fast/1234")) == (Called.TOLD, named)
    assert await use.engine.call("a", TaskKey("video", "234")) == (Called.UNKNOWN, None)
    assert await use.engine.call("a", TaskKey("video", "low/1234")) == (Called.UNKNOWN, None)
    registered = TaskKey("video", "models/known")  # and its whole id is not its own last part
    await use.engine.register("a", registered, b"{}")
    assert await use.engine.call("a", registered) == (Called.UNKNOWN, None)


async def test_a_call_finds_a_task_in_which_there_is_only_interest(use: EngineUse) -> None:
    await use.session("a")
    await use.engine.rewant([TASK], linger=5)
    assert await use.engine.call("a", TASK) == (Called.ORPHANED, TASK)


async def test_a_dead_session_calls_nobody(use: EngineUse) -> None:
    await use.session("a", ttl=60)
    await use.want("a", TASK)
    await use.session("b", ttl=1)
    use.time.advance(1)
    before = await use.log()
    assert await use.engine.call("b", TASK) == (Called.UNKNOWN, None)
    assert await use.log() == before


async def test_the_census_counts_orphans_and_how_late_they_are(use: EngineUse) -> None:
    await use.session("a")
    await use.want("a", TASK, THEIRS)
    await use.engine.leave("a")
    use.time.advance(3)
    census = await use.engine.census()
    assert (census.orphans, census.oldest_orphan) == (2, pytest.approx(3.0))
