"""What ended tasks taught is listed and forgotten in a journal's file and in every engine alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from bridge.app.learned import add_to_engine, forget_learned, list_learned
from bridge.clock import SystemClock
from bridge.config.settings import Settings
from bridge.core.learned import MAX_RUNS, Measurement, Run, TaskKind
from bridge.engine.base import Engine
from bridge.errors import JournalError
from bridge.journal.learned import Choice, index_name, kind_digest, list_name
from bridge.replica.connection import Connect
from tests.contract.test_transfer import Lent, journal, settings
from tests.fakes.engines import ENGINES, VirtualTime, require

pytestmark = pytest.mark.anyio

NOW = SystemClock().time()
KINDS = [TaskKind("wan", "generate"), TaskKind("wan", "edit"), TaskKind("flux", None)]

Put = Callable[[Sequence[Run]], Awaitable[None]]


class Storage:
    """One place where bridges keep what they learned."""

    def __init__(self, settings: Settings, connect: Connect | None, put: Put) -> None:
        self.settings, self.connect, self.put = settings, connect, put

    async def kinds(self) -> list[tuple[str | None, str | None, int]]:
        rows = await list_learned(self.settings, SystemClock(), self.connect)
        assert {row.upstream for row in rows} <= {"qingbo"}
        return [(row.model, row.action, row.samples) for row in rows]

    async def forget(self, model: str | None = None, action: str | None = None) -> int:
        choice = Choice("qingbo", model, action)
        return await forget_learned(self.settings, SystemClock(), choice, self.connect)


@pytest.fixture(params=[None, *ENGINES], ids=lambda maker: "file" if maker is None else maker.name)
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    if request.param is None:
        path = tmp_path / "journal.db"

        async def store(runs: Sequence[Run]) -> None:
            async with journal(path) as opened:
                for run in runs:
                    opened.learn("qingbo", run)

        yield Storage(settings(path), None, store)
        return
    require(request.param)
    async with request.param.open(VirtualTime(round(NOW * 1e6))) as engine:

        async def connect() -> Engine:
            return Lent(engine)  # type: ignore[return-value] # what is not there is the engine's

        async def add(runs: Sequence[Run]) -> None:
            await add_to_engine(engine, [("qingbo", run) for run in runs], NOW)

        yield Storage(settings(tmp_path / "none.db"), connect, add)


def taught(kind: TaskKind, number: int) -> Run:
    return Run(kind, NOW - 60 + number, {"run": Measurement(10.0 + number)})


async def test_kinds_are_listed_and_forgotten(storage: Storage) -> None:
    await storage.put([taught(kind, number) for kind in KINDS for number in range(5)])
    await storage.put([taught(KINDS[0], number) for number in range(100)])
    everything = [("flux", None, 5), ("wan", "edit", 5), ("wan", "generate", MAX_RUNS)]
    assert await storage.kinds() == everything
    rows = await list_learned(storage.settings, SystemClock(), storage.connect)
    assert rows[1].newest == pytest.approx(NOW - 56, abs=0.001)
    assert rows[1].p50_seconds == pytest.approx(12.0)
    assert await storage.forget("unknown") == 0
    assert await storage.forget("flux", "generate") == 0
    assert await storage.kinds() == everything
    assert await storage.forget(action="edit") == 1
    assert await storage.kinds() == [everything[0], everything[2]]
    assert await storage.forget("wan") == 1
    await storage.put([taught(KINDS[0], 1)])
    assert await storage.kinds() == [everything[0], ("wan", "generate", 1)]
    assert await storage.forget() == 2
    assert await storage.kinds() == []


async def test_a_damaged_list_is_forgotten_with_all() -> None:
    from bridge.engine.embedded import EmbeddedEngine

    engine = EmbeddedEngine(VirtualTime(round(NOW * 1e6)))

    async def connect() -> Engine:
        return Lent(engine)  # type: ignore[return-value] # what is not there is the engine's

    await add_to_engine(engine, [("qingbo", taught(kind, 1)) for kind in KINDS], NOW)
    name = list_name("qingbo", kind_digest(KINDS[0]))
    await engine.learn(name, [], keep=0)
    await engine.learn(name, [b"damaged"], keep=9)
    wishes = settings(Path("none.db"))
    assert await forget_learned(wishes, SystemClock(), Choice("qingbo"), connect) == len(KINDS)
    assert await engine.learned([name]) == [[]]
    assert (await engine.get([index_name("qingbo")]))[0][1] is not None  # bridges learn that it is empty


async def test_a_journal_in_memory_has_nothing_to_list() -> None:
    memory = Settings.model_validate({"journal": "memory", "upstreams": {"qingbo": {}}})
    with pytest.raises(JournalError, match="nothing is stored"):
        await list_learned(memory, SystemClock())
    with pytest.raises(JournalError, match="nothing is stored"):
        await forget_learned(memory, SystemClock(), Choice("qingbo"))
