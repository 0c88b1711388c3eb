"""Tokens that are taken back while they are in use, and files that are no list of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import websockets
from hypothesis import given
from hypothesis import strategies as st

from bridge.config.load import load
from bridge.errors import ConfigError
from bridge.sources.revoked_tokens import MAX_LIST_BYTES, RevokedTokens, UnusableList, read_list
from tests.e2e.scene import Scene, path_of, stage
from tests.fakes.credentials import TOKEN_SETTINGS, bearer
from tests.harness import PATIENCE, qingbo

pytestmark = pytest.mark.anyio


def write(path: Path, content: bytes) -> None:
    """Replace a file whole, as an operator should."""
    part = path.with_name("part")
    part.write_bytes(content)
    part.replace(path)


def take(path: Path) -> bytes:
    """Delete a file; what it held."""
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("revoked") / "revoked.txt"
    write(path, b"# taken back\nold-token\n")
    return path


@pytest.fixture(scope="module")
async def scene(anyio_backend: str, file: Path) -> AsyncIterator[Scene]:
    wishes: dict[str, Any] = TOKEN_SETTINGS | {"revoked_tokens_file": str(file)}
    async with stage(keepalive_seconds=0.2, **wishes) as made:
        yield made


@pytest.fixture
async def ref(scene: Scene) -> str:
    task = scene.id()
    return await scene.script("qingbo", task, qingbo(task, "processing", 1))


async def refused(scene: Scene, ref: str, headers: dict[str, str]) -> None:
    """Wait until a token is not accepted any more."""
    async with asyncio.timeout(PATIENCE):
        while (reply := await scene.call("GET", path_of(ref), headers=headers)).status != 401:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (reply.json["code"], reply.json["detail"]) == ("unauthenticated", "the token was revoked")


async def test_a_token_in_the_list_is_refused_from_the_start(scene: Scene, ref: str) -> None:
    for jti, status in (("old-token", 401), ("other", 200), (None, 200)):
        reply = await scene.call("GET", path_of(ref), headers=bearer(ref, jti=jti))
        assert reply.status == status


async def test_open_streams_of_a_token_taken_back_end_as_if_it_had_expired(
    scene: Scene, ref: str, file: Path
) -> None:
    """Those of its tickets too; those of other tokens go on."""
    mine, other = bearer(ref, jti="mine"), bearer(ref, jti="other")
    reply = await scene.call("POST", "/v1/tickets", json={"tasks": [ref]}, headers=mine)
    ticket = reply.json["ticket"]
    url = f"{scene.bridge.url.replace('http', 'ws')}/v1/ws?task={ref}&ticket={ticket}"
    async with (
        scene.events(ref, headers=mine) as stream,
        scene.events(ref, headers=mine | {"Accept": "application/x-ndjson"}) as lines,
        scene.events(ref, headers=other) as kept,
        websockets.connect(url) as socket,
    ):
        await stream.state()
        await kept.state()
        write(file, b"\xef\xbb\xbf# taken back\r\nold-token\r\n\r\n mine \r\n")
        blocks = await stream.rest()
        last = orjson.loads((await lines.body()).split(b"\n")[-2])
        said = []
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    said.append(orjson.loads(await socket.recv()))
        assert (blocks[-1].event, blocks[-1].data["reason"]) == ("notice", "expired")
        assert (last["code"], last["reason"]) == ("closing", "expired")
        assert (socket.close_code, said[-1]["reason"]) == (4501, "expired")
        await refused(scene, ref, mine)
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(url)
        assert (await scene.call("GET", path_of(ref), headers=other)).status == 200
        await scene.then("qingbo", ref.partition("/")[2], qingbo(ref.partition("/")[2], "processing", 2))
        assert (await kept.state_with(progress=2))["task"] == ref
    assert "mine" not in [word for line in scene.bridge.log for word in line.split('"')]


async def test_a_list_that_disappears_is_kept(scene: Scene, ref: str, file: Path) -> None:
    content = take(file)
    async with asyncio.timeout(PATIENCE):
        while not any("revoked tokens file unusable" in line for line in scene.bridge.log):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert (await scene.call("GET", path_of(ref), headers=bearer(ref, jti="old-token"))).status == 401
    write(file, content + b"late\n")
    await refused(scene, ref, bearer(ref, jti="late"))


def test_an_entry_goes_when_two_readings_do_not_have_it(tmp_path: Path) -> None:
    """A file that is being written is short for a moment."""
    path = tmp_path / "revoked.txt"
    revoked = RevokedTokens(path)
    for content, ids in (
        (b"a\nb\n", {"a", "b"}),
        (b"a\n", {"a", "b"}),
        (b"a\nb\n", {"a", "b"}),
        (b"", {"a", "b"}),
        (b"", set()),
        (b"c\n", {"c"}),
        (b"d\n", {"c", "d"}),
        (b"d\n", {"d"}),
    ):
        path.write_bytes(content)
        revoked.read()
        assert revoked.ids == ids


HOSTILE: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b"\xff\xfe"), "not UTF-8"),
    (lambda path: path.write_bytes(b"a\0b"), "null characters"),
    (lambda path: path.write_bytes(b"x" * (MAX_LIST_BYTES + 1)), "larger than"),
    (Path.mkdir, "not a regular file"),
    (os.mkfifo, "not a regular file"),
    (lambda path: path.symlink_to(path), "symbolic links"),
    (lambda _: None, "No such file"),
]


@pytest.mark.parametrize(("make", "why"), HOSTILE, ids=[why for _, why in HOSTILE])
def test_what_is_no_list_is_a_mistake_at_the_start_and_keeps_the_last_one_later(
    tmp_path: Path, make: Callable[[Path], object], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "revoked.txt"
    path.write_bytes(b"a\n")
    revoked = RevokedTokens(path)
    revoked.read()
    path.unlink()
    make(path)
    wishes: dict[str, Any] = TOKEN_SETTINGS | {"revoked_tokens_file": str(path)}
    with pytest.raises(ConfigError, match=f"revoked_tokens_file.*{why}"):
        load(None, environment={}, upstreams={"qingbo": {"api_key": "x"}}, **wishes)
    caplog.clear()
    for _ in range(3):
        revoked.read()
    assert revoked.ids == {"a"}
    assert [one.msg for one in caplog.records] == ["revoked tokens file unusable"]


def test_a_list_without_tokens_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "revoked.txt").write_bytes(b"")
    (tmp_path / "bridge.toml").write_text(
        'revoked_tokens_file = "revoked.txt"\nupstreams.qingbo.api_key = "x"'
    )
    with pytest.raises(ConfigError, match="revoked_tokens_file: only for use with tokens"):
        load(tmp_path / "bridge.toml", environment={})


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), max_size=8))
def test_every_id_that_fits_a_line_is_found(ids: list[str]) -> None:
    ids = [one for one in ids if one.strip(" \t\r") == one and not one.startswith("#") and "\n" not in one]
    ids = [one for one in ids if "\0" not in one and not one.startswith("\ufeff")]
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_text("\n".join(ids), encoding="utf-8", newline="")
        assert read_list(Path(file.name)) == set(ids)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_unusable(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file, contextlib.suppress(UnusableList):
        Path(file.name).write_bytes(content)
        assert all(read_list(Path(file.name)))
