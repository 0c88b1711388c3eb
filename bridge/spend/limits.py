"""What each caller may spend a day at an upstream: held at the submit, settled with the final cost.

Rule 1: what may have been created is held; what surely was not is given back at once.
Rule 2: a hold is settled once, by a job that is written in the same step as the final state: by whichever
        bridge records it, also after a kill.
Rule 3: a day is one of UTC, that of the submit: what was submitted before midnight never counts after it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from statistics import median
from typing import NamedTuple

import orjson

from bridge.clock import Clock
from bridge.core.details import TaskDetails
from bridge.core.merge import is_ended
from bridge.core.task import State, Status, TaskKey
from bridge.engine.base import Job
from bridge.engine.ledger import Ledger
from bridge.errors import JournalError, SpendLimitExceeded

QUEUE = "spend"
DAY_SECONDS = 86_400.0
KEPT_COSTS = 100
"""Final costs by which the cost of the next task is estimated, of each upstream."""

MAX_MODELS = 1000
MAX_LISTED = 1000
"""Callers of one upstream and day that are listed, those that came last."""

_REFRESH_SECONDS = 30.0
_MICROSECONDS = 1_000_000
_MAX_BATCH = 50
_READER = "-"  # a hold of nothing: its answer says what is used

logger = logging.getLogger(__name__)


class SpendLimit(NamedTuple):
    """What a caller may spend at one upstream.

    Args:
        amount: A day, in `unit`; infinite to only count.
        unit: As the dialect names it.
    """

    amount: float
    unit: str


class SpendHold(NamedTuple):
    """What one submit holds.

    Args:
        name: Kept with the task: says whose it is, by a digest, and which.
    """

    upstream: str
    name: str

    @property
    def counter(self) -> str:
        """What it counts in."""
        return _counter(self.upstream, self.name.partition(":")[0])


class Spent(NamedTuple):
    """What one caller has spent today, what its open tasks hold included."""

    caller: str
    used: float


class SpendLimits:
    """Holds, settles and reports what callers spend.

    Args:
        limits: By upstream; the others are not counted.
    """

    def __init__(self, ledger: Ledger, clock: Clock, limits: Mapping[str, SpendLimit]) -> None:
        self.limits = limits
        self._ledger = ledger
        self._clock = clock
        self._costs: dict[str, _Costs] = {}
        self._estimates: dict[tuple[str, str | None], float] = {}
        self._listed: set[tuple[str, str]] = set()
        self._listed_day = ""

    @property
    def day(self) -> str:
        """Today in UTC, as in `2026-11-30`, by the clock of the ledger."""
        return datetime.fromtimestamp(self._ledger.now() / _MICROSECONDS, UTC).date().isoformat()

    @property
    def seconds_left(self) -> float:
        """Until the next day begins, at least one."""
        return max(DAY_SECONDS - self._ledger.now() / _MICROSECONDS % DAY_SECONDS, 1.0)

    async def hold(self, upstream: str, caller: str, model: str | None) -> SpendHold | None:
        """Hold what a task will probably cost; None where nothing is counted.

        Args:
            model: As the submit names it, if it does.

        Raises:
            SpendLimitExceeded: It is beyond what the caller may spend today; nothing is held.
            JournalError: The ledger is away; nothing is held, or what is held is given back at midnight.
        """
        limit = self.limits.get(upstream)
        if limit is None:
            return None
        await self._list(upstream, caller)
        amount = await self._estimate(upstream, model)
        hold = SpendHold(upstream, f"{_digest(caller)}:{secrets.token_hex(8)}")
        held = await self._ledger.hold(
            hold.counter, hold.name, amount, limit=limit.amount, window=DAY_SECONDS
        )
        if held.ok and held.used >= limit.amount and not amount:
            # Nothing fits into a limit that is used up; a task of unknown cost would always fit.
            await self.settle(hold, 0.0)
        elif held.ok:
            return hold
        raise SpendLimitExceeded(
            _refusal(limit, held.used, amount, upstream), retry_after=float(int(self.seconds_left) + 1)
        )

    async def settle(self, hold: SpendHold, amount: float) -> None:
        """Replace what is held; 0.0 gives it back.

        Raises:
            JournalError: The ledger is away: it happened or not.
        """
        await self._ledger.settle(hold.counter, hold.name, amount)

    async def release(self, hold: SpendHold) -> None:
        """Give back what is held: nothing was created. Without the ledger it is held until midnight."""
        await self._settle_now(hold, 0.0)

    async def estimated(self, hold: SpendHold, state: State, model: str | None) -> None:
        """Hold what the provider says that the task will cost, if it says.

        Args:
            model: As the submit names it; the answer to a submit rarely does.
        """
        amount = state.credits_used if state.credits_used is not None else state.credits_estimated
        if amount is None:
            return
        self._estimates[hold.upstream, state.model if state.model is not None else model] = amount
        while len(self._estimates) > MAX_MODELS:
            del self._estimates[next(iter(self._estimates))]
        await self._settle_now(hold, amount)

    async def ended(self, hold: SpendHold, state: State) -> None:
        """Settle the hold of a submit that was answered with a task that has ended."""
        await self._settle_now(hold, final_cost(state)[0])

    async def _settle_now(self, hold: SpendHold, amount: float) -> None:
        try:
            await self.settle(hold, amount)
        except JournalError as error:
            logger.warning("spend not updated", extra={"upstream": hold.upstream, "error": str(error)})

    async def carry_out(self, job: Job) -> float | None:
        """Settle the hold of a task that has ended: `JobRunner` calls it.

        Raises:
            JournalError: The ledger is away.
        """
        settlement = _decode(job)
        if settlement is None:
            logger.warning("spend job not readable")
            return None
        hold, model, cost, reported = settlement
        await self.settle(hold, cost)
        if reported:
            sample = orjson.dumps([model, cost])
            await self._ledger.learn(_samples(hold.upstream), [sample], keep=KEPT_COSTS)
        return None

    async def spent(self, upstream: str) -> Sequence[Spent]:
        """What each caller has spent today, those that spent most first.

        Raises:
            JournalError: The ledger is away.
        """
        (names,) = await self._ledger.learned([_list_name(upstream, self.day)])
        callers = list(dict.fromkeys(name.decode("utf-8", "replace") for name in reversed(names)))
        found: list[Spent] = []
        for start in range(0, len(callers), _MAX_BATCH):
            part = callers[start : start + _MAX_BATCH]
            used = await asyncio.gather(*(self._used(upstream, caller) for caller in part))
            found += map(Spent, part, used)
        return sorted(found, key=lambda one: (-one.used, one.caller))

    async def _used(self, upstream: str, caller: str) -> float:
        counter = _counter(upstream, _digest(caller))
        held = await self._ledger.hold(counter, _READER, 0.0, limit=float("inf"), window=DAY_SECONDS)
        return held.used

    async def _list(self, upstream: str, caller: str) -> None:
        """Remember that a caller has a counter: counters are found by name only."""
        day = self.day
        if day != self._listed_day:
            self._listed, self._listed_day = set(), day
        if (upstream, caller) not in self._listed:
            name = caller.encode("utf-8", "replace")
            await self._ledger.learn(_list_name(upstream, day), [name], keep=MAX_LISTED)
            self._listed.add((upstream, caller))

    async def _estimate(self, upstream: str, model: str | None) -> float:
        """What such tasks cost of late, or were said to cost: of that model, else of all; 0.0 if unknown."""
        costs = self._costs.get(upstream)
        now = self._clock.monotonic()
        if costs is None or now >= costs.stale_at:
            (samples,) = await self._ledger.learned([_samples(upstream)])
            costs = self._costs[upstream] = _Costs.read(samples, now + _REFRESH_SECONDS)
        known = costs.by_model.get(model, self._estimates.get((upstream, model)))
        return costs.by_model.get(None, 0.0) if known is None else known


class SpendPlanner:
    """Satisfies `bridge.journal.base.JobPlanner`: what a final state settles."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.wake: Callable[[], None] = _nothing

    def plan(self, key: TaskKey, previous: State | None, state: State, details: TaskDetails) -> Sequence[Job]:
        """See `JobPlanner`. A lost task may still end: what it holds stays held."""
        if details.spend is None or not is_ended(state) or (previous is not None and is_ended(previous)):
            return ()  # after its end a state is only amended
        body = orjson.dumps([key.upstream, details.spend, state.model, *final_cost(state)])
        due = self._ledger.now() - _MICROSECONDS
        return [Job(queue=QUEUE, id=details.spend, body=body, due=due)]

    def written(self, key: TaskKey, jobs: Sequence[Job], dropped: int) -> None:
        """See `JobPlanner`."""
        del jobs
        if dropped:
            logger.warning("spend not settled", extra={"task": key.ref})
        self.wake()


def final_cost(state: State) -> tuple[float, bool]:
    """What a task that has ended cost, and whether the provider reported it.

    Without a final cost, what the provider estimated counts for a completed task; nothing for any other.
    """
    if state.credits_used is not None:
        return state.credits_used, True
    if state.status is Status.COMPLETED and state.credits_estimated is not None:
        return state.credits_estimated, True
    return 0.0, False


class _Costs(NamedTuple):
    """The median of final costs of late, by model; of all models under None."""

    by_model: Mapping[str | None, float]
    stale_at: float

    @classmethod
    def read(cls, samples: Sequence[bytes], stale_at: float) -> _Costs:
        found: dict[str | None, list[float]] = {}
        for sample in samples:
            try:
                model, cost = orjson.loads(sample)
                amount = float(cost)
            except (ValueError, TypeError):
                continue  # of another version
            if not 0 <= amount < float("inf"):
                continue
            found.setdefault(None, []).append(amount)
            if isinstance(model, str):
                found.setdefault(model, []).append(amount)
        return cls({model: median(costs) for model, costs in found.items()}, stale_at)


def _decode(job: Job) -> tuple[SpendHold, str | None, float, bool] | None:
    try:
        upstream, name, model, cost, reported = orjson.loads(job.body)
        return SpendHold(str(upstream), str(name)), model, float(cost), bool(reported)
    except (ValueError, TypeError):
        return None


def _refusal(limit: SpendLimit, used: float, amount: float, upstream: str) -> str:
    unit = f" {limit.unit}" if limit.unit else ""
    expected = f", and this task will probably cost {amount:.6g}" if amount else ""
    return (
        f"at most {limit.amount:.6g}{unit} a day may be spent at {upstream!r}: {used:.6g} are spent, or held"
        f" by tasks that run{expected}"
    )


def _digest(caller: str) -> str:
    return sha256(caller.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _counter(upstream: str, digest: str) -> str:
    return f"spend:{upstream}:{digest}"


def _list_name(upstream: str, day: str) -> str:
    return f"spend-callers:{upstream}:{day}"


def _samples(upstream: str) -> str:
    return f"costs:{upstream}"


def _nothing() -> None:
    """No runner waits for jobs."""
