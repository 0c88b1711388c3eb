"""The engines of the tests lose what they are told to lose, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.replicas.engines import EngineProcess, Missing, engine_process, program

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["valkey", "redis7", "redis62"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[EngineProcess]:
    try:
        program(request.param)
    except Missing as reason:
        missing(str(reason))
    async with engine_process(request.param) as made:
        yield made


async def test_what_was_synced_outlives_a_kill_and_what_is_forgotten_does_not(engine: EngineProcess) -> None:
    await engine.ask("SET", "a", "1")
    await engine.ask("CONFIG", "SET", "appendfsync", "always")
    await engine.ask("SET", "b", "2")
    history = await engine.info("master_replid")
    await engine.kill()
    await engine.start()
    assert await engine.ask("GET", "b") == b"2"
    assert await engine.info("master_replid") != history
    await engine.kill()
    engine.forget()
    await engine.start()
    assert await engine.ask("GET", "b") == b"$-1"


async def test_an_older_copy_has_another_history_and_not_the_newest_writes(
    engine: EngineProcess, tmp_path: Path
) -> None:
    await engine.ask("SET", "a", "old")
    history = await engine.info("master_replid")
    await engine.copy(tmp_path / "copy")
    await engine.ask("SET", "a", "new")
    await engine.kill()
    await engine.become(tmp_path / "copy")
    assert await engine.ask("GET", "a") == b"old"
    assert await engine.info("master_replid") != history
    await engine.kill()
    await engine.start()  # what it became is durable again
    assert await engine.ask("GET", "a") == b"old"
