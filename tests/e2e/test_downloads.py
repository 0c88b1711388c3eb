"""Downloads by the Python clients and the terminal, of files that the provider cuts."""

from __future__ import annotations

import asyncio
import io
import random
import stat
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from bridge.cli.progress import DownloadLine
from bridge.client import (
    Bridge,
    BridgeUnreachable,
    InvalidRequest,
    SyncBridge,
    UnknownOutput,
    UpstreamRefused,
)
from bridge.client.backoff import Timeouts
from tests.commands import run
from tests.e2e.scene import stage
from tests.fakes.origin import MP4, PNG, Head, Origin, head_of, serving_origin
from tests.harness import answer, running_bridge

pytestmark = pytest.mark.anyio

QUICK = Timeouts(first_delay=0.001, min_delay=0.001, max_delay=0.01)
NUMBERS = count(1)
CUT_AT = 100_000


@dataclass
class Files:
    """A bridge before a provider whose files are what a test says."""

    url: str
    origin: Origin

    def task(self, path: str = "/v.mp4") -> str:
        task_id = f"video_{next(NUMBERS)}"
        self.origin.links[task_id] = [self.origin.url(path)]
        self.origin.asked.clear()
        return f"videos/{task_id}"

    @property
    def ranges(self) -> list[str | None]:
        return [head.headers.get("range") for head in self.origin.asked]


@pytest.fixture(scope="module")
async def files(anyio_backend: str) -> AsyncIterator[Files]:
    async with serving_origin() as origin:
        upstream = {"preset": "openai-videos", "base_url": origin.url("/v1"), "api_key": "sk-0123456789"}
        async with running_bridge({"videos": upstream}) as bridge:
            yield Files(bridge.url, origin)


@pytest.fixture
async def client(files: Files) -> AsyncIterator[Bridge]:
    async with Bridge(files.url, timeouts=QUICK, rng=random.Random(1)) as bridge:
        yield bridge


def inside(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def cut(origin: Origin, times: int, *, changes: bool = False, **headers: str) -> None:
    """A file that breaks off `times` times, and honours ranges.

    Args:
        changes: Whether its tag and its content are others after the first time.
    """
    bodies: Iterator[int] = iter(range(1000))

    async def answer(head: Head, writer: asyncio.StreamWriter) -> None:
        number = next(bodies)
        body = MP4 if not (changes and number) else MP4[:-1] + b"!"
        fields = {"content_type": "video/mp4"} | headers
        if changes and "etag" in headers:
            fields["etag"] = f'"{min(number, 1)}"'
        start = 0
        asked = head.headers.get("range")
        same = head.headers.get("if-range") in (fields.get("etag"), fields.get("last_modified"))
        if asked and same:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            fields["content_range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        rest = body[start:]
        status = "206 Part" if asked and same else "200 OK"
        writer.write(head_of(status, content_length=len(rest), **fields))
        writer.write(rest[: CUT_AT if number < times else None])

    origin.answers["/v.mp4"] = answer


async def test_a_file_is_downloaded_to_a_path(files: Files, client: Bridge, tmp_path: Path) -> None:
    files.origin.serve("/v.mp4", MP4)
    told: list[tuple[int, int | None]] = []
    path = await client.download(
        files.task(), to=tmp_path / "cat.mp4", on_progress=lambda *now: told.append(now)
    )
    assert path == tmp_path / "cat.mp4"
    assert path.read_bytes() == MP4
    assert told[-1] == (len(MP4), len(MP4))
    assert inside(tmp_path) == [path]
    reference = tmp_path / "other"
    reference.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(reference.stat().st_mode)


async def test_a_directory_keeps_the_name_of_the_bridge(files: Files, client: Bridge, tmp_path: Path) -> None:
    files.origin.serve("/v.mp4", PNG, "image/png")
    ref = files.task()
    path = await client.download(ref, to=tmp_path)
    assert path == tmp_path / f"{ref.replace('/', '-')}-0.png"
    assert path.read_bytes() == PNG


@pytest.mark.parametrize("validator", [{"etag": '"a"'}, {"last_modified": "Mon, 01 Jan 2024 00:00:00 GMT"}])
async def test_a_cut_file_is_continued_where_it_stopped(
    files: Files, client: Bridge, tmp_path: Path, validator: dict[str, str]
) -> None:
    cut(files.origin, 3, **validator)
    path = await client.download(files.task(), to=tmp_path / "cat.mp4")
    assert path.read_bytes() == MP4
    starts = [int(one[6:-1]) for one in files.ranges if one and one.endswith("-")]
    assert starts == sorted(set(starts))
    assert starts
    cut(files.origin, 3, **validator)
    assert b"".join([part async for part in client.download(files.task())]) == MP4


@pytest.mark.parametrize(("changes", "validator"), [(True, {"etag": '"0"'}), (False, {})])
async def test_a_file_without_a_tag_or_with_another_one_starts_again(
    files: Files, client: Bridge, tmp_path: Path, *, changes: bool, validator: dict[str, str]
) -> None:
    cut(files.origin, 1, changes=changes, **validator)
    path = await client.download(files.task(), to=tmp_path / "cat.mp4")
    assert path.read_bytes() == (MP4[:-1] + b"!" if changes else MP4)
    cut(files.origin, 1, changes=changes, **validator)
    with pytest.raises(BridgeUnreachable, match="start again"):
        _ = [part async for part in client.download(files.task())]


async def test_a_file_that_is_always_cut_leaves_nothing(files: Files, client: Bridge, tmp_path: Path) -> None:
    cut(files.origin, 1000)
    (tmp_path / "cat.mp4").write_bytes(b"the one before")
    with pytest.raises(BridgeUnreachable, match="cut after"):
        await client.download(files.task(), to=tmp_path / "cat.mp4", retries=2)
    assert len(files.origin.asked) == 3
    assert (tmp_path / "cat.mp4").read_bytes() == b"the one before"
    assert len(inside(tmp_path)) == 1


async def test_what_cannot_be_downloaded(files: Files, client: Bridge, tmp_path: Path) -> None:
    ref = files.task("/gone.mp4")
    with pytest.raises(UpstreamRefused):
        await client.download(ref, to=tmp_path / "a")
    with pytest.raises(UnknownOutput) as raised:
        await client.download(ref, 7, to=tmp_path / "a")
    assert raised.value.code == "output_not_found"
    with pytest.raises(InvalidRequest):
        await client.download(ref, -1, to=tmp_path / "a")
    with pytest.raises(OSError, match="No such file"):
        await client.download(ref, to=tmp_path / "nowhere" / "a")
    assert inside(tmp_path) == []


async def test_a_file_inside_the_answer_and_a_copy(tmp_path: Path) -> None:
    body = {"code": 0, "data": {"status": "Success", "binary_data_base64": [b64encode(PNG).decode()]}}
    async with stage(outputs={"store": f"file:{tmp_path / 'copies'}"}) as scene, stage() as without:
        for number, one in enumerate((scene, without)):
            ref = await one.script("vapi", "inline", answer(body | {"message": "success"}))
            async with Bridge(one.bridge.url) as bridge:
                state = await bridge.result(ref)
                assert (state.outputs[0]["stored_url"] is None) == (one is without)
                path = await bridge.download(state, to=tmp_path / f"{number}.png")
            assert path.read_bytes() == PNG


async def test_a_loop_that_is_left_closes_the_connection(files: Files, client: Bridge) -> None:
    files.origin.serve("/v.mp4", MP4 * 20)
    chunks = client.download(files.task())
    first = await anext(chunks)
    assert MP4.startswith(first[: len(MP4)])
    await chunks.aclose()


async def test_the_client_without_async(files: Files, tmp_path: Path) -> None:
    def work() -> None:
        with SyncBridge(files.url, timeouts=QUICK) as bridge:
            told: list[tuple[int, int | None]] = []
            ref = files.task()
            path = bridge.download(ref, to=tmp_path / "a", on_progress=lambda *now: told.append(now))
            assert path.read_bytes() == MP4
            assert told[-1] == (len(MP4), len(MP4))
            assert b"".join(bridge.download(ref)) == MP4
            chunks = bridge.download(ref)
            next(chunks)
            chunks.close()
            with pytest.raises(UnknownOutput):
                bridge.download(ref, 3, to=tmp_path / "b")
            with pytest.raises(UnknownOutput):
                next(bridge.download(ref, 3))

    cut(files.origin, 1, etag='"a"')
    await asyncio.to_thread(work)


async def test_the_command(files: Files, tmp_path: Path) -> None:
    files.origin.serve("/v.mp4", MP4)
    ref, where = files.task(), {"BRIDGE_URL": files.url}
    ended = await run("download", ref, "--output", str(tmp_path / "a"), **where)
    assert (ended.code, ended.out, ended.err) == (0, f"{tmp_path / 'a'}\n", "")
    assert (tmp_path / "a").read_bytes() == MP4
    ended = await run("download", ref, "0", "--output", str(tmp_path), **where)
    assert (ended.code, ended.out) == (0, f"{tmp_path / ref.replace('/', '-')}-0.mp4\n")

    ended = await run("download", ref, "5", "--output", str(tmp_path / "b"), **where)
    assert (ended.code, ended.out) == (2, "")
    assert "taskbridge download: the task is completed and has 1 outputs" in ended.err
    ended = await run("download", ref, "--output", str(tmp_path / "no" / "b"), **where)
    assert (ended.code, ended.out) == (1, "")
    assert "cannot write" in ended.err
    ended = await run("download", files.task("/gone.mp4"), "--output", str(tmp_path / "b"), **where)
    assert (ended.code, ended.out) == (3, "")
    assert not (tmp_path / "b").exists()
    ended = await run("download", ref, "-1", **where)
    assert ended.code == 2


async def test_the_command_writes_to_standard_output(files: Files) -> None:
    text = b"just text, so that it can be compared as a text"
    files.origin.serve("/v.mp4", text)
    ended = await run("download", files.task(), "--output", "-", BRIDGE_URL=files.url)
    assert (ended.code, ended.out) == (0, text.decode())


def test_progress_is_drawn_on_a_terminal_alone() -> None:
    times = iter([0.0, 0.1, 0.5, 0.6])
    terminal, file = io.StringIO(), io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    for out in (terminal, file):
        line = DownloadLine(out, now=lambda: next(times))
        for came, size in ((1.0, 4_000_000), (1.5, 4_000_000), (2.0, None), (4.0, 4_000_000)):
            line.show(int(came * 1e6), size)
        line.close()
    drawn = terminal.getvalue().replace("\x1b[K", "").split("\r")[1:]
    assert drawn == ["1.0 MB of 4.0 MB   25%", "2.0 MB", "4.0 MB of 4.0 MB  100%\n"]
    assert file.getvalue() == ""
