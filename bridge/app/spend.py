"""Builds what counts and limits the spend of callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bridge.app.webhooks import Shared
from bridge.clock import Clock
from bridge.config.settings import Settings
from bridge.journal.jobs import JobRunner
from bridge.sources.upstream import Upstream
from bridge.spend.limits import QUEUE, SpendLimit, SpendLimits, SpendPlanner

LEASE_SECONDS = 60.0
MAX_IN_FLIGHT = 16


class SpendParts(NamedTuple):
    """What counts and limits; nothing where no upstream has a limit."""

    limits: SpendLimits | None = None
    runners: Sequence[JobRunner] = ()


def build_spend(
    settings: Settings, upstreams: Mapping[str, Upstream], shared: Shared, clock: Clock
) -> SpendParts:
    """What counts the spend of callers; without a limit a state costs nothing more."""
    amounts = {
        name: SpendLimit(config.max_spend_per_caller_per_day, upstreams[name].dialect.cost_unit)
        for name, config in settings.upstreams.items()
        if config.max_spend_per_caller_per_day is not None
    }
    if not amounts:
        return SpendParts()
    limits, planner = SpendLimits(shared.ledger, clock, amounts), SpendPlanner(shared.ledger)
    jobs = JobRunner(shared.ledger, QUEUE, limits.carry_out, clock, lease=LEASE_SECONDS, room=MAX_IN_FLIGHT)
    planner.wake = jobs.wake
    shared.planners.use(planner, used=True)
    return SpendParts(limits, [jobs])
