"""`GET /v1/tasks/{ref}/outputs/{n}`: files through the bridge, from providers that lie about them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.scene import until
from tests.fakes.credentials import TOKEN_SETTINGS, bearer
from tests.fakes.origin import MP4, PNG, Head, Origin, head_of, serving_origin
from tests.harness import PATIENCE, BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio

KEY = "sk-provider-key-0123456789"
NUMBERS = count(1)


@dataclass
class Files:
    """A bridge before a provider (`origin`) and another company's host (`cdn`)."""

    bridge: BridgeProcess
    http: aiohttp.ClientSession
    origin: Origin
    cdn: Origin

    def task(self, *links: str) -> str:
        """A task that is done with these links; without one, its file is behind the provider's own call."""
        task_id = f"video_{next(NUMBERS)}"
        self.origin.links[task_id] = list(links) or None
        return task_id

    def path(self, task_id: str, number: int = 0, query: str = "") -> str:
        return f"{self.bridge.url}/v1/tasks/videos/{task_id}/outputs/{number}{query}"

    def get(self, task_id: str, number: int = 0, query: str = "", **headers: str):
        return self.http.get(self.path(task_id, number, query), headers=named(headers))


def named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture(scope="module")
async def files(anyio_backend: str) -> AsyncIterator[Files]:
    async with serving_origin() as origin, serving_origin() as cdn, aiohttp.ClientSession() as http:
        upstream = {"preset": "openai-videos", "base_url": origin.url("/v1"), "api_key": KEY}
        # The provider's own host is called although it is private; that of the links, because it is listed.
        async with running_bridge({"videos": upstream}, private_hosts=["localhost"]) as bridge:
            yield Files(bridge, http, origin, cdn)


def elsewhere(files: Files, path: str) -> str:
    return files.cdn.url(path, "localhost")


async def test_a_file_comes_whole_with_headers_of_our_own(files: Files) -> None:
    files.cdn.serve("/v.mp4", MP4, etag='"abc"', set_cookie="a=b", server="x")
    async with files.get(files.task(elsewhere(files, "/v.mp4?sig=1"))) as answer:
        assert (answer.status, await answer.read()) == (200, MP4)
    assert answer.headers["Content-Type"] == "video/mp4"
    assert answer.headers["Content-Length"] == str(len(MP4))
    assert answer.headers["ETag"] == '"abc"'
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "private, no-transform"
    assert answer.headers["Content-Disposition"].startswith('inline; filename="videos-video_')
    assert answer.headers["Content-Disposition"].endswith('-0.mp4"')
    assert "Set-Cookie" not in answer.headers
    assert files.cdn.asked[-1].target == "/v.mp4?sig=1"
    assert "authorization" not in files.cdn.asked[-1].headers


@pytest.mark.parametrize(
    ("asked", "status", "part", "content_range"),
    [
        ("bytes=0-", 206, MP4, f"bytes 0-{len(MP4) - 1}/{len(MP4)}"),
        ("bytes=0-1", 206, MP4[:2], f"bytes 0-1/{len(MP4)}"),
        ("bytes=1000-1999", 206, MP4[1000:2000], f"bytes 1000-1999/{len(MP4)}"),
        ("bytes=-5", 206, MP4[-5:], f"bytes {len(MP4) - 5}-{len(MP4) - 1}/{len(MP4)}"),
        ("bytes=99999999-", 416, b"", f"bytes */{len(MP4)}"),
        ("bytes=0-1,5-6", 200, MP4, None),
        ("bytes=9-2", 200, MP4, None),
        ("lines=0-1", 200, MP4, None),
    ],
)
async def test_ranges_are_passed_on(
    files: Files, asked: str, status: int, part: bytes, content_range: str | None
) -> None:
    files.cdn.serve("/v.mp4", MP4, etag='"abc"')
    async with files.get(files.task(elsewhere(files, "/v.mp4")), Range=asked) as answer:
        assert (answer.status, await answer.read()) == (status, part)
    assert answer.headers.get("Content-Range") == content_range
    if status != 416:
        # a part from the middle has the type of the whole
        assert answer.headers["Content-Type"] == "video/mp4"
        assert answer.headers["Content-Length"] == str(len(part))


async def test_if_range_is_for_the_same_file_only(files: Files) -> None:
    files.cdn.serve("/v.mp4", MP4, etag='"abc"')
    task = files.task(elsewhere(files, "/v.mp4"))
    for condition, status in (('"abc"', 206), ('"other"', 200), ('W/"abc"', 200)):
        async with files.get(task, Range="bytes=5-9", If_Range=condition) as answer:
            assert answer.status == status


async def test_head_asks_the_provider_with_get(files: Files) -> None:
    files.cdn.serve("/v.mp4", MP4)  # a signed link is good for one method: it refuses HEAD
    task = files.task(elsewhere(files, "/v.mp4"))
    async with files.http.head(files.path(task), headers={"Range": "bytes=5-9"}) as answer:
        assert (answer.status, await answer.read()) == (200, b"")
        assert answer.headers["Content-Length"] == str(len(MP4))
        assert answer.headers["Content-Type"] == "video/mp4"
    assert files.cdn.asked[-1].method == "GET"


@pytest.mark.parametrize("theirs", ['"abc"', None, "unquoted", '"a"b"'])
async def test_a_known_file_is_304(files: Files, theirs: str | None) -> None:
    files.cdn.serve("/v.mp4", MP4, **({"etag": theirs} if theirs is not None else {}))
    task = files.task(elsewhere(files, "/v.mp4"))
    async with files.get(task) as answer:
        tag = answer.headers["ETag"]
        assert tag == theirs if theirs == '"abc"' else tag.startswith('W/"')
    for known in (tag, f'"other", {tag}'):
        async with files.get(task, If_None_Match=known) as answer:
            assert (answer.status, await answer.read()) == (304, b"")
            assert answer.headers["ETag"] == tag
    async with files.get(task, If_None_Match='"other"') as answer:
        assert answer.status == 200


async def test_a_server_that_knows_no_ranges_sends_all(files: Files) -> None:
    files.cdn.answers["/v.mp4"] = head_of(content_type="video/mp4", content_length=len(MP4)) + MP4
    async with files.get(files.task(elsewhere(files, "/v.mp4")), Range="bytes=5-9") as answer:
        assert (answer.status, await answer.read()) == (200, MP4)
        assert "Accept-Ranges" not in answer.headers


@pytest.mark.parametrize(
    ("declared", "body", "served", "shown"),
    [
        ("image/png", PNG, "image/png", True),
        ("image/jpeg", PNG, "image/png", True),  # within a kind, the bytes name it
        ("binary/octet-stream", PNG, "image/png", True),
        ("", MP4, "video/mp4", True),
        ("text/html", PNG, "application/octet-stream", False),
        ("image/png", b"<html><script>alert(1)</script>" * 9, "application/octet-stream", False),
        ("image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "application/octet-stream", False),
        ("text/html", b"<html>", "application/octet-stream", False),
        ("application/xml", b"<?xml version='1.0'?>", "application/octet-stream", False),
        ("video/mp4", PNG, "application/octet-stream", False),
        ("image/png\x0b; charset=utf-8", PNG, "image/png", True),
    ],
)
async def test_what_is_shown_is_what_its_bytes_are(
    files: Files, declared: str, body: bytes, served: str, shown: bool
) -> None:
    fields = {"content_type": declared} if declared else {}
    files.cdn.answers["/file"] = head_of(content_length=len(body), **fields) + body
    async with files.get(files.task(elsewhere(files, "/file"))) as answer:
        assert (answer.status, await answer.read()) == (200, body)
    assert answer.headers["Content-Type"] == served
    assert answer.headers["Content-Disposition"].startswith("inline" if shown else "attachment")


LYING = {
    "compressed": (
        head_of(content_type="video/mp4", content_encoding="gzip") + gzip.compress(MP4),
        502,
        "upstream_refused",
    ),
    "expired": (head_of("403 Forbidden", content_length=0), 502, "upstream_refused"),
    "gone": (head_of("410 Gone", content_length=0), 502, "upstream_refused"),
    "failing": (head_of("500 No", content_length=0), 503, "upstream_unavailable"),
    "busy": (head_of("429 Slow", retry_after=7, content_length=0), 503, "upstream_unavailable"),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", 502, "upstream_refused"),
    "huge head": (head_of(x="x" * 100_000) + b"", 502, "upstream_refused"),
    "nothing": (b"", 503, "upstream_unavailable"),
    "empty, not announced so": (head_of(content_length=10), 503, "upstream_unavailable"),
    "a part, not asked for": (
        head_of("206 Part", content_range="bytes 0-1/2", content_length=2) + b"ab",
        502,
        "upstream_refused",
    ),
    "not modified, not asked": (head_of("304 Same"), 502, "upstream_refused"),
    "no content": (head_of("204 None"), 502, "upstream_refused"),
    "a redirect to nowhere": (head_of("302 Found", content_length=0), 502, "upstream_refused"),
    "a redirect inside": (
        head_of("302 Found", location="http://127.0.0.1:1/x", content_length=0),
        502,
        "upstream_refused",
    ),
    "a redirect to metadata": (
        head_of("302 Found", location="http://169.254.169.254/latest", content_length=0),
        502,
        "upstream_refused",
    ),
    "a redirect to a file": (
        head_of("302 Found", location="file:///etc/passwd", content_length=0),
        502,
        "upstream_refused",
    ),
    "a circle": (head_of("302 Found", location="/file", content_length=0), 502, "upstream_refused"),
}


@pytest.mark.parametrize("lie", LYING)
async def test_a_failure_before_the_first_byte_is_a_problem(files: Files, lie: str) -> None:
    raw, status, code = LYING[lie]
    files.cdn.answers["/file"] = raw
    async with files.get(files.task(elsewhere(files, "/file?secret=in-the-link"))) as answer:
        document = await answer.json(content_type="application/problem+json")
    assert (answer.status, document["code"]) == (status, code)
    assert "in-the-link" not in str(document)
    assert KEY not in str(document)


@pytest.mark.parametrize(
    ("content_range", "length"),
    [
        ("bytes 0-4/100", 5),
        ("bytes 5-10/100", 6),
        ("bytes 5-9/100", 6),
        ("bytes 5-9/8", 5),
        ("bytes 9-5/100", 5),
        ("5-9/100", 5),
        ("", 5),
    ],
)
async def test_another_part_than_asked_for_is_refused(files: Files, content_range: str, length: int) -> None:
    fields = {"content_range": content_range} if content_range else {}
    files.cdn.answers["/file"] = head_of("206 Part", content_length=length, **fields) + b"x" * length
    async with files.get(files.task(elsewhere(files, "/file")), Range="bytes=5-9") as answer:
        assert answer.status == 502


@pytest.mark.parametrize(
    "head",
    [
        head_of(content_type="video/mp4", content_length=len(MP4)),
        head_of(content_type="video/mp4", transfer_encoding="chunked") + b"ffffff\r\n",
    ],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("http", ["HTTP/1.1", "HTTP/1.0"])
async def test_a_file_that_is_cut_never_ends_cleanly(files: Files, head: bytes, http: str) -> None:
    files.cdn.answers["/v.mp4"] = head + MP4[:200_000]
    task = files.task(elsewhere(files, "/v.mp4"))
    if http == "HTTP/1.1":
        async with files.get(task) as answer:
            assert answer.status == 200
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()
        return
    # HTTP/1.0 has no chunks: the end of the connection is the end of the file, unless it is reset.
    host, port = files.bridge.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /v1/tasks/videos/{task}/outputs/0 HTTP/1.0\r\nhost: {host}\r\n\r\n".encode())
    with pytest.raises(ConnectionResetError):
        await reader.read(-1)
    writer.close()


async def test_a_client_that_has_closed_its_half_gets_no_clean_end_of_a_cut_file(files: Files) -> None:
    files.cdn.answers["/v.mp4"] = head_of(transfer_encoding="chunked") + b"ffffff\r\n" + MP4[:200_000]
    task = files.task(elsewhere(files, "/v.mp4"))
    host, port = files.bridge.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /v1/tasks/videos/{task}/outputs/0 HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    writer.write_eof()
    try:
        got = await reader.read(-1)
    except ConnectionResetError:
        got = b""
    assert not got.endswith(b"0\r\n\r\n")
    writer.close()


async def test_more_than_announced_is_cut_off(files: Files) -> None:
    files.cdn.answers["/v.mp4"] = head_of(content_length=len(PNG)) + PNG + b"HTTP/1.1 200 OK\r\n\r\nevil"
    for _ in range(2):
        async with files.get(files.task(elsewhere(files, "/v.mp4"))) as answer:
            assert (answer.status, await answer.read()) == (200, PNG)


@pytest.mark.parametrize("encoding", ["identity", "aws-chunked"])
async def test_an_encoding_that_changes_nothing_is_none(files: Files, encoding: str) -> None:
    files.cdn.serve("/v.mp4", MP4, content_encoding=encoding)
    async with files.get(files.task(elsewhere(files, "/v.mp4"))) as answer:
        assert (answer.status, await answer.read()) == (200, MP4)
        assert "Content-Encoding" not in answer.headers


async def test_interim_responses_are_none(files: Files) -> None:
    files.cdn.answers["/v.mp4"] = head_of("103 Early Hints") * 3 + head_of(content_length=len(PNG)) + PNG
    async with files.get(files.task(elsewhere(files, "/v.mp4"))) as answer:
        assert (answer.status, await answer.read()) == (200, PNG)


async def test_a_file_behind_the_providers_own_call_gets_the_key(files: Files) -> None:
    task = files.task()
    files.origin.serve(f"/v1/videos/{task}/content", MP4)
    async with files.get(task, Range="bytes=5-9") as answer:
        assert (answer.status, await answer.read()) == (206, MP4[5:10])
    assert files.origin.asked[-1].headers["authorization"] == f"Bearer {KEY}"


async def test_the_key_is_left_behind_at_a_redirect_to_elsewhere(files: Files) -> None:
    task = files.task()
    files.origin.redirect(f"/v1/videos/{task}/content", files.origin.url("/moved"))
    files.origin.redirect("/moved", elsewhere(files, "/v.mp4"))
    files.cdn.redirect("/v.mp4", elsewhere(files, "/w.mp4"))
    files.cdn.serve("/w.mp4", MP4)
    async with files.get(task) as answer:
        assert (answer.status, await answer.read()) == (200, MP4)
    assert [head.headers.get("authorization") for head in files.origin.asked[-2:]] == [f"Bearer {KEY}"] * 2
    assert [head.headers.get("authorization") for head in files.cdn.asked[-2:]] == [None, None]


async def test_no_way_back_to_the_providers_private_host_from_elsewhere(files: Files) -> None:
    files.cdn.redirect("/v.mp4", files.origin.url("/v1/videos/someone-elses"))
    before = len(files.origin.asked)
    async with files.get(files.task(elsewhere(files, "/v.mp4"))) as answer:
        assert answer.status == 502
    assert len(files.origin.asked) == before


async def test_a_link_at_the_provider_gets_the_key_where_it_is_the_providers_file_call(files: Files) -> None:
    """A link in a prompt must not read the account with the operator's key."""
    task = f"video_{next(NUMBERS)}"
    own, other = f"/v1/videos/{task}/content", "/v1/account/keys"
    files.origin.links[task] = [files.origin.url(own), files.origin.url(other)]
    for path in (own, other):
        files.origin.serve(path, MP4)
    for number, key in ((0, f"Bearer {KEY}"), (1, None)):
        async with files.get(task, number) as answer:
            assert (answer.status, await answer.read()) == (200, MP4)
        assert files.origin.asked[-1].headers.get("authorization") == key


async def test_a_link_with_the_key_in_it_works_and_is_never_shown(files: Files) -> None:
    task = f"video_{next(NUMBERS)}"
    files.origin.links[task] = [files.origin.url(f"/v1/videos/{task}/content?key={KEY}&alt=media")]
    files.origin.serve(f"/v1/videos/{task}/content", MP4)
    async with files.http.get(f"{files.bridge.url}/v1/tasks/videos/{task}?include=raw") as answer:
        text = await answer.text()
    assert KEY not in text
    assert "key=***" in text
    async with files.get(task) as answer:
        assert (answer.status, await answer.read()) == (200, MP4)
    assert files.origin.asked[-1].target == f"/v1/videos/{task}/content?alt=media"
    assert files.origin.asked[-1].headers["authorization"] == f"Bearer {KEY}"


async def test_what_is_not_there_is_a_404_and_what_is_not_ready_a_409(files: Files) -> None:
    task = files.task(elsewhere(files, "/v.mp4"))
    for number in ("1", "-1", "x", "00", "99999999999"):
        async with files.http.get(f"{files.bridge.url}/v1/tasks/videos/{task}/outputs/{number}") as answer:
            assert (answer.status, (await answer.json(content_type=None))["code"]) == (
                404,
                "output_not_found",
            )
    async with files.get("video_unknown") as answer:
        assert answer.status in (404, 409)


async def test_a_client_of_the_provider_downloads_through_the_proxy(files: Files) -> None:
    task = files.task()
    files.origin.serve(f"/v1/videos/{task}/content", MP4)
    url = f"{files.bridge.url}/proxy/videos/v1/videos/{task}/content"
    async with files.http.get(url, headers={"Range": "bytes=5-9"}) as answer:
        assert (answer.status, await answer.read()) == (206, MP4[5:10])
        assert answer.headers["Content-Security-Policy"] == "sandbox"
    async with files.http.get(url, params={"variant": "thumbnail"}) as answer:
        assert answer.status == 200
    assert files.origin.asked[-1].target == f"/v1/videos/{task}/content?variant=thumbnail"
    async with files.http.get(url, params={"variant": "../../x"}) as answer:
        assert answer.status == 400
    files.origin.answers[f"/v1/videos/{task}/content"] = head_of("404 No", content_length=0)
    async with files.http.get(url) as answer:
        assert (answer.status, "error" in await answer.json()) == (404, True)


async def test_a_reader_that_stops_stops_the_provider(files: Files) -> None:
    sent = 0

    async def counted(head: Head, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(head_of(content_type="video/mp4", content_length=10**12) + MP4[:64])
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    files.cdn.answers["/v.mp4"] = counted
    files.cdn.gone.clear()
    async with files.get(files.task(elsewhere(files, "/v.mp4"))) as answer:
        assert answer.status == 200
        before = -1
        while sent != before:  # until everything on the way is full
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 40_000_000
        answer.close()
    await asyncio.wait_for(files.cdn.gone.wait(), 10)  # and once it has left, the provider's is closed


async def test_who_may_read_the_state_may_read_the_file_and_nobody_else() -> None:
    async with serving_origin() as origin, aiohttp.ClientSession() as http:
        upstream = {"preset": "openai-videos", "base_url": origin.url("/v1"), "api_key": KEY}
        for task in ("mine", "other"):
            origin.links[task] = None
            origin.serve(f"/v1/videos/{task}/content", PNG, "image/png")
        async with running_bridge({"videos": upstream}, **TOKEN_SETTINGS) as bridge:
            path = f"{bridge.url}/v1/tasks/videos/mine/outputs/0"
            reader = bearer("videos/mine")
            for headers, status in (
                (reader, 200),
                ({}, 401),
                (bearer("videos/other"), 403),
                (bearer("videos/mine", scope="submit"), 403),
            ):
                async with http.get(path, headers=headers) as answer:
                    assert answer.status == status
                proxied = f"{bridge.url}/proxy/videos/v1/videos/mine/content"
                async with http.get(proxied, headers=headers) as answer:
                    assert answer.status == status
            async with http.post(
                f"{bridge.url}/v1/tickets", json={"tasks": ["videos/mine"]}, headers=reader
            ) as answer:
                ticket = (await answer.json())["ticket"]
            # what `<img src>` sends
            async with http.get(path, params={"ticket": ticket}) as answer:
                assert (answer.status, await answer.read()) == (200, PNG)
                assert answer.headers["Referrer-Policy"] == "no-referrer"
            async with http.get(path.replace("mine", "other"), params={"ticket": ticket}) as answer:
                assert answer.status == 403
            assert ticket not in "".join(bridge.log)


async def test_a_callers_own_key_fetches_the_callers_own_file() -> None:
    async with serving_origin() as origin, aiohttp.ClientSession() as http:
        upstream = {"preset": "openai-videos", "base_url": origin.url("/v1")}
        origin.links["video_1"] = None
        origin.serve("/v1/videos/video_1/content", PNG, "image/png")
        settings = {
            "auth": "upstream-key",
            "account_secret": "what accounts are named with, a secret",
            "ticket_secret": "what tickets are signed with, a secret",
        }
        async with running_bridge({"videos": upstream}, **settings) as bridge:
            path = f"{bridge.url}/v1/tasks/videos/video_1/outputs/0"
            mine = {"Authorization": "Bearer sk-the-callers-own-key-1"}
            async with http.get(path, headers=mine) as answer:
                assert (answer.status, await answer.read()) == (200, PNG)
            assert origin.asked[-1].headers["authorization"] == mine["Authorization"]
            async with http.post(
                f"{bridge.url}/v1/tickets", json={"tasks": ["videos/video_1"]}, headers=mine
            ) as answer:
                ticket = (await answer.json())["ticket"]
            async with http.get(path, params={"ticket": ticket}) as answer:
                assert answer.status == 200
            assert origin.asked[-1].headers["authorization"] == mine["Authorization"]
            async with http.get(path) as answer:
                assert answer.status == 401


async def test_files_in_flight_are_bounded_and_counted() -> None:
    async with serving_origin() as origin, aiohttp.ClientSession() as http:
        upstream = {"preset": "openai-videos", "base_url": origin.url("/v1"), "api_key": KEY}
        origin.links["video_1"] = None

        async def held(head: Head, writer: asyncio.StreamWriter) -> None:
            writer.write(head_of(content_length=10**9) + MP4)
            while not breaks.is_set():
                # A client that has closed both halves is noticed by what is sent to it.
                writer.write(b"x")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(breaks.wait(), 0.05)

        breaks = asyncio.Event()
        origin.answers["/v1/videos/video_1/content"] = held
        async with running_bridge({"videos": upstream}, max_files_in_flight=2) as bridge:
            path = f"{bridge.url}/v1/tasks/videos/video_1/outputs/0"
            first, second = await http.get(path), await http.get(path)
            assert (first.status, second.status) == (200, 200)
            async with http.get(path) as third:
                assert (third.status, (await third.json(content_type=None))["code"]) == (
                    429,
                    "too_many_requests",
                )
                assert int(third.headers["Retry-After"]) >= 1
            assert (await figures(http, bridge))["bridge_files_in_flight"] == 2
            first.close()
            await reaches(http, bridge, "bridge_files_in_flight", 1)
            breaks.set()  # the provider breaks off
            with pytest.raises(aiohttp.ClientPayloadError):
                await second.read()
            await reaches(http, bridge, "bridge_files_in_flight", 0)
            counted = await figures(http, bridge)
            name = 'bridge_files_total{result="%s",upstream="videos"}'
            assert (counted[name % "left"], counted[name % "cut"], counted[name % "sent"]) == (1, 1, 0)

            async def is_logged() -> bool:  # a thread writes it
                return any('"event": "file cut"' in line for line in bridge.log)

            await until(is_logged, value=True)
            assert not any('"level": "error"' in line for line in bridge.log)


async def endless(head: Head, writer: asyncio.StreamWriter) -> None:
    writer.write(head_of(content_type="video/mp4", content_length=10**12) + MP4[:64])
    while True:
        writer.write(bytes(65536))
        await writer.drain()


async def test_a_reader_that_does_not_read_is_disconnected() -> None:
    async with serving_origin() as origin, aiohttp.ClientSession() as http:
        upstream = {"preset": "openai-videos", "base_url": origin.url("/v1"), "api_key": KEY}
        origin.links["video_1"] = None
        origin.answers["/v1/videos/video_1/content"] = endless
        async with running_bridge({"videos": upstream}, write_timeout_seconds=1) as bridge:
            stopped = await http.get(f"{bridge.url}/v1/tasks/videos/video_1/outputs/0")
            await reaches(http, bridge, "bridge_files_in_flight", 0)
            with pytest.raises(aiohttp.ClientPayloadError):
                await stopped.read()


@pytest.mark.extended
async def test_a_drain_breaks_a_file_off_and_never_ends_it_cleanly() -> None:
    async with serving_origin() as origin, aiohttp.ClientSession() as http:
        upstream = {"preset": "openai-videos", "base_url": origin.url("/v1"), "api_key": KEY}
        origin.links["video_1"] = None
        origin.answers["/v1/videos/video_1/content"] = endless
        async with running_bridge({"videos": upstream}, drain_seconds=1) as bridge:
            held = await http.get(f"{bridge.url}/v1/tasks/videos/video_1/outputs/0")
            assert held.status == 200
            assert await bridge.stop() == 0
            with pytest.raises(aiohttp.ClientPayloadError):
                await held.read()
            assert not any('"level": "error"' in line for line in bridge.log)


async def figures(http: aiohttp.ClientSession, bridge: BridgeProcess) -> dict[str, float]:
    """Every sample of `/metrics`, its labels in alphabetical order."""
    async with http.get(f"{bridge.url}/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    samples: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
        samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


async def reaches(http: aiohttp.ClientSession, bridge: BridgeProcess, name: str, value: float) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await figures(http, bridge))[name] != value:
            pass  # each look is a request
