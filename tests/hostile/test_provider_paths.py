"""No value of a caller or a provider leads the operator's key to a path that no template names."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import pytest
from yarl import URL

from bridge.core.task import check_task_id
from bridge.dialects.base import Request
from bridge.dialects.calls import Call
from bridge.dialects.registry import load_preset, load_text, preset_names
from bridge.errors import InvalidRequest
from bridge.sources.credentials import FixedCredential
from bridge.sources.http_client import Session
from tests.e2e import raw
from tests.e2e.bare import Bare, bare_provider
from tests.harness import running_bridge

pytestmark = pytest.mark.anyio

PRESETS = {name: load_preset(name) for name in preset_names()}
# One of every way to write a dot, a slash and a backslash that a server is known to decode.
WIDE_DOT, WIDE_SLASH, WIDE_BACKSLASH = "\uff0e", "\uff0f", "\uff3c"
DOTS = (
    *(
        "..",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "%252e%252E",
        "%c0%ae%c0%ae",
        "%u002e.",
        "..;",
        "..;x=1",
        ".. ",
        "..?q",
        "..#f",
        ".. ;x",
    ),
    *(WIDE_DOT * 2, "\u2025"),
)
SLASHES = ("/", "%2f", "%2F", "%252F", "%c0%af", WIDE_SLASH, "\\", "%5c", "%255C", WIDE_BACKSLASH)
CLIMBING = [
    *("..", ".", "%2e", "%252e", "\\", "a\\b", "%5C", "%255c", "x/..?q", "x/..%23", "x/..%253Fq"),
    *(f"x{slash}{dots}{slash}{dots}{slash}account" for dots in DOTS for slash in SLASHES),
    *(f"{dots}{slash}x" for dots in DOTS for slash in ("/", "%2f")),
]
HARMLESS = [
    *(
        "a/b",
        "a:b",
        "100%",
        "a b",
        "ü/日本",
        "a?b=1&c#d",
        "a#b",
        "a;b",
        "...",
        "a..b",
        "@evil.example",
        "a%2Fb",
    ),
]


JOINED = r"""
base_url = "https://api.example"
[task_id]
pattern = '(?P<a>[^|]+)\|(?P<b>[^|]*)'
[calls.status]
method = "GET"
path = "/v1/{a:path}{b:path}"
[fields]
task_id = ["id"]
[status]
at = ["status"]
"""


def forms() -> list[tuple[str, Call]]:
    """Every call of every preset, with the preset's name."""
    return [
        (name, call)
        for name, dialect in PRESETS.items()
        for call in (*dialect.rules.calls.values(), *(call for _, call in dialect.rules.accepted))
    ]


def made(call: Call, name: str, value: str) -> Request | None:
    """The call with a value in one place, harmless ones in the others; None where it is refused."""
    values = dict.fromkeys(call.names | (call.body.names if call.body else frozenset()), "fine")
    try:
        return call.request({**values, name: value})
    except InvalidRequest:
        return None


def named_by(call: Call) -> re.Pattern[str]:
    """The request targets that a call's template names."""
    pattern = ""
    for literal, place in call.path.parts:
        segment = r"[^/?#\\]+"
        kind = "" if place is None else place.partition(":")[2]
        pattern += re.escape(literal) if place is None else f"{segment}(?:/{segment})*" if kind else segment
    return re.compile(pattern + (r"(?:[?&][^#/\\]*)?" if call.query else ""))


@pytest.mark.parametrize("value", CLIMBING)
def test_no_template_of_any_preset_takes_a_value_that_climbs(value: str) -> None:
    for _, call in forms():
        for name in call.names:
            assert made(call, name, value) is None
    with pytest.raises(InvalidRequest):
        check_task_id(value)


async def test_what_is_sent_is_what_the_template_names() -> None:
    targets: list[tuple[str, Call]] = []
    async with bare_provider() as provider:
        provider.answers = [{}] * 10_000
        session = Session(
            f"{provider.url}/base",
            credential=FixedCredential({"Authorization": "Bearer the-key"}),
            hosts=None,
            timeout_seconds=10,
            connections=1,
        )
        for _, call in forms():
            wanted = named_by(call)
            for name in call.names:
                for value in HARMLESS:
                    request = made(call, name, value)
                    if request is None:
                        continue  # a host, or a header
                    await session.ask(replace(request, method="GET", body=None))
                    target = provider.asked[-1].line.split(" ")[1]
                    assert target.startswith("/base/")
                    assert wanted.fullmatch(target.removeprefix("/base")), (call.path.text, value, target)
                    assert not {".", ".."} & set(unquote(unquote(target)).partition("?")[0].split("/"))
                    targets.append((target, call))
        await session.close()
    assert len(targets) > 500
    assert len(provider.asked) == len(targets)


def test_templates_that_join_values_are_checked_as_a_whole() -> None:
    dialect = load_text(JOINED, "own")
    assert dialect.status_request("x|/y").path == "/v1/x/y"
    for task_id in (".|.", "x/.|./y", "x/|/y", "/|x", "x|/"):
        with pytest.raises(InvalidRequest):
            dialect.status_request(task_id)


@asynccontextmanager
async def asked_through(provider: Bare) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """A bridge in front of such a provider."""
    upstream = {"base_url": provider.url, "api_key": "the-key-of-the-operator", "poll_min_seconds": 30}
    upstreams = dict.fromkeys(("qingbo", "bytespike", "vapi"), upstream | {"poll_max_seconds": 60})
    async with running_bridge(upstreams) as bridge, aiohttp.ClientSession() as http:
        yield bridge.url, http


async def test_every_route_refuses_an_id_that_climbs_and_nothing_is_sent() -> None:
    async with bare_provider() as provider, asked_through(provider) as (url, http):

        async def refused(method: str, path: str, **more: Any) -> None:
            async with http.request(method, URL(url + path, encoded=True), **more) as reply:
                assert reply.status == 400, (path, await reply.text())
                assert "invalid_request" in await reply.text()

        for value in CLIMBING[:8] + CLIMBING[8::23]:
            part = quote(value, safe="")
            ref = quote(f"qingbo/{value}", safe="/")
            await refused("GET", f"/v1/tasks/qingbo/{part}")
            await refused("GET", f"/v1/tasks/qingbo/{part}/events")
            await refused("POST", f"/v1/tasks/qingbo/{part}/cancel")
            await refused("GET", f"/v1/events?task={ref}")
            await refused("POST", "/v1/events", json={"tasks": ["qingbo/fine", f"qingbo/{value}"]})
            await refused("GET", f"/v1/aliases/bytespike/{part}")
            await refused("GET", f"/proxy/qingbo/v1/tasks/{part}")
            await refused("POST", f"/proxy/qingbo/v1/tasks/{part}/cancel")
            await refused("GET", f"/proxy/bytespike/v1/tasks/query?task_id={part}")
            await refused("GET", f"/proxy/bytespike/v1/tasks/query?out_task_id={part}")
            await refused("POST", "/proxy/bytespike/v1/tasks/query", json={"out_task_id": value})
            await refused("GET", f"/proxy/vapi/minimax/v1/files/retrieve?file_id={part}")
            await refused("POST", f"/v1/tasks/vapi?endpoint={part}", json={})
            async with http.ws_connect(f"{url}/v1/ws") as socket:
                await socket.send_json({"type": "subscribe", "id": 1, "tasks": [f"qingbo/{value}"]})
                assert (await socket.receive_json())["code"] == "invalid_request"
        assert provider.asked == []


async def test_an_id_a_provider_answers_with_is_checked_as_one_a_caller_gives() -> None:
    async with bare_provider() as provider, asked_through(provider) as (url, http):
        for task_id in ("x/../../account", "x%2F..%2Faccount", "a\\b", "%252e%252e"):
            provider.answers = [{"task_id": task_id, "status": "pending"}]
            async with http.post(f"{url}/v1/tasks/qingbo", json={}) as reply:
                assert reply.status == 503, await reply.text()
        assert [one.line for one in provider.asked] == ["POST /v1/tasks HTTP/1.1"] * 4


async def test_ids_that_differ_only_in_percent_encoding_are_one_watch() -> None:
    task_id = "models/ü x:1"
    async with bare_provider() as provider, asked_through(provider) as (url, http):
        # As some providers write it: the way it stands in their URLs.
        provider.answers = [{"task_id": quote(task_id, safe=""), "status": "processing"}]
        once, every = quote(task_id, safe=""), "".join(f"%{byte:02x}" for byte in task_id.encode())
        for form in (once, once.lower(), every, quote(once, safe=""), quote(every, safe="")):
            for path in (f"/v1/tasks/qingbo/{form}", f"/proxy/qingbo/v1/tasks/{form}"):
                async with http.get(URL(url + path, encoded=True)) as reply:
                    assert reply.status == 200, await reply.text()
                    assert (await reply.json())["task_id"] in {task_id, once}
            async with raw.request(url, f"/v1/events?task=qingbo/{form}") as stream:
                assert (await stream.state())["task"] == f"qingbo/{task_id}"
        async with http.get(f"{url}/status") as reply:
            assert (await reply.json())["upstreams"]["qingbo"]["watches"] == 1
        assert [one.line for one in provider.asked] == [f"GET /v1/tasks/{once} HTTP/1.1"]
