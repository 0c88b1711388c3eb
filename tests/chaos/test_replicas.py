"""Three bridges on one engine behind a balancer that picks at random: small runs of `make chaos-replicas`."""

from __future__ import annotations

import pytest

from tests.conftest import missing
from tests.replicas.acts import ENGINE_ACTS, REPLICA_ACTS
from tests.replicas.engines import Missing, engine_process, program
from tests.replicas.story import Plan, play

pytestmark = [pytest.mark.anyio, pytest.mark.extended]
SMALL = {"seconds": 10.0, "run_seconds": (2.0, 8.0), "calm": (1.0, 2.0)}


@pytest.mark.parametrize(
    ("engine", "seed", "acts"),
    [
        ("valkey", 1, REPLICA_ACTS[:2]),
        ("redis62", 2, ("rolling",)),
        ("valkey", 3, ENGINE_ACTS[:3]),
        ("redis7", 4, ENGINE_ACTS[3:]),
    ],
    ids=["kills", "deploy", "losses", "partitions"],
)
async def test_no_viewer_misses_an_end_or_sees_a_state_twice(
    engine: str, seed: int, acts: tuple[str, ...]
) -> None:
    try:
        program(engine)
    except Missing as reason:
        missing(str(reason))
    async with engine_process(engine) as server:
        verdict = await play(Plan(seed=seed, acts=acts, **SMALL), server)
    assert verdict.judge.states > 100
    assert not verdict.faults, "\n".join([str(verdict), *verdict.lines, *verdict.faults[:20]])
