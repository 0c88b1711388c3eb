"""Tasks of a SQLite file come into every engine, open ones are polled there, and all of it comes back."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.app.transfer import Exported, Imported, export_tasks, import_tasks
from bridge.clock import SystemClock
from bridge.config.settings import Settings
from bridge.core.details import TaskDetails
from bridge.core.learned import Measurement, Run, TaskKind
from bridge.core.task import State, TaskKey
from bridge.engine.base import End, Engine
from bridge.errors import JournalError
from bridge.journal.learned import decode_run, encode_run
from bridge.journal.portable import read_runs, read_tasks
from bridge.journal.sqlite.codec import decode
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.webhooks.endpoint import Webhook
from bridge.webhooks.signature import new_secret
from bridge.webhooks.stored import EndpointHealth, StoredWebhooks, decode_stored
from tests.commands import Ended, run
from tests.fakes.engines import ENGINES, EngineMaker, EngineUse, VirtualTime, require
from tests.fakes.tasks import state

pytestmark = pytest.mark.anyio

THEIRS = TaskKey("vapi", "operations/7-任务", "an-account")
TASKS: dict[TaskKey, State] = {
    **{TaskKey("qingbo", f"open-{number}"): state(progress=number) for number in range(150)},
    **{TaskKey("qingbo", f"over-{number}"): state("completed", progress=100) for number in range(20)},
    TaskKey("qingbo", "lost"): state("lost"),
    THEIRS: state("queued", raw=b'{"a": "\xff"}', upstream_status='a "word"\n'),
}
OPEN = sum(not one.status.final for one in TASKS.values())


def settings(path: Path) -> Settings:
    upstreams = {"qingbo": {}, "vapi": {}}
    return Settings.model_validate({"journal": f"sqlite:{path}", "upstreams": upstreams})


@asynccontextmanager
async def journal(path: Path) -> AsyncIterator[SqliteJournal]:
    opened = await SqliteJournal.open(path, SystemClock(), retention_seconds=3600)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def source(tmp_path: Path) -> Path:
    """A file with two states of each task."""
    async with journal(tmp_path / "old.db") as opened:
        for key, known in TASKS.items():
            await opened.append(key, state("queued"))
            await opened.append(key, known)
    return tmp_path / "old.db"


class Lent:
    """An engine that a program opens and closes, and that is still there afterwards."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def close(self) -> None:
        pass


@pytest.fixture(params=ENGINES, ids=lambda maker: maker.name)
async def use(request: pytest.FixtureRequest) -> AsyncIterator[EngineUse]:
    maker: EngineMaker = request.param
    require(maker)
    time = VirtualTime()
    async with maker.open(time) as engine:
        yield EngineUse(engine, time)


async def test_from_a_file_into_an_engine_and_back(use: EngineUse, source: Path, tmp_path: Path) -> None:
    async def connect() -> Engine:
        return Lent(use.engine)  # type: ignore[return-value] # what is not there is the engine's

    there, back = tmp_path / "there.ndjson", tmp_path / "back.ndjson"
    assert await export_tasks(settings(source), SystemClock(), there) == Exported(len(TASKS), OPEN, 0)
    assert {task.key: task.state for task in read_tasks(there)} == TASKS
    done = await import_tasks(settings(source), SystemClock(), there, connect)
    assert done == Imported(len(TASKS), OPEN, 0)
    for key, known in TASKS.items():
        record = await use.record(key)
        assert record.document is not None
        assert decode(record.document, record.raw) == known
        assert (record.persistent, record.owner) == (not known.status.final, "")
    assert (await use.record(TaskKey("qingbo", "lost"))).end is End.LOST
    # who serves takes the open ones, each once, and those of a caller's key only where that key is
    await use.session("a")
    owned = []
    while claimed := await use.engine.claim("a", account="-", limit=100):
        owned += [record.key for record in claimed]
    assert sorted(owned) == sorted(key for key in TASKS if key.task_id.startswith("open"))
    assert [one.key for one in await use.engine.claim("a", account=THEIRS.account, limit=9)] == [THEIRS]
    assert await export_tasks(settings(source), SystemClock(), back, connect) == Exported(len(TASKS), OPEN, 0)
    assert {task.key: task.state for task in read_tasks(back)} == TASKS
    again = await import_tasks(settings(source), SystemClock(), there, connect)
    assert again == Imported(0, 0, len(TASKS))


RUNS = [
    Run(TaskKind(model, "generate"), SystemClock().time() - 60 + number, {"run": Measurement(float(number))})
    for model in ("wan", "flux")
    for number in range(10)
]


def encoded(file: Path) -> list[bytes | None]:
    """The runs of a file, in any order."""
    return sorted((encode_run(run) for _, run in read_runs(file)), key=str)


async def test_what_was_learned_goes_with_the_tasks(use: EngineUse, source: Path, tmp_path: Path) -> None:
    async def connect() -> Engine:
        return Lent(use.engine)  # type: ignore[return-value] # what is not there is the engine's

    async with journal(source) as opened:
        for run in RUNS:
            opened.learn("qingbo", run)
    there, back, again = (tmp_path / name for name in ("there", "back", "again"))
    assert (await export_tasks(settings(source), SystemClock(), there)).runs == len(RUNS)
    for _ in range(2):  # an import may be repeated
        done = await import_tasks(settings(source), SystemClock(), there, connect)
        assert done.runs == len(RUNS)
    assert (await export_tasks(settings(source), SystemClock(), back, connect)).runs == len(RUNS)
    assert encoded(back) == encoded(there)
    await import_tasks(settings(tmp_path / "new.db"), SystemClock(), back)
    await export_tasks(settings(tmp_path / "new.db"), SystemClock(), again)
    assert encoded(again) == encoded(there)


HOOKS = [
    Webhook(
        id=f"wh_{number}", url=f"https://app.test/{number}", secret=new_secret(), tags=("a",), created_at=1.0
    )
    for number in range(2)
]


def stored(*hooks: Webhook) -> bytes:
    failing = {hook.id: EndpointHealth(failing_since=5.0, at="x") for hook in hooks}
    return StoredWebhooks({hook.id: hook for hook in hooks}, failing).encode()


async def test_webhooks_and_details_go_with_the_tasks(use: EngineUse, tmp_path: Path) -> None:
    async def connect() -> Engine:
        return Lent(use.engine)  # type: ignore[return-value] # what is not there is the engine's

    key, details = TaskKey("qingbo", "one"), TaskDetails("https://app.test/x?token=ü", ("a",), "album")
    source, there, back, again = (tmp_path / name for name in ("old.db", "there", "back", "again"))
    async with journal(source) as opened:
        opened.describe(key, details)
        await opened.append(key, state())
        await opened.append(TaskKey("qingbo", "two"), state())
        await opened.ledger.put("webhooks", stored(*HOOKS), expect=None, seconds=1e9)
        exported = await export_tasks(settings(source), SystemClock(), there)  # while it is open
    assert (exported.tasks, exported.webhooks) == (2, 2)
    assert stat.S_IMODE(there.stat().st_mode) == 0o600
    theirs = replace(HOOKS[0], url="https://elsewhere.test")
    await use.engine.put("webhooks", stored(theirs), expect=None, seconds=1e9)
    assert (await import_tasks(settings(source), SystemClock(), there, connect)).webhooks == 1
    assert (await import_tasks(settings(source), SystemClock(), there, connect)).webhooks == 0
    ((_, document),) = await use.engine.get(["webhooks"])
    assert decode_stored(document) == decode_stored(stored(theirs, HOOKS[1]))
    assert (await use.record(key)).details == details.encode()
    assert [one.key for one in await use.engine.listing("qingbo", "-", tag="a")] == [key]
    await export_tasks(settings(source), SystemClock(), back, connect)
    assert (await import_tasks(settings(tmp_path / "new.db"), SystemClock(), back)).webhooks == 2
    async with journal(tmp_path / "new.db") as opened:
        assert opened.details(key) == details
        ((_, document),) = await opened.ledger.get(["webhooks"])
        assert decode_stored(document) == decode_stored(stored(theirs, HOOKS[1]))
        await export_tasks(settings(tmp_path / "new.db"), SystemClock(), again)
    assert sorted(again.read_text().splitlines()) == sorted(back.read_text().splitlines())


async def test_a_file_of_an_older_version_has_tasks_only(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks"
    async with journal(source) as opened:
        opened.learn("qingbo", RUNS[0])
    await export_tasks(settings(source), SystemClock(), file)
    lines = file.read_text().splitlines()
    odd = ['{"learned": "qingbo", "run": "[9]"}', '{"learned": 7, "run": {}}']
    file.write_text("\n".join([*lines[:-1], *odd, lines[-1]]))
    assert [run for _, run in read_runs(file)] == [decode_run(encode_run(RUNS[0]) or b"")]
    old = [line for line in lines if "learned" not in line]
    file.write_text("\n".join([old[0].replace("2", "1"), *old[1:]]))
    assert len(list(read_tasks(file))) == len(TASKS)
    assert list(read_runs(file)) == []


async def test_into_another_file_and_what_is_known_there_stays(source: Path, tmp_path: Path) -> None:
    key = TaskKey("qingbo", "open-7")
    async with journal(tmp_path / "new.db") as opened:
        await opened.append(key, state(progress=99))
    await export_tasks(settings(source), SystemClock(), tmp_path / "tasks")
    done = await import_tasks(settings(tmp_path / "new.db"), SystemClock(), tmp_path / "tasks")
    assert done == Imported(len(TASKS) - 1, OPEN - 1, 1)
    async with journal(tmp_path / "new.db") as opened:
        found = {event.key: event.state for event in await opened.unfinished()}
        assert found.pop(key).progress == 99
        assert found == {one: known for one, known in TASKS.items() if not known.status.final and one != key}


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda lines: lines[:-1], "is not complete: its last line is missing"),
        (lambda lines: [*lines[:5], *lines[6:]], "line 173 cannot be read: 171 tasks before it"),
        (lambda lines: [*lines[:2], lines[2][:40], *lines[3:]], "line 3 cannot be read: "),
        (lambda lines: [*lines[:2], '{"upstream": 7}', *lines[3:]], "line 3 cannot be read: "),
        (lambda lines: [lines[0].replace("3", "9"), *lines[1:]], "has the format 9; this version"),
        (lambda _: ["{}"], "is not a file of tasks"),
        (lambda _: ["\0\0"], "is not a file of tasks"),
        (lambda _: [], "is not complete"),
        (lambda lines: [*lines, lines[1]], "it comes after the last one"),
    ],
)
async def test_of_a_file_that_is_not_whole_nothing_is_used(
    spoil, sentence: str, source: Path, tmp_path: Path
) -> None:
    file, target = tmp_path / "tasks", tmp_path / "new.db"
    await export_tasks(settings(source), SystemClock(), file)
    file.write_text("\n".join(spoil(file.read_text().splitlines())))
    with pytest.raises(JournalError, match=sentence):
        await import_tasks(settings(target), SystemClock(), file)
    assert not target.exists()


async def test_an_id_that_no_client_could_ask_for_is_refused(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks"
    await export_tasks(settings(source), SystemClock(), file)
    lines = file.read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"task_id": "a\nb"})
    file.write_text("\n".join(lines))
    with pytest.raises(JournalError, match="line 2 cannot be read"):
        await import_tasks(settings(tmp_path / "new.db"), SystemClock(), file)


async def test_a_file_is_ours_alone_and_nothing_is_written_over(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks"
    await export_tasks(settings(source), SystemClock(), file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(JournalError, match="already exists"):
        await export_tasks(settings(source), SystemClock(), file)
    with pytest.raises(JournalError, match="does not exist"):
        await export_tasks(settings(tmp_path / "none.db"), SystemClock(), tmp_path / "other")
    left = [name for name in os.listdir(tmp_path) if not name.startswith("old.db")]  # noqa: PTH208 - not awaited
    assert left == ["tasks"]


async def test_the_commands_of_the_page_while_a_journal_is_in_use(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "tasks.ndjson"
    configs = []
    for name, path in (("old", source), ("new", tmp_path / "new.db")):
        configs.append(tmp_path / f"{name}.toml")
        configs[-1].write_text(f'journal = "sqlite:{path}"\n[upstreams.qingbo]\n[upstreams.vapi]\n')
    async with journal(source):  # as a bridge has it
        ended = await run("journal", "export", "--config", str(configs[0]), str(file))
        assert ended == Ended(0, f"tasks exported: {len(TASKS)}, of them open: {OPEN}\n", "")
        ended = await run("journal", "import", "--config", str(configs[0]), str(file))
        assert (ended.code, ended.out) == (3, "")
        assert "in use by another bridge" in ended.err
    ended = await run("journal", "import", "--config", str(configs[1]), str(file))
    assert ended == Ended(0, f"tasks imported: {len(TASKS)}, of them open: {OPEN}; known already: 0\n", "")
    ended = await run("journal", "export", "--config", str(configs[0]), str(file))
    assert ended == Ended(3, "", f"Error: {file} already exists; give the file a name of its own\n")


async def test_a_backup_of_an_engine_names_what_makes_one(tmp_path: Path) -> None:
    address = "redis://bridge:top-secret@valkey:6379"
    ended = await run("backup", address, str(tmp_path / "copy"))
    said = ended.out + ended.err
    assert ended.code == 1
    assert "append-only file" in said
    assert "top-secret" not in said


async def test_an_engine_that_is_not_there_is_one_sentence(source: Path, tmp_path: Path) -> None:
    from tests.chaos.proxy import free_port

    await export_tasks(settings(source), SystemClock(), tmp_path / "tasks")
    url = f"redis://bridge:top-secret@127.0.0.1:{free_port()}"
    (tmp_path / "new.toml").write_text(f'engine = "{url}"\n[upstreams.qingbo]\n')
    async with asyncio.timeout(20):
        ended = await run(
            "journal", "import", "--config", str(tmp_path / "new.toml"), str(tmp_path / "tasks")
        )
    assert (ended.code, ended.out) == (3, ""), ended.err
    assert "engine" in ended.err.splitlines()[-1]
    assert "top-secret" not in ended.err


def test_a_pipe_is_refused() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(JournalError, match="must be a file, not a pipe"):
            next(read_tasks(Path(f"/dev/fd/{reading}")))
    finally:
        os.close(reading)
        os.close(writing)
