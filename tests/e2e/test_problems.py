"""Every refusal is a problem document that says whether trying again can help."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from io import BytesIO
from typing import Any

import pytest

from tests.e2e.scene import Reply, Scene, path_of, stage
from tests.harness import answer, qingbo

pytestmark = pytest.mark.anyio

ALSO: Mapping[str, Mapping[str, Any]] = {
    "closed": {"preset": "qingbo", "base_url": "http://127.0.0.1:9"},
    "slow": {"preset": "qingbo", "timeout_seconds": 0.2},
    "busy": {"preset": "qingbo"},
    "credential": {"preset": "qingbo", "api_key": "bad-key"},
    "odd": {"preset": "qingbo"},
}


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    also = ALSO | {"called": {"preset": "qingbo", "callback_secret": "right-secret"}}
    async with stage(also=also, first_state_timeout_seconds=2.0) as made:
        yield made


def check(reply: Reply, status: int, code: str, *, again: bool) -> None:
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.headers["Cache-Control"] == "no-store"
    told = reply.json
    assert (told["status"], told["code"], told["retriable"]) == (status, code, again)
    assert told["type"] == "about:blank"
    assert told["title"]
    assert told["detail"]
    if again:
        assert int(reply.headers["Retry-After"]) >= 1
        assert "x-should-retry" not in reply.headers
    else:
        assert reply.headers["x-should-retry"] == "false"
        assert "Retry-After" not in reply.headers


BAD_REQUESTS = [
    "/v1/events",
    "/v1/events?task=",
    "/v1/events?task=qingbo",
    "/v1/events?task=Qing_bo/x",
    "/v1/events?task=qingbo/",
    "/v1/tasks/qingbo/x?include=everything",
    "/v1/tasks/qingbo/x/events?include=raw,secrets",
    "/v1/tasks/qingbo/x/events?history=2",
    "/v1/tasks/qingbo/x/events?history=yes",
    "/v1/events?task=qingbo/x&history=-1",
    "/v1/aliases/bytespike/x?include=all",
]


@pytest.mark.parametrize("path", BAD_REQUESTS)
async def test_a_request_that_cannot_be_understood_is_400(scene: Scene, path: str) -> None:
    check(await scene.get(path), 400, "invalid_request", again=False)


async def test_who_names_nothing_is_told_what_can_be_named(scene: Scene) -> None:
    reply = await scene.get("/v1/events")
    assert {"`task`", "`tag`", "`group`"} <= set(reply.json["detail"].replace(",", "").split())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"{}",
        b'{"tasks": "qingbo/x"}',
        b'{"tasks": [1]}',
        b'{"tasks": []}',
        b"\xff\xfe",
        b"[" * 5000,
    ],
)
async def test_a_list_that_is_none_is_400(scene: Scene, body: bytes) -> None:
    check(await scene.call("POST", "/v1/events", data=body), 400, "invalid_request", again=False)


@pytest.mark.parametrize(
    "path",
    ["/v1/tasks/other/x", "/v1/tasks/other/x/events", "/v1/events?task=other/x", "/v1/aliases/other/x"],
)
async def test_an_upstream_nobody_configured_is_404(scene: Scene, path: str) -> None:
    check(await scene.get(path), 404, "upstream_not_found", again=False)


async def test_a_callback_for_an_upstream_nobody_configured_is_404(scene: Scene) -> None:
    check(await scene.call("POST", "/v1/callbacks/other/x", json={}), 404, "upstream_not_found", again=False)


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1/",
        "/v1/tasks/",
        "/v1/tasks/qingbo/",
        "/v1/tasks/qingbo/x/y",
        "//",
        "/v1/tasks/qingbo/x/events/",
        "/../etc/passwd",
    ],
)
async def test_a_path_where_nothing_lives_is_404(scene: Scene, path: str) -> None:
    async with scene.stream(path) as stream:
        reply = Reply(stream.status, {}, await stream.body())
    assert (reply.status, reply.json["code"]) == (404, "route_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/v1/tasks/qingbo/x", {"GET", "HEAD", "PUT", "DELETE"}),
        ("POST", "/v1/tasks/qingbo/x/events", {"GET", "HEAD"}),
        ("PUT", "/v1/events", {"GET", "HEAD", "POST"}),
        ("GET", "/v1/callbacks/qingbo/x", {"POST"}),
        ("POST", "/metrics", {"GET", "HEAD"}),
        ("POST", "/livez", {"GET", "HEAD"}),
        ("TRACE", "/status", {"GET", "HEAD"}),
    ],
)
async def test_a_method_a_path_does_not_take_is_405(
    scene: Scene, method: str, path: str, allowed: set[str]
) -> None:
    reply = await scene.call(method, path)
    check(reply, 405, "method_not_allowed", again=False)
    assert set(reply.headers["Allow"].replace(" ", "").split(",")) == allowed


async def test_a_body_larger_than_a_mebibyte_is_413(scene: Scene) -> None:
    body = BytesIO(b"[" + b" " * 1024 * 1024 + b"]")
    check(await scene.call("POST", "/v1/events", data=body), 413, "too_large", again=False)
    reply = await scene.call("POST", "/v1/callbacks/called/right-secret", data=_unannounced())
    check(reply, 413, "too_large", again=False)


async def _unannounced() -> AsyncIterator[bytes]:
    for _ in range(20):
        yield b" " * 64 * 1024


async def test_a_task_the_provider_does_not_show_is_404(scene: Scene) -> None:
    check(await scene.get(path_of("qingbo/nobody-knows-it")), 404, "task_not_found", again=False)
    check(await scene.get(path_of("qingbo/nobody-knows-it2") + "/events"), 404, "task_not_found", again=False)


async def test_a_provider_that_cannot_be_reached_is_503_to_a_read(scene: Scene) -> None:
    check(await scene.get(path_of("closed/x")), 503, "upstream_unavailable", again=True)


async def test_a_provider_that_does_not_answer_is_504_to_a_read(scene: Scene) -> None:
    task = scene.id()
    await scene.script("qingbo", task, qingbo(task, "queued") | {"delay": 1})
    check(await scene.get(path_of(f"slow/{task}")), 504, "upstream_timeout", again=True)


async def test_a_busy_provider_is_503_with_its_own_wait(scene: Scene) -> None:
    task = scene.id()
    await scene.script("qingbo", task, answer({"error": {"code": "x"}}, status=429, **{"Retry-After": "17"}))
    reply = await scene.get(path_of(f"busy/{task}"))
    check(reply, 503, "upstream_unavailable", again=True)
    assert reply.headers["Retry-After"] == "17"
    assert reply.json["provider"]["status"] == 429


async def test_a_refused_credential_is_502_with_the_providers_code_and_no_key(scene: Scene) -> None:
    reply = await scene.get(path_of("credential/x"))
    check(reply, 502, "upstream_refused", again=False)
    assert reply.json["provider"] == {"status": 401, "code": "invalid_api_key"}
    assert b"bad-key" not in reply.body


async def test_a_refused_request_is_502_with_the_providers_own_sentence(scene: Scene) -> None:
    task = scene.id()
    said = {"error": {"code": "blocked_by_safety", "message": "Blocked by the safety system"}}
    await scene.script("qingbo", task, answer(said, status=451))
    reply = await scene.get(path_of(f"odd/{task}"))
    check(reply, 502, "upstream_refused", again=False)
    assert reply.json["provider"] == {"status": 451, "code": "blocked_by_safety"}
    assert "Blocked by the safety system" in reply.json["detail"]
    check(await scene.get(path_of(f"odd/{task}") + "/events"), 502, "upstream_refused", again=False)


async def test_a_wrong_callback_secret_is_403(scene: Scene) -> None:
    check(await scene.call("POST", "/v1/callbacks/qingbo/guess", json={}), 403, "forbidden", again=False)


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("/v1/tasks/fal/fal-ai/flux/7", "/v1/tasks/fal/fal-ai%2Fflux%2F7"),
        ("/v1/tasks/fal/fal-ai/flux/7/events", "/v1/tasks/fal/fal-ai%2Fflux%2F7/events"),
        ("/v1/tasks/fal/fal-ai/flux/7/outputs/0", "/v1/tasks/fal/fal-ai%2Fflux%2F7/outputs/0"),
        ("/v1/tasks/fal/fal-ai/flux/7/cancel", "/v1/tasks/fal/fal-ai%2Fflux%2F7/cancel"),
        ("/v1/tasks/veo/models%2Fx/operations/y", "/v1/tasks/veo/models%2Fx%2Foperations%2Fy"),
        ("/v1/aliases/kling/videos/mine", "/v1/aliases/kling/videos%2Fmine"),
        ("/v1/tasks/fal/../../x", None),
        ("/v1/tasks/fal/%2e%2e/x/y", None),
        ("/v1/tasks/fal/" + "a/" * 3000 + "b", None),
        ("/v1/tasks/fal/a/b/", None),
        ("/v1/nothing/fal/a/b", None),
    ],
)
async def test_a_task_id_with_slashes_is_answered_with_how_to_write_it(
    scene: Scene, path: str, encoded: str | None
) -> None:
    reply = await scene.get(path)
    check(reply, 404, "route_not_found", again=False)
    assert reply.json["detail"] == (
        f"no such route; the slashes of a task id are percent-encoded: {encoded}"
        if encoded
        else "no such route"
    )


async def test_an_unknown_upstream_is_answered_with_the_closest_one(scene: Scene) -> None:
    close = await scene.get("/v1/tasks/qingo/x")
    check(close, 404, "upstream_not_found", again=False)
    assert close.json["detail"] == "no upstream 'qingo' is configured; did you mean 'qingbo'?"
    far = await scene.get("/v1/tasks/zzzzzz/x")
    assert far.json["detail"].startswith("no upstream 'zzzzzz' is configured; configured: busy, bytespike, ")
