"""What every store of outputs promises: a directory, a bucket of a real S3 server, the fake of tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.clock import SystemClock
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.outputs.file_store import FileStore
from bridge.outputs.names import check_name, is_object_name, object_name
from bridge.outputs.s3_store import PART_BYTES, S3Store
from bridge.outputs.store import FileTooLarge, NotStored, OutputStore
from tests.fakes.s3_server import BUCKET, KEY, SECRET
from tests.fakes.stores import MemoryStore

pytestmark = pytest.mark.anyio

NAME = object_name(TaskKey("qingbo", "task-wave1775285160b950328499"), 0)
LARGE = PART_BYTES * 2 + 4321  # three parts of a bucket
LIMIT = 1 << 40


class Cut(Exception):
    """What a source raises whose provider breaks off."""


def content(size: int, seed: bytes = b"0123456789abcdef-") -> bytes:
    return (seed * (size // len(seed) + 1))[:size]


async def chunks(data: bytes, *, size: int = 65_536, error: Exception | None = None) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]
    if error is not None:
        raise error


async def hanging(data: bytes, reached: asyncio.Event) -> AsyncIterator[bytes]:
    async for chunk in chunks(data):
        yield chunk
    reached.set()
    await asyncio.Event().wait()


async def put(store: OutputStore, data: bytes, name: str = NAME, media_type: str = "video/mp4") -> None:
    stored = await store.put(name, chunks(data), media_type=media_type, max_bytes=LIMIT)
    assert (stored.size, stored.media_type) == (len(data), media_type)


async def read(store: OutputStore, name: str = NAME, start: int = 0, end: int | None = None) -> bytes:
    async with store.open(name, start=start, end=end) as (_, iterator):
        return b"".join([chunk async for chunk in iterator])


class Stores:
    """Makes stores that keep their copies in one place, as bridges do that are started again."""

    def __init__(self, kind: str, folder: Path, endpoint: str) -> None:
        self._kind = kind
        self._folder = folder
        self._endpoint = endpoint
        self._memory = MemoryStore(SystemClock())
        self._open: list[OutputStore] = []

    def new(self) -> OutputStore:
        store = self._make()
        self._open.append(store)
        return store

    def _make(self) -> OutputStore:
        if self._kind == "memory":
            return self._memory
        if self._kind == "file":
            return FileStore(self._folder / "outputs", SystemClock())
        return S3Store(
            BUCKET, SystemClock(), prefix=self._folder.name, endpoint=self._endpoint, region="us-east-1"
        )

    async def close(self) -> None:
        for store in self._open:
            await store.close()


@pytest.fixture(params=["memory", "file", "s3"])
async def stores(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stores]:
    endpoint = ""
    if request.param == "s3":
        endpoint = request.getfixturevalue("s3_server").endpoint
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    stores = Stores(request.param, tmp_path, endpoint)
    yield stores
    await stores.close()


@pytest.fixture
async def store(stores: Stores) -> OutputStore:
    store = stores.new()
    await store.check()
    return store


@pytest.mark.parametrize("size", [0, 1, 70_000, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, LARGE])
async def test_what_is_put_is_found_and_read_by_every_bridge(stores: Stores, store: OutputStore, size: int):
    data = content(size)
    await put(store, data)
    other = stores.new()
    found = await other.find(NAME)
    assert found is not None
    assert (found.size, found.media_type) == (size, "video/mp4")
    assert found.etag
    assert await read(other) == data
    async with other.open(NAME) as (stored, _):
        assert stored == found


async def test_nothing_is_found_of_what_was_never_put(store: OutputStore):
    assert await store.find(NAME) is None
    with pytest.raises(NotStored):
        await read(store)
    with pytest.raises(NotStored):
        await read(store, start=5, end=9)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, None),
        (0, 1),
        (0, 10),
        (3, 7),
        (9, 10),
        (9, 999),
        (5, None),
        (10, None),
        (10, 12),
        (99, 120),
        (4, 4),
        (5, 3),
    ],
)
async def test_a_range_is_what_a_slice_would_be(store: OutputStore, start: int, end: int | None):
    await put(store, b"0123456789")
    assert await read(store, start=start, end=end) == b"0123456789"[start:end]
    async with store.open(NAME, start=start, end=end) as (stored, _):
        assert stored.size == 10


async def test_a_range_of_a_file_with_several_parts(store: OutputStore):
    data = content(LARGE)
    await put(store, data)
    for start, end in ((PART_BYTES - 10, PART_BYTES + 10), (LARGE - 1, None), (0, PART_BYTES)):
        assert await read(store, start=start, end=end) == data[start:end]


async def test_a_second_copy_by_another_bridge_is_the_same_object(stores: Stores, store: OutputStore):
    await put(store, b"the same")
    first = await store.find(NAME)
    await put(stores.new(), b"the same")
    second = await store.find(NAME)
    assert first is not None
    assert second is not None
    assert first.etag == second.etag
    assert await read(store) == b"the same"


async def test_two_copies_at_once_leave_one_of_them(stores: Stores):
    ones, others = content(LARGE, b"one"), content(LARGE - 7, b"other")
    await stores.new().check()
    await asyncio.gather(*(put(stores.new(), data) for data in (ones, others, ones, others)))
    read_back = await read(stores.new())
    assert read_back in (ones, others)


async def test_a_reader_keeps_the_version_it_began_with(stores: Stores, store: OutputStore):
    old, new = content(3_000_000, b"old"), content(2_000_000, b"new")
    await put(store, old)
    async with store.open(NAME) as (stored, iterator):
        first = await anext(iterator)
        await put(stores.new(), new)
        rest = b"".join([chunk async for chunk in iterator])
    assert stored.size == len(old)
    assert first + rest == old
    assert await read(store) == new


@pytest.mark.parametrize("size", [0, 10, LARGE])
async def test_a_source_that_breaks_off_leaves_nothing(store: OutputStore, size: int):
    with pytest.raises(Cut):
        await store.put(NAME, chunks(content(size), error=Cut()), media_type="video/mp4", max_bytes=LIMIT)
    assert await store.find(NAME) is None


async def test_a_source_that_breaks_off_leaves_the_copy_there_was(store: OutputStore):
    await put(store, b"the first copy")
    with pytest.raises(Cut):
        await store.put(NAME, chunks(content(LARGE), error=Cut()), media_type="video/mp4", max_bytes=LIMIT)
    assert await read(store) == b"the first copy"


@pytest.mark.parametrize("size", [10, LARGE])
async def test_a_cancelled_copy_leaves_nothing(store: OutputStore, size: int):
    reached = asyncio.Event()
    copy = asyncio.create_task(
        store.put(NAME, hanging(content(size), reached), media_type="video/mp4", max_bytes=LIMIT)
    )
    await reached.wait()
    copy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await copy
    assert await store.find(NAME) is None


@pytest.mark.parametrize("size", [1000, LARGE])
async def test_a_file_is_taken_up_to_its_limit_and_not_beyond(store: OutputStore, size: int):
    data = content(size)
    with pytest.raises(FileTooLarge):
        await store.put(NAME, chunks(data), media_type="video/mp4", max_bytes=size - 1)
    assert await store.find(NAME) is None
    stored = await store.put(NAME, chunks(data), media_type="video/mp4", max_bytes=size)
    assert stored.size == size


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/etc/passwd",
        "a//b",
        "../a",
        "a/..",
        "a/./b",
        ".parts/a",
        "a\\b",
        "a\0",
        "a\n",
        "a/b/",
        "ä",
        "x" * 600,
    ],
)
async def test_a_name_that_the_bridge_did_not_make_is_refused(store: OutputStore, name: str):
    with pytest.raises(ValueError, match="not the name"):
        await store.put(name, chunks(b"x"), media_type="video/mp4", max_bytes=LIMIT)
    with pytest.raises(ValueError, match="not the name"):
        await store.find(name)
    with pytest.raises(ValueError, match="not the name"):
        await store.link(name)
    with pytest.raises(ValueError, match="not the name"):
        await read(store, name)


async def test_what_is_old_is_deleted_a_few_at_a_time(store: OutputStore):
    names = [object_name(TaskKey("qingbo", f"task/{task}"), n) for task in range(3) for n in range(2)]
    for name in names:
        await put(store, b"x", name)
    now = SystemClock().time()
    assert await store.delete_before(now - 3600, limit=100) == 0
    assert await store.delete_before(now + 3600, limit=4) == 4
    assert len([name for name in names if await store.find(name)]) == 2
    assert await store.delete_before(now + 3600, limit=4) == 2
    assert [name for name in names if await store.find(name)] == []
    assert await store.delete_before(now + 3600, limit=4) == 0


async def test_a_check_leaves_nothing_to_delete(store: OutputStore):
    await store.check()
    await store.check()
    assert await store.delete_before(SystemClock().time() + 3600, limit=10) == 0


ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=1024)


@given(ids, ids, st.integers(0, 10_000))
def test_every_task_has_names_that_a_store_takes(task_id: str, account: str, n: int):
    name = object_name(TaskKey("a" * 32, task_id, account), n)
    assert check_name(name) == name
    assert is_object_name(name)
    assert len(name) < 140
    assert name == object_name(TaskKey("a" * 32, task_id, account), n)
    assert name.isascii()


@given(st.lists(st.tuples(ids, ids, st.integers(0, 20)), min_size=2, max_size=8, unique=True))
def test_no_two_outputs_have_one_name_also_where_case_is_not_told_apart(outputs: list[tuple[str, str, int]]):
    names = [object_name(TaskKey("vapi", task_id, account), n).lower() for task_id, account, n in outputs]
    assert len(set(names)) == len(names)


def test_account_and_id_do_not_run_together():
    assert object_name(TaskKey("vapi", "b", "a 1"), 0) != object_name(TaskKey("vapi", "1 b", "a"), 0)
    assert object_name(TaskKey("vapi", "b", OWN_ACCOUNT), 0) != object_name(TaskKey("vapi", "b", "c"), 0)
