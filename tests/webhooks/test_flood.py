"""Many deliveries, a third of which fails at first: each arrives, in order, and memory does not follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.webhooks.flood import MEGABYTE, Plan, flood

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "plan",
    [
        Plan(tasks=40, endpoints=4, every=0, hanging=0.0),
        pytest.param(Plan(tasks=500, endpoints=4), marks=pytest.mark.extended),
        pytest.param(Plan(tasks=300, endpoints=4, kind="three"), marks=pytest.mark.extended),
        pytest.param(Plan(tasks=300, endpoints=4, kind="workers"), marks=pytest.mark.extended),
    ],
    ids=["small", "one", "three", "workers"],
)
async def test_each_end_arrives(plan: Plan, tmp_path: Path) -> None:
    told = await flood(plan, tmp_path)
    assert not told.faults, "\n".join([str(told), *told.faults[:20]])
    assert told.attempts > plan.deliveries * 1.2
    assert told.largest_rss - told.first_rss < 60 * MEGABYTE * (3 if plan.kind == "three" else 1), str(told)
