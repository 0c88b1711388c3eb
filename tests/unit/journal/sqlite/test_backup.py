"""A copy is whole, is for our eyes only, replaces nothing, and begins a history of its own."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from pathlib import Path

import pytest

from bridge.errors import JournalError
from bridge.journal.sqlite import backup
from bridge.journal.sqlite.backup import back_up
from tests.fakes.disk import opened
from tests.fakes.journal import recorded_after
from tests.fakes.tasks import OTHER, TASK, state

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "live").mkdir()
    return tmp_path / "live" / "bridge.db"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy.db"


def beside(path: Path) -> list[str]:
    """What lies in the folder of a file."""
    return sorted(one.name for one in path.parent.iterdir())


def content(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, words: str) -> None:
    path.write_text(words)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(path: Path, copy: Path) -> str:
    with pytest.raises(JournalError) as refused:
        back_up(path, copy)
    return str(refused.value)


async def test_a_copy_of_an_open_journal_holds_what_was_recorded_and_the_journal_goes_on(
    path: Path, copy: Path
) -> None:
    async with opened(path) as journal:
        recorded = [await journal.append(TASK, state(progress=number)) for number in range(3)]
        assert content(Path(f"{path}-wal"))  # a copy of the one file would miss these
        assert back_up(path, copy) == 3
        await journal.append(OTHER, state())
        assert journal.usable
    async with opened(copy) as copied:
        assert [one.state for one in await recorded_after(copied, TASK, 0)] == [one.state for one in recorded]
        assert await copied.latest([OTHER]) == [None]
        assert (await copied.append(OTHER, state())).cursor.offset == 4


async def test_whoever_opens_a_copy_begins_a_new_history_each_time_and_keeps_it(
    path: Path, copy: Path, tmp_path: Path
) -> None:
    async with opened(path) as journal:
        await journal.append(TASK, state())
        back_up(path, copy)
    epochs = [journal.epoch]
    for place in (tmp_path / "first.db", tmp_path / "second.db"):
        shutil.copy(copy, place)
        async with opened(place) as restored:
            epochs.append(restored.epoch)
        async with opened(place) as again:
            assert again.epoch == restored.epoch
    assert len(set(epochs)) == 3


async def test_a_journal_nobody_has_open_is_copied_as_well_and_left_as_it_was(path: Path, copy: Path) -> None:
    async with opened(path) as journal:
        await journal.append(TASK, state())
    before = (content(path), beside(path))
    assert back_up(path, copy) == 1
    assert (content(path), beside(path)) == before


async def test_two_files_out_of_a_snapshot_can_be_copied(path: Path, copy: Path, tmp_path: Path) -> None:
    async with opened(path) as journal:
        for number in range(3):
            await journal.append(TASK, state(progress=number))
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", tmp_path / f"taken.db{suffix}")
    assert back_up(tmp_path / "taken.db", copy) == 3


async def test_a_copy_can_be_copied(path: Path, copy: Path, tmp_path: Path) -> None:
    async with opened(path) as journal:
        await journal.append(TASK, state())
    back_up(path, copy)
    assert back_up(copy, tmp_path / "other.db") == 1


async def test_a_copy_is_for_our_eyes_only_and_leaves_nothing_beside_it(path: Path, copy: Path) -> None:
    async with opened(path):
        back_up(path, copy)
    assert mode(copy) == 0o600
    assert beside(copy) == ["copy.db", "live"]


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-lock"])
async def test_a_copy_replaces_nothing(path: Path, copy: Path, suffix: str) -> None:
    other = Path(f"{copy}{suffix}")
    write(other, "somebody's")
    async with opened(path):
        assert refusal(path, copy) == f"{other} already exists; give the copy a path of its own"
        assert "already exists" in refusal(path, path)
    assert content(other) == b"somebody's"


async def test_what_is_no_journal_is_not_copied(path: Path, copy: Path) -> None:
    assert refusal(path, copy) == f"the journal {path} does not exist"
    write(path, "[bridge]\n" * 1000)
    assert "is not a SQLite database" in refusal(path, copy)
    write(path, "")
    assert refusal(path, copy) == f"the journal {path} is empty"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title)")
    connection.close()
    assert "belongs to another program" in refusal(path, copy)
    assert beside(copy) == ["live"]


async def test_where_it_cannot_be_written_nothing_is_left(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path):
        assert "No such file or directory" in refusal(path, copy.parent / "nowhere" / "copy.db")
        with monkeypatch.context() as patch:
            patch.setattr(backup, "_forget_epoch", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                back_up(path, copy)
        assert beside(copy) == ["live"]


async def test_two_at_once_do_not_mix(path: Path, copy: Path) -> None:
    part = copy.with_name("copy.db.part")
    write(part, "of another")
    async with opened(path):
        assert "another copy is running" in refusal(path, copy)
    assert content(part) == b"of another"
