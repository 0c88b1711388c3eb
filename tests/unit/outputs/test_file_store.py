"""A directory of copies beside other programs: links, pipes, full disks, and what killed copies leave."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.clock import SystemClock
from bridge.core.task import TaskKey
from bridge.outputs.file_store import LEFT_SECONDS, FileStore
from bridge.outputs.names import object_name
from bridge.outputs.store import StoreError
from tests.fakes.clock import FakeClock
from tests.fakes.disk import without_privileges

pytestmark = pytest.mark.anyio

NAME = object_name(TaskKey("vapi", "task-1"), 0)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def put(store: FileStore, data: bytes = b"content", name: str = NAME) -> None:
    await store.put(name, chunks(data), media_type="video/mp4", max_bytes=1 << 30)


async def read(store: FileStore) -> bytes:
    async with store.open(NAME) as (_, iterator):
        return b"".join([chunk async for chunk in iterator])


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def folders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def open_files() -> int:
    """How many this process has, on Linux."""
    place = Path("/proc/self/fd")
    return len(list(place.iterdir())) if place.exists() else 0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(unix_time=SystemClock().time())  # the times of files are those of the system


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[FileStore]:
    store = FileStore(tmp_path / "outputs", clock)
    await store.check()
    yield store
    await store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


async def test_a_copy_is_two_files_that_only_the_bridge_reads(store: FileStore, folder: Path):
    await put(store)
    described, content = sorted((folder / NAME).parent.iterdir(), key=lambda path: path.suffix != ".json")
    assert described.name == "0.json"
    assert content.read_bytes() == b"content"
    assert json.loads(described.read_text())["media_type"] == "video/mp4"
    for path in (described, content, folder, content.parent, content.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


async def test_a_second_copy_removes_the_file_of_the_first(store: FileStore, folder: Path):
    await put(store, b"one")
    await put(store, b"two")
    assert len(files(folder)) == 2
    assert await read(store) == b"two"


async def test_when_it_was_written_is_the_bridges_time(store: FileStore, clock: FakeClock):
    await put(store)
    found = await store.find(NAME)
    assert found is not None
    assert found.modified == pytest.approx(clock.time())


@pytest.mark.parametrize("depth", [1, 2])
async def test_a_link_in_the_place_of_a_folder_is_not_followed(
    store: FileStore, folder: Path, tmp_path: Path, depth: int
):
    await put(store)
    taken = Path(*Path(NAME).parts[:depth])
    elsewhere = tmp_path / "elsewhere"
    (folder / taken).rename(elsewhere)
    (folder / taken).symlink_to(elsewhere)
    assert await store.find(NAME) is None
    with pytest.raises(StoreError):
        await put(store)
    assert await store.delete_before(9e9, limit=10) == 0
    assert len(files(elsewhere)) == 2


async def test_a_link_in_the_place_of_a_file_is_not_followed(store: FileStore, folder: Path, tmp_path: Path):
    await put(store, b"7 bytes")
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    described = folder / f"{NAME}.json"
    content = described.with_name(json.loads(described.read_text())["file"])
    content.unlink()
    content.symlink_to(secret)
    assert await store.find(NAME) is None
    content.unlink()
    described.unlink()
    described.symlink_to(secret)
    assert await store.find(NAME) is None
    await put(store, b"again")
    assert await read(store) == b"again"
    assert secret.read_text() == "a secret"


@pytest.mark.parametrize(
    "edited",
    [
        {"file": "../../../secret"},
        {"file": "/etc/passwd"},
        {"file": "1.other"},
        {"size": -1},
        {"size": 8},
        {"size": "many"},
        {"file": None},
    ],
)
async def test_a_description_that_was_edited_is_no_copy(store: FileStore, folder: Path, edited):
    await put(store)
    described = folder / f"{NAME}.json"
    described.write_text(json.dumps(json.loads(described.read_text()) | edited))
    assert await store.find(NAME) is None
    await put(store, b"again")
    assert await read(store) == b"again"


@pytest.mark.parametrize("text", ["", "{", "[]", "x" * 10_000])
async def test_a_description_that_is_none_is_no_copy(store: FileStore, folder: Path, text: str):
    await put(store)
    (folder / f"{NAME}.json").write_text(text)
    assert await store.find(NAME) is None


async def test_a_pipe_in_the_place_of_a_file_keeps_nothing_waiting(store: FileStore, folder: Path):
    await put(store)
    described = folder / f"{NAME}.json"
    described.unlink()
    os.mkfifo(described)
    assert await store.find(NAME) is None


async def test_a_file_that_was_cut_is_no_copy(store: FileStore, folder: Path):
    await put(store)
    described = folder / f"{NAME}.json"
    os.truncate(described.with_name(json.loads(described.read_text())["file"]), 3)
    assert await store.find(NAME) is None


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "the directory of outputs is full"),
        (errno.EDQUOT, "the directory of outputs is full"),
        (errno.EROFS, "the directory of outputs is not writable or not readable for the bridge"),
        (errno.EIO, "the directory of outputs fails: Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
async def test_a_disk_that_refuses_leaves_the_copy_there_was_and_says_why(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, sentence: str
):
    await put(store, b"first")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/a/path/not/to/show")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StoreError) as failed:
            await put(store, b"second")
    assert str(failed.value) == sentence
    assert await read(store) == b"first"
    assert len(files(folder)) == 2


async def test_a_description_that_does_not_fit_leaves_the_copy_there_was(
    store: FileStore, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    await put(store, b"first")
    real = os.write

    def refuse(descriptor: int, data: bytes) -> int:
        if bytes(data).startswith(b"{"):
            raise OSError(errno.ENOSPC, "full")
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(StoreError, match="full"):
            await put(store, b"second")
    assert await read(store) == b"first"
    assert len(files(folder)) == 2


async def test_a_directory_that_may_not_be_written_is_said(store: FileStore, folder: Path, tmp_path: Path):
    with without_privileges():
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        other = FileStore(locked / "outputs", FakeClock())
        # its threads have the rights of this one: they begin in here
        with pytest.raises(StoreError, match="not writable"):
            await other.check()
        await other.close()


async def test_a_directory_that_is_none_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "not" / "there", tmp_path / "file", tmp_path / "file" / "below"):
        store = FileStore(path, FakeClock())
        with pytest.raises(StoreError, match="does not exist, or is none"):
            await store.check()
        await store.close()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from bridge.clock import SystemClock
from bridge.outputs.file_store import FileStore

moment = sys.argv[3]
async def chunks():
    yield bytes(2_000_000)
    if moment == "writing":
        os.kill(os.getpid(), signal.SIGKILL)

if moment == "described":
    FileStore._write_description = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

async def main():
    store = FileStore(Path(sys.argv[1]), SystemClock())
    await store.put(sys.argv[2], chunks(), media_type="video/mp4", max_bytes=1 << 30)

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["writing", "described"])
async def test_what_a_killed_copy_leaves_is_no_copy_and_is_removed(
    store: FileStore, folder: Path, clock: FakeClock, moment: str
):
    command = [sys.executable, "-c", KILLED, str(folder), NAME, moment]
    done = await asyncio.to_thread(subprocess.run, command, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = files(folder)
    assert await store.find(NAME) is None
    written = (folder / left).stat().st_mtime
    clock.skip(written + LEFT_SECONDS - 1 - clock.time())
    assert await store.delete_before(0.0, limit=10) == 0
    assert files(folder) == [left]  # it may still be written
    clock.skip(2)
    assert await store.delete_before(0.0, limit=10) == 0
    assert files(folder) == []
    await put(store)
    assert await read(store) == b"content"


async def test_folders_that_are_empty_are_removed_and_a_copy_makes_them_again(
    store: FileStore, folder: Path, clock: FakeClock
):
    await put(store)
    assert await store.delete_before(clock.time() + 1, limit=10) == 1
    assert folders(folder) == [".parts", "vapi"]  # for an hour: another bridge may be about to use it
    clock.skip(LEFT_SECONDS + 60)
    for _ in range(2):  # removing one has written the one above
        await store.delete_before(0.0, limit=10)
        clock.skip(LEFT_SECONDS + 60)
    assert folders(folder) == [".parts"]
    await put(store)
    assert await read(store) == b"content"


async def test_copies_and_deletions_at_once_do_not_mix(store: FileStore, folder: Path, clock: FakeClock):
    async def delete() -> None:
        for _ in range(30):
            await store.delete_before(clock.time() + 1, limit=1)

    async def copy(n: int) -> None:
        for _ in range(10):
            await put(store, b"%d" % n * 1000)

    await asyncio.gather(delete(), delete(), copy(1), copy(2))
    found = await store.find(NAME)
    if found is not None:
        assert await read(store) in (b"1" * 1000, b"2" * 1000)
    assert [name for name in files(folder) if name.startswith(".parts")] == []


async def test_a_cancelled_copy_closes_its_file_and_leaves_none(store: FileStore, folder: Path):
    before = open_files()
    for rounds in range(12):
        copy = asyncio.create_task(put(store, bytes(3_000_000)))
        for _ in range(rounds):
            await asyncio.sleep(0)
        copy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copy
    assert open_files() == before
    assert [name for name in files(folder) if name.startswith(".parts")] == []
