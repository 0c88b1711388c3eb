"""`/v1/webhooks` from outside: what an operator creates, reads, changes, tests and delivers again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.e2e.scene import Reply, Scene, stage, until
from tests.fakes.credentials import TOKEN_SETTINGS, bearer
from tests.harness import qingbo, qingbo_done
from tests.webhooks.receiver import BROKEN, OK, Receiver, Request, receiver

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
ROUTES = (
    ("GET", ""),
    ("POST", ""),
    ("GET", "/{id}"),
    ("PATCH", "/{id}"),
    ("DELETE", "/{id}"),
    ("POST", "/{id}/rotate-secret"),
    ("POST", "/{id}/test"),
    ("GET", "/{id}/deliveries"),
    ("POST", "/{id}/deliveries/x/redeliver"),
)


@pytest.fixture(scope="module")
async def hook(anyio_backend: str) -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


@pytest.fixture(scope="module")
async def scene(anyio_backend: str, hook: Receiver) -> AsyncIterator[Scene]:
    static = {"billing": {"url": f"{hook.url}/static", "secret": SECRET, "tags": ["paid"]}}
    origins = ["*", "https://app.example"]
    async with stage(webhooks=static, private_hosts=["127.0.0.1"], allowed_origins=origins) as made:
        yield made


@pytest.fixture(autouse=True)
def answers(hook: Receiver) -> None:
    hook.answer = lambda _: OK


async def post(scene: Scene, path: str = "", body: Any = None, **more: Any) -> Reply:
    return await scene.call("POST", f"/v1/webhooks{path}", json=body, **more)


async def created(scene: Scene, **fields: Any) -> dict[str, Any]:
    reply = await post(scene, body=fields)
    assert reply.status == 201, reply.body
    return reply.json  # type: ignore[no-any-return]


async def test_a_webhook_is_created_with_its_secret_which_no_other_answer_has(
    scene: Scene, hook: Receiver
) -> None:
    reply = await post(scene, body={"url": f"{hook.url}/a?b=c"})
    assert (reply.status, reply.headers["cache-control"]) == (201, "no-store")
    made = reply.json
    path = f"/v1/webhooks/{made['id']}"
    assert reply.headers["location"] == path
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert made == {
        "id": made["id"],
        "url": f"{hook.url}/a?b=c",
        "events": ["task.final"],
        "upstreams": [],
        "tags": [],
        "enabled": True,
        "disabled_reason": None,
        "disabled_at": None,
        "static": False,
        "created_at": made["created_at"],
        "previous_secret_until": None,
        "kept": "until_final",
        "waiting": 0,
        "oldest_waiting_seconds": None,
        "failing_since": None,
        "last_success_at": None,
        "last_failure_at": None,
    }
    one, everything = await scene.get(path), await scene.get("/v1/webhooks")
    assert one.json == made
    assert made in everything.json["webhooks"]
    assert b"whsec_" not in one.body + everything.body
    assert {one.headers["cache-control"], everything.headers["cache-control"]} == {"no-store"}
    assert (await scene.call("HEAD", path)).status == 200
    hook.secrets[:] = [secret]
    assert (await post(scene, f"/{made['id']}/test")).json["result"] == "delivered"
    assert hook.requests[-1].verified == (secret,)
    assert secret not in "".join(scene.bridge.log)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "`url` must be a string"),
        ({"url": 7}, "`url` must be a string"),
        ({"url": ""}, "begins with https://"),
        ({"url": "ftp://a.example"}, "begins with https://"),
        ({"url": "https://a.example/ b"}, "no spaces"),
        ({"url": "https://user:secret@a.example"}, "user name"),
        ({"url": "http://a.example"}, "must begin with https://"),
        ({"url": "http://127.0.0.2:80/"}, "private address"),
        ({"url": "https://[::1]/"}, "private address"),
        ({"url": "https://localhost/"}, "this machine"),
        ({"url": "https://a.example/" + "x" * 5000}, "characters"),
        ({"url": "https://a.example", "event": []}, "did you mean 'events'"),
        ({"url": "https://a.example", "secret": SECRET}, "no such key: 'secret'"),
        ({"url": "https://a.example", "events": ["task.finl"]}, "did you mean 'task.final'"),
        ({"url": "https://a.example", "events": ["webhook.test"]}, "no such event"),
        ({"url": "https://a.example", "events": "task.final"}, "list of strings"),
        ({"url": "https://a.example", "events": [1]}, "list of strings"),
        ({"url": "https://a.example", "upstreams": ["qingboo"]}, "did you mean 'qingbo'"),
        ({"url": "https://a.example", "tags": [""]}, "empty"),
        ({"url": "https://a.example", "tags": ["x" * 129]}, "longer than 128"),
        ({"url": "https://a.example", "tags": [str(n) for n in range(201)]}, "more than 200"),
        ([], "JSON object"),
        ("x", "JSON object"),
    ],
)
async def test_an_order_that_cannot_be_is_refused_with_the_reason(
    scene: Scene, body: Any, sentence: str
) -> None:
    reply = await post(scene, body=body)
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")
    assert sentence in reply.json["detail"]
    assert "secret@" not in reply.json["detail"]


async def test_bodies_that_are_not_json_or_too_large_are_refused(scene: Scene) -> None:
    for data, status in ((b"\xff", 400), (b"", 400), (b"[" * 5000, 400), (b" " * (1 << 20) + b"{}", 413)):
        assert (await scene.call("POST", "/v1/webhooks", data=BytesIO(data))).status == status


async def test_empty_lists_mean_all_and_repetitions_count_once(scene: Scene, hook: Receiver) -> None:
    made = await created(scene, url=hook.url, events=[], upstreams=["vapi", "vapi"], tags=["a", "b", "a"])
    assert made["events"] == ["task.final", "task.status", "task.state", "task.stored"]
    assert (made["upstreams"], made["tags"]) == (["vapi"], ["a", "b"])
    await scene.call("DELETE", f"/v1/webhooks/{made['id']}")


async def test_it_is_disabled_enabled_and_deleted_and_nothing_else_is_changed(
    scene: Scene, hook: Receiver
) -> None:
    made = await created(scene, url=hook.url)
    path = f"/v1/webhooks/{made['id']}"

    async def patch(body: Any) -> Reply:
        return await scene.call("PATCH", path, json=body)

    off = (await patch({"enabled": False})).json
    assert (off["enabled"], off["disabled_reason"]) == (False, "operator")
    assert off["disabled_at"] is not None
    assert (await patch({"enabled": False})).json == off
    on = (await patch({"enabled": True})).json
    assert (on["enabled"], on["disabled_reason"], on["disabled_at"]) == (True, None, None)
    for body in ({}, {"enabled": 1}, {"enabled": None}, {"enable": True}, {"url": hook.url}, [], "x"):
        assert (await patch(body)).status == 400, body
    gone = await scene.call("DELETE", path)
    assert (gone.status, gone.body) == (204, b"")
    for method, below in ROUTES[2:]:
        again = await scene.call(method, f"/v1/webhooks{below.format(id=made['id'])}", json={"enabled": True})
        if method == "POST":
            again = await scene.call(method, f"/v1/webhooks{below.format(id=made['id'])}")
        assert (again.status, again.json["code"]) == (404, "webhook_not_found"), (method, below)


async def test_a_method_that_a_route_has_not_is_405_with_those_it_has(scene: Scene) -> None:
    for path, allowed in (
        ("", {"GET", "HEAD", "POST"}),
        ("/billing", {"GET", "HEAD", "PATCH", "DELETE"}),
        ("/billing/test", {"POST"}),
        ("/billing/deliveries", {"GET", "HEAD"}),
    ):
        reply = await scene.call("PUT", f"/v1/webhooks{path}")
        assert (reply.status, reply.json["code"]) == (405, "method_not_allowed")
        assert {word.strip() for word in reply.headers["allow"].split(",")} == allowed
    assert (await scene.get("/v1/webhooks/billing/nothing")).status == 404


async def test_one_in_the_configuration_is_listed_and_can_be_disabled_but_not_deleted(scene: Scene) -> None:
    hidden = await created(scene, url="https://a.example/path?token=hidden#hidden")
    status = await scene.get("/status")
    assert b"https://a.example/path" in status.body
    assert b"hidden" not in status.body
    await scene.call("DELETE", f"/v1/webhooks/{hidden['id']}")
    static = (await scene.get("/v1/webhooks/billing")).json
    assert (static["static"], static["tags"], static["created_at"]) == (True, ["paid"], None)
    for method, below in (("DELETE", ""), ("POST", "/rotate-secret")):
        reply = await scene.call(method, f"/v1/webhooks/billing{below}")
        assert (reply.status, reply.json["code"]) == (409, "conflict")
        assert "configuration" in reply.json["detail"]
    off = await scene.call("PATCH", "/v1/webhooks/billing", json={"enabled": False})
    assert off.json["enabled"] is False
    assert (await scene.call("PATCH", "/v1/webhooks/billing", json={"enabled": True})).json["enabled"]


async def test_the_secret_before_signs_beside_the_new_one(scene: Scene, hook: Receiver) -> None:
    made = await created(scene, url=hook.url)
    new = await post(scene, f"/{made['id']}/rotate-secret")
    assert new.status == 200
    assert new.json["secret"] != made["secret"]
    assert new.json["previous_secret_until"] is not None
    hook.secrets[:] = [made["secret"], new.json["secret"]]
    await post(scene, f"/{made['id']}/test", {})
    assert set(hook.requests[-1].verified) == set(hook.secrets)
    assert b"whsec_" not in (await scene.get("/v1/webhooks")).body


async def test_a_test_shows_what_the_receiver_answered(scene: Scene, hook: Receiver) -> None:
    made = await created(scene, url=f"{hook.url}/path?token=hidden")
    hook.answer = lambda _: BROKEN
    reply = await post(scene, f"/{made['id']}/test")
    attempt = reply.json
    assert (reply.status, attempt["type"], attempt["status"], attempt["result"]) == (
        200,
        "webhook.test",
        500,
        "failed",
    )
    assert attempt["error"]
    assert hook.requests[-1].id == attempt["delivery"]
    assert hook.requests[-1].document["type"] == "webhook.test"
    assert (await post(scene, f"/{made['id']}/test", {"a": 1})).status == 400
    assert "hidden" not in "".join(scene.bridge.log)
    await scene.call("DELETE", f"/v1/webhooks/{made['id']}")
    nowhere = await created(scene, url="http://127.0.0.1:9/")
    attempt = (await post(scene, f"/{nowhere['id']}/test")).json
    assert (attempt["status"], attempt["result"]) == (None, "failed")
    assert "127.0.0.1" not in attempt["error"]


async def test_deliveries_are_listed_and_delivered_again_with_the_same_bytes(
    scene: Scene, hook: Receiver
) -> None:
    made = await created(scene, url=f"{hook.url}/log", upstreams=["qingbo"])
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5), qingbo_done(task))
    async with scene.events(ref) as stream:
        await stream.state_with(status="completed")

    def mine() -> list[Request]:
        return [one for one in hook.of(ref) if one.target == "/log"]

    await hook.until(mine)
    (first,) = mine()

    async def states() -> list[str]:
        listed = (await scene.get(f"/v1/webhooks/{made['id']}/deliveries")).json["deliveries"]
        return [one["state"] for one in listed if one["task"] == ref]

    await until(states, ["delivered"])
    (delivery,) = (await scene.get(f"/v1/webhooks/{made['id']}/deliveries")).json["deliveries"]
    assert (delivery["id"], delivery["type"], delivery["next_attempt_at"]) == (first.id, "task.final", None)
    assert [one["status"] for one in delivery["attempts"]] == [204]
    again = await post(scene, f"/{made['id']}/deliveries/{first.id}/redeliver")
    assert (again.status, again.json["delivery"], again.json["result"]) == (200, first.id, "delivered")
    assert [(one.id, one.body) for one in mine()] == [(first.id, first.body)] * 2
    status = (await scene.get("/status")).json["webhooks"]
    (shown,) = [one for one in status["endpoints"] if one["id"] == made["id"]]
    assert shown["last_success_at"] is not None
    assert (shown["enabled"], shown["waiting"], shown["last_failure_at"]) == (True, 0, None)
    unknown = await post(scene, f"/{made['id']}/deliveries/msg_none/redeliver")
    assert (unknown.status, unknown.json["code"]) == (404, "webhook_not_found")
    await scene.call("DELETE", f"/v1/webhooks/{made['id']}")


async def test_without_a_credential_only_the_bridges_own_and_listed_pages_may_use_it(scene: Scene) -> None:
    own = {"Origin": scene.bridge.url}
    for headers, status in (
        ({}, 200),
        (own, 200),
        ({"Origin": "https://app.example"}, 200),
        ({"Origin": "https://any.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://any.example", "Authorization": "Bearer x"}, 403),
    ):
        assert (await scene.call("GET", "/v1/webhooks", headers=headers)).status == status, headers
    simple = {"Origin": "https://any.example", "Content-Type": "text/plain"}
    order = orjson.dumps({"url": "https://any.example"})
    assert (await scene.call("POST", "/v1/webhooks", data=order, headers=simple)).status == 403
    named = {"Host": "rebound.example"}
    assert (await scene.call("GET", "/v1/webhooks", headers=named)).status == 403


@pytest.mark.extended
async def test_with_tokens_only_the_scope_admin_may_on_both_addresses(hook: Receiver) -> None:
    from tests.e2e.test_ops_address import apart

    settings = TOKEN_SETTINGS | {"private_hosts": ["127.0.0.1"], "allowed_origins": ["*"]}
    admin = bearer("*", scope="admin")
    async with apart(**settings) as (scene, operations):
        for base in (scene.bridge.url, operations):

            async def call(method: str, below: str, base: str = base, **more: Any) -> int:
                url = f"{base}/v1/webhooks{below.format(id='x')}"
                async with scene.http.request(method, url, **more) as answer:
                    return answer.status

            for method, below in ROUTES:
                assert await call(method, below) == 401, (base, method, below)
                weak = bearer("*", scope="read submit cancel")
                assert await call(method, below, headers=weak) == 403, (base, method, below)
            order = {"url": hook.url}
            assert await call("POST", "", json=order, headers=admin) == 201
            page = admin | {"Origin": "https://any.example"}
            assert await call("GET", "", headers=page) == 200 if base == scene.bridge.url else 403
        listed = await scene.call("GET", "/v1/webhooks", headers=admin)
        assert len(listed.json["webhooks"]) == 2, "both addresses have the same ones"


@pytest.mark.extended
async def test_with_callers_keys_operators_have_tokens_or_a_loopback_address() -> None:
    from tests.e2e.test_ops_address import apart

    keys: dict[str, Any] = {
        "auth": "upstream-key",
        "account_secret": "what accounts are named with, a secret",
    }
    as_caller = {"Authorization": "Bearer a-key-of-a-caller"}
    async with apart(**keys) as (scene, operations):
        here = await scene.call("GET", "/v1/webhooks", headers=as_caller)
        assert (here.status, here.json["code"]) == (403, "forbidden")
        async with scene.http.post(f"{operations}/v1/webhooks", json={"url": "https://a.example"}) as answer:
            assert answer.status == 201
            assert (await answer.json())["kept"] == "while_key_known"
        named = {"Host": "rebound.example"}
        async with scene.http.get(f"{operations}/v1/webhooks", headers=named) as answer:
            assert answer.status == 403, "a page whose name was rebound to this machine"
        page = {"Origin": "https://any.example"}
        async with scene.http.get(f"{operations}/v1/webhooks", headers=page) as answer:
            assert answer.status == 403
    tokens = {name: value for name, value in TOKEN_SETTINGS.items() if name != "auth"}
    async with apart(**keys, **tokens) as (scene, operations):
        for base in (scene.bridge.url, operations):
            async with scene.http.get(f"{base}/v1/webhooks", headers=as_caller) as answer:
                assert answer.status == 401
            async with scene.http.get(f"{base}/v1/webhooks", headers=bearer("*", scope="admin")) as answer:
                assert answer.status == 200


@pytest.mark.extended
async def test_every_worker_has_what_another_one_changed_a_moment_ago(tmp_path: Path) -> None:
    from tests.e2e.test_workers import workers

    async with workers(tmp_path) as scene:
        for _ in range(5):
            made = await created(scene, url="https://a.example/")
            path = f"/v1/webhooks/{made['id']}"
            for _ in range(6):
                assert (await scene.get(path)).json["enabled"]
            assert (await scene.call("PATCH", path, json={"enabled": False})).status == 200
            for _ in range(6):
                assert not (await scene.get(path)).json["enabled"]
            assert (await scene.call("DELETE", path)).status == 204
            for _ in range(6):
                assert (await scene.get(path)).status == 404
        status = (await scene.get("/status")).json
        assert status["webhooks"]["endpoints"] == []
