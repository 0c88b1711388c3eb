"""What every engine promises of the budget of a credential."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from bridge.core.task import TaskKey
from bridge.engine.base import (
    BudgetEntry,
    Lent,
    Report,
    Take,
)
from tests.fakes.engines import ENGINES, EngineUse, VirtualTime, require

pytestmark = pytest.mark.anyio

TASK = TaskKey("video", "one")
KEY = "video/-"
SECOND = 1_000_000


@pytest.fixture(params=ENGINES, ids=lambda maker: maker.name)
async def use(request: pytest.FixtureRequest) -> AsyncIterator[EngineUse]:
    """An engine with the sessions `a` and `b`."""
    require(request.param)
    time = VirtualTime()
    async with request.param.open(time) as engine:
        use = EngineUse(engine, time)
        await use.session("a", ttl=3600)
        await use.session("b", ttl=3600)
        yield use


async def take(use: EngineUse, session: str, **options: object) -> Lent:
    return await use.engine.take(session, Take(KEY, **options))  # type: ignore[arg-type]


# Slots


async def test_slots_are_apart_by_the_rate_whoever_gets_them(use: EngineUse) -> None:
    slots: list[int] = []
    for number in range(60):
        lent = await take(use, "ab"[number % 2], rate=40.0, slots=3, horizon=0.5)
        slots += lent.slots
        use.time.advance(0.03)
    slots.sort()
    assert all(later - earlier >= SECOND // 40 for earlier, later in pairwise(slots))
    # Nothing is given away either, and no second has more than 41.
    assert len(slots) == pytest.approx(60 * 0.03 * 40 + 0.5 * 40, abs=2)
    assert max(sum(start <= slot < start + SECOND for slot in slots) for start in slots) <= 41


async def test_slots_are_within_the_horizon_and_time_is_not_saved_up(use: EngineUse) -> None:
    lent = await take(use, "a", rate=10.0, slots=100, horizon=0.5)
    assert len(lent.slots) == 6
    assert lent.slots[0] == use.time.now == lent.now
    assert lent.slots[-1] <= use.time.now + SECOND // 2 < lent.next_slot
    assert (await take(use, "b", rate=10.0, slots=5, horizon=0.05)).slots in ([], ())
    use.time.advance(60)
    late = await take(use, "a", rate=10.0, slots=3)
    assert list(late.slots) == [use.time.now + number * SECOND // 10 for number in range(3)]


async def test_a_slow_rate_lends_one_slot_at_a_time(use: EngineUse) -> None:
    assert len((await take(use, "a", rate=0.1, slots=5, horizon=1)).slots) == 1
    assert len((await take(use, "b", rate=0.1, slots=5, horizon=1)).slots) == 0
    use.time.advance(9.5)
    (slot,) = (await take(use, "b", rate=0.1, slots=5, horizon=1)).slots
    assert slot == use.time.now + SECOND // 2


async def test_without_a_rate_there_are_no_slots(use: EngineUse) -> None:
    lent = await take(use, "a", slots=5, permits=2)
    assert (list(lent.slots), lent.permits) == ([], 2)


async def test_credentials_do_not_share_slots(use: EngineUse) -> None:
    one = await use.engine.take("a", Take("video/-", rate=1.0, slots=1))
    other = await use.engine.take("a", Take("video/other", rate=1.0, slots=1))
    assert list(one.slots) == list(other.slots) == [use.time.now]


# Permits


async def test_permits_are_never_above_most_over_all_sessions(use: EngineUse) -> None:
    assert (await take(use, "a", permits=6, max_permits=8)).permits == 6
    assert (await take(use, "b", permits=6, max_permits=8)).permits == 2
    assert (await take(use, "a", permits=1, max_permits=8)).permits == 1
    assert (await take(use, "b", permits=6, max_permits=8)).permits == 6
    assert (await take(use, "a", permits=6, max_permits=8)).permits == 2
    assert (await take(use, "b", permits=0, max_permits=8)).permits == 0
    assert (await take(use, "a", permits=9, max_permits=8)).permits == 8


async def test_permits_of_the_dead_are_free(use: EngineUse) -> None:
    await use.session("c", ttl=2)
    assert (await take(use, "c", permits=8, max_permits=8)).permits == 8
    assert (await take(use, "a", permits=8, max_permits=8)).permits == 0
    use.time.advance(2)
    assert (await take(use, "a", permits=8, max_permits=8)).permits == 8
    lent = await take(use, "c", permits=8, max_permits=8, rate=40.0, slots=4)
    assert (lent.permits, list(lent.slots)) == (0, [])


async def test_a_lower_most_takes_effect_with_the_next_call(use: EngineUse) -> None:
    assert (await take(use, "a", permits=8, max_permits=8)).permits == 8
    assert (await take(use, "b", permits=8, max_permits=4)).permits == 0
    assert (await take(use, "a", permits=8, max_permits=4)).permits == 4


async def test_plans_are_summed_over_live_sessions(use: EngineUse) -> None:
    await use.session("c", ttl=2)
    await take(use, "c", planned=100.0, open_tasks=50)
    await take(use, "a", planned=1.5, open_tasks=3)
    lent = await take(use, "b", planned=2.0, open_tasks=4)
    assert (lent.planned, lent.open_tasks) == (pytest.approx(103.5), 57)
    use.time.advance(2)
    lent = await take(use, "a", planned=0.5, open_tasks=1)
    assert (lent.planned, lent.open_tasks) == (pytest.approx(2.5), 5)
    # The share of a session ends with it, also where it says good-bye.
    await use.engine.leave("b")
    assert (await take(use, "a", planned=0.5, open_tasks=1)).open_tasks == 1
    lent = await take(use, "c", planned=9.0, open_tasks=9)  # dead: it hears, and counts nothing
    assert (lent.planned, lent.open_tasks) == (pytest.approx(0.5), 1)


async def test_plans_are_counted_by_credential_and_end_with_a_plan_of_nothing(use: EngineUse) -> None:
    await take(use, "a", planned=1.5, open_tasks=3)
    other = await use.engine.take("b", Take("video/other", planned=4.0, open_tasks=8))
    assert (other.planned, other.open_tasks) == (pytest.approx(4.0), 8)
    await take(use, "a")
    lent = await take(use, "b")
    assert (lent.planned, lent.open_tasks) == (0.0, 0)


@pytest.mark.parametrize("senseless", [float("nan"), float("inf"), -5.0])
async def test_a_senseless_plan_counts_as_none(use: EngineUse, senseless: float) -> None:
    await take(use, "a", planned=senseless, open_tasks=-7)
    lent = await take(use, "b", planned=1.0, open_tasks=2)
    assert (lent.planned, lent.open_tasks) == (pytest.approx(1.0), 2)


async def test_a_session_of_an_earlier_version_sends_no_open_tasks(use: EngineUse) -> None:
    await take(use, "a", planned=1.5)
    lent = await take(use, "b", planned=2.0, open_tasks=4)
    assert (lent.planned, lent.open_tasks) == (pytest.approx(3.5), 4)


async def test_the_price_factor_is_one_for_all_and_moved_by_each(use: EngineUse) -> None:
    async def factor(session: str, **options: float) -> float:
        return (await take(use, session, open_tasks=2, **options)).factor

    assert await factor("a", factor=4.0, raised=2.0) == 4.0  # none known: as this one knows it
    assert await factor("b", factor=1.0, raised=1.5) == 6.0
    assert await factor("a", factor=4.0) == 6.0
    assert await factor("a", factor=4.0, raised=0.5) == 3.0
    assert await factor("b", raised=0.001) == 1.0  # never less
    assert await factor("b", raised=1e300) == 1e6
    # Who plans no polls moves nothing, and hears it.
    assert (await take(use, "a", raised=0.1)).factor == 1e6
    other = await use.engine.take("a", Take("video/other", open_tasks=1))
    assert other.factor == 1.0
    # The last task of all has ended: the next ones begin without the price of these.
    assert (await take(use, "b")).factor == 1.0
    assert await factor("a", factor=3.0, raised=2.0) == 3.0


@pytest.mark.parametrize("senseless", [float("nan"), float("inf"), float("-inf"), -1.0, 0.0])
async def test_a_senseless_factor_leaves_a_sane_one(use: EngineUse, senseless: float) -> None:
    lent = await take(use, "a", open_tasks=1, factor=senseless, raised=senseless)
    assert 1.0 <= lent.factor <= 1e6
    lent = await take(use, "a", open_tasks=1, factor=1.0, raised=senseless)
    assert 1.0 <= lent.factor <= 1e6


# Pauses, failures, probes


async def test_a_pause_stops_slots_and_is_told_through_the_log(use: EngineUse) -> None:
    head = await use.head()
    paused, failures = await use.engine.report("a", KEY, Report.PAUSE, seconds=3)
    assert (paused, failures) == (use.time.now + 3 * SECOND, 0)
    (entry,) = await use.log(head)
    assert entry == BudgetEntry(entry.offset, head, KEY, paused, 0)
    lent = await take(use, "b", rate=40.0, slots=5)
    assert (list(lent.slots), lent.paused_until, lent.next_slot) == ([], paused, paused)
    use.time.advance(2.9)
    assert list((await take(use, "b", rate=40.0, slots=1)).slots) == [paused]


async def test_a_pause_without_a_wish_doubles_up_to_a_minute(use: EngineUse) -> None:
    lasted = []
    for _ in range(8):
        paused, _ = await use.engine.report("a", KEY, Report.PAUSE)
        lasted.append((paused - use.time.now) / SECOND)
        use.time.now = paused
    assert lasted == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_calls_that_meet_the_same_limit_together_count_once(use: EngineUse) -> None:
    first = await use.engine.report("a", KEY, Report.PAUSE)
    head = await use.head()
    assert await use.engine.report("b", KEY, Report.PAUSE) == first
    assert await use.log(head) == []
    # A longer wish of the provider counts, a shorter one does not.
    longer, _ = await use.engine.report("b", KEY, Report.PAUSE, seconds=5)
    assert longer == use.time.now + 5 * SECOND
    assert (await use.engine.report("b", KEY, Report.PAUSE, seconds=2))[0] == longer


async def test_success_halves_the_pause_until_it_is_gone(use: EngineUse) -> None:
    for _ in range(3):
        paused, _ = await use.engine.report("a", KEY, Report.PAUSE)
        use.time.now = paused
    await use.engine.report("a", KEY, Report.WORKS)  # 4 -> 1.75
    paused, _ = await use.engine.report("a", KEY, Report.PAUSE)
    assert (paused - use.time.now) / SECOND == pytest.approx(3.5)
    use.time.now = paused
    head = await use.head()
    standing = [await use.engine.report("a", KEY, Report.WORKS) for _ in range(4)]
    assert standing[0][0] == paused
    assert standing[-1] == (0, 0)
    assert [entry[2:] for entry in await use.log(head)] == [(KEY, 0, 0)]
    paused, _ = await use.engine.report("a", KEY, Report.PAUSE)
    assert paused - use.time.now == SECOND


async def test_success_during_a_pause_does_not_end_it(use: EngineUse) -> None:
    paused, _ = await use.engine.report("a", KEY, Report.PAUSE, seconds=30)
    assert await use.engine.report("b", KEY, Report.WORKS) == (paused, 0)
    assert list((await take(use, "b", rate=40.0, slots=5)).slots) == []


async def test_a_senseless_wish_of_a_provider_is_bounded(use: EngineUse) -> None:
    paused, _ = await use.engine.report("a", KEY, Report.PAUSE, seconds=1e9)
    assert paused - use.time.now == 300 * SECOND


async def test_failures_count_over_all_sessions_until_one_works(use: EngineUse) -> None:
    head = await use.head()
    for number in range(1, 10):
        assert await use.engine.report("ab"[number % 2], KEY, Report.FAILED) == (0, number)
    assert (await take(use, "a")).failures == 9
    assert await use.engine.report("b", KEY, Report.WORKS) == (0, 0)
    told = [entry.failures for entry in await use.log(head) if isinstance(entry, BudgetEntry)]
    assert told == [*range(1, 10), 0]
    head = await use.head()
    assert await use.engine.report("b", KEY, Report.WORKS) == (0, 0)
    assert await use.log(head) == []


async def test_one_session_at_a_time_probes(use: EngineUse) -> None:
    await use.session("c", ttl=2)
    assert await use.engine.probe("c", KEY, seconds=10) is True
    assert await use.engine.probe("a", KEY, seconds=10) is False
    assert await use.engine.probe("c", KEY, seconds=10) is True
    assert await use.engine.probe("a", "video/other", seconds=10) is True
    use.time.advance(2)  # it died
    assert await use.engine.probe("c", KEY, seconds=10) is False
    assert await use.engine.probe("a", KEY, seconds=10) is True
    use.time.advance(9.9)
    assert await use.engine.probe("b", KEY, seconds=10) is False
    use.time.advance(0.1)
    assert await use.engine.probe("b", KEY, seconds=10) is True
    await use.engine.report("b", KEY, Report.WORKS)
    assert await use.engine.probe("a", KEY, seconds=10) is True


async def test_the_dead_report_nothing(use: EngineUse) -> None:
    await use.session("c", ttl=2)
    use.time.advance(2)
    assert await use.engine.report("c", KEY, Report.FAILED) == (0, 0)
    assert await use.engine.report("c", KEY, Report.PAUSE, seconds=3) == (0, 0)
