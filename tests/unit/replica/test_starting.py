"""A bridge that shares an engine, as it starts: without it, with one it cannot use, with one in time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.app.bridge import Bridge
from bridge.app.replicas import require_engine, wait_first
from bridge.config.settings import Settings
from bridge.engine.base import Engine
from bridge.engine.embedded import EmbeddedEngine
from bridge.errors import EngineUnavailable, JournalError
from tests.fakes.replicas import World
from tests.fakes.virtual import LoopClock, run

SETTINGS = {
    "engine": "redis://127.0.0.1:1",
    "upstreams": {"qingbo": {"preset": "qingbo", "api_key": "test-key"}},
}


class Unfit(EngineUnavailable):
    lasting = True


def test_a_start_waits_a_moment_for_its_engine_and_listens_all_the_same() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        world.away = True
        a = world.house("a")
        a.start()
        began = clock.monotonic()
        await wait_first(a.replica, clock)
        assert 1.0 <= clock.monotonic() - began < 1.2
        world.away = False
        await world.until(lambda: a.journal.usable)
        await world.close()

    run(play)


def test_a_start_is_given_up_when_its_engine_is_required_and_does_not_come() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        world.away = True
        a = world.house("a")
        a.start()
        failures: list[EngineUnavailable] = []
        began = clock.monotonic()
        await require_engine(a.replica, clock, 30, failures.append)
        assert 30 <= clock.monotonic() - began < 31
        assert str(failures[0]) == "the engine was not reached within 30 s: connection refused"
        await world.close()

    run(play)


@pytest.mark.parametrize(
    "seconds", [1, *(pytest.param(other, marks=pytest.mark.extended) for other in (0.1, 2))]
)
def test_a_bridge_without_the_engine_it_requires_ends_with_1_and_the_reason(
    seconds: float, tmp_path: Path
) -> None:
    """At any moment of its start, before the server listens too, and the reason is told."""
    configuration = tmp_path / "bridge.toml"
    configuration.write_text(
        f'engine = "unix://{tmp_path}/none"\nport = 0\nengine_required_seconds = {seconds}\n'
        '[upstreams.qingbo]\napi_key = "test-key"\n'
    )
    command = [sys.executable, "-m", "bridge", "serve", "--config", str(configuration)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert f"the engine was not reached within {seconds:g} s" in ended.stderr


def test_an_engine_that_was_reached_in_time_is_required_no_more() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        failures: list[EngineUnavailable] = []
        await require_engine(a.replica, clock, 1, failures.append)
        world.away = True
        await asyncio.sleep(60)
        assert not failures
        assert a.journal.usable
        await world.close()

    run(play)


@pytest.mark.anyio
async def test_an_engine_that_cannot_be_used_as_it_is_ends_the_start() -> None:
    bridge = Bridge(Settings.model_validate(SETTINGS))

    async def connect() -> Engine:
        raise Unfit("it evicts keys")

    bridge.connect = connect
    with pytest.raises((JournalError, ExceptionGroup)) as raised:
        async with bridge.running():
            pytest.fail("it started")
    error = raised.value
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions  # type: ignore[assignment]
    assert str(error) == "it evicts keys"


@pytest.mark.anyio
async def test_two_whole_bridges_on_one_engine_tell_about_each_other() -> None:
    engine = EmbeddedEngine()

    class Shared:
        def __getattr__(self, name: str) -> object:
            return getattr(engine, name)

        async def close(self) -> None:
            """The other one has it too."""

    async def connect() -> Engine:
        return Shared()  # type: ignore[return-value]

    bridges = []
    for _ in range(2):
        bridge = Bridge(Settings.model_validate(SETTINGS))
        bridge.connect = connect
        bridges.append(bridge)
    async with bridges[0].running(), bridges[1].running():
        for bridge in bridges:
            assert bridge.replica is not None
            # on a busy machine a start does not wait for it to the end
            while not bridge.replica.connection.up:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
        assert bridges[1].replica is not None
        while len(bridges[1].replica.others()) < 2:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
    assert all(bridge.replica is None for bridge in bridges)
    assert [await engine.bury(limit=10, spacing=0)] == [0]
