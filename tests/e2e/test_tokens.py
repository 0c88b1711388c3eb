"""`auth = "token"` from outside: every route asks, and what a credential does not allow does not happen."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import websockets
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import get_default_algorithms
from websockets.typing import Origin

from tests.e2e.scene import Reply, Scene, path_of, stage
from tests.e2e.test_commands import run, started
from tests.fakes.credentials import ISSUER, OTHER_SECRET, SECRET, TOKEN_SETTINGS, bearer, token
from tests.harness import PATIENCE, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

PAGE = "https://app.example"
SUBMIT = {"model": "wan2.7", "prompt": "x"}
STRANGE = bearer("*", secret="x" * 32)["Authorization"]


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    wishes = TOKEN_SETTINGS | {"token_secrets": [SECRET, OTHER_SECRET]}
    async with stage(
        allowed_origins=[PAGE], log_level="debug", first_state_timeout_seconds=0.4, **wishes
    ) as made:
        yield made


@pytest.fixture(scope="module")
async def operations(scene: Scene) -> str:
    """Where the operators' routes are."""
    stdout = scene.bridge.process.stdout
    assert stdout is not None
    async with asyncio.timeout(PATIENCE):
        line = (await stdout.readline()).decode()
    found = re.search(r"http://\S+", line)
    assert found, line
    return found[0]


@pytest.fixture
async def ref(scene: Scene) -> str:
    task = scene.id()
    return await scene.script("qingbo", task, qingbo(task, "processing", 1))


async def asked(scene: Scene, path: str, method: str = "GET", **options: Any) -> Reply:
    return await scene.call(method, path, **options)


ROUTES = [
    ("GET", "/v1/tasks/qingbo/a"),
    ("HEAD", "/v1/tasks/qingbo/a"),
    ("GET", "/v1/tasks/nowhere/a"),
    ("GET", "/v1/tasks/qingbo/a/events"),
    ("HEAD", "/v1/tasks/qingbo/a/events"),
    ("POST", "/v1/tasks/qingbo"),
    ("POST", "/v1/tasks/qingbo/a/cancel"),
    ("GET", "/v1/events?task=qingbo/a"),
    ("POST", "/v1/events"),
    ("GET", "/v1/aliases/bytespike/a"),
    ("POST", "/v1/tickets"),
    ("GET", "/proxy/qingbo/v1/tasks/a"),
    ("POST", "/proxy/qingbo/v1/tasks"),
    ("GET", "/proxy/nowhere/v1"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "refused", [None, bearer("*", secret="x" * 32)["Authorization"]], ids=["none", "wrong"]
)
async def test_every_route_requires_a_credential(
    scene: Scene, method: str, path: str, refused: str | None
) -> None:
    headers = {"Origin": PAGE} | ({} if refused is None else {"Authorization": refused})
    reply = await asked(scene, path, method, headers=headers)
    assert reply.status == 401
    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert reply.headers["Access-Control-Allow-Origin"] == PAGE, "or the page cannot read why"
    if method != "HEAD":
        code = reply.json["error"]["code"] if path.startswith("/proxy") else reply.json["code"]
        assert code == "unauthenticated"
        assert (refused or "Bearer none sent").split()[-1].encode() not in reply.body


async def test_probes_ask_nobody_and_callbacks_have_their_own_secret(scene: Scene) -> None:
    assert (await asked(scene, "/livez")).status == 200
    assert (await asked(scene, "/readyz")).status == 200
    forged = await asked(scene, "/v1/callbacks/qingbo/guess", "POST", json={})
    assert (forged.status, forged.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize("path", ["/status", "/metrics"])
async def test_operators_need_the_scope_admin(scene: Scene, operations: str, path: str) -> None:
    async def status(headers: dict[str, str]) -> int:
        async with scene.http.get(operations + path, headers=headers) as reply:
            return reply.status

    assert await status({}) == 401
    assert await status(bearer("*", scope="read submit cancel")) == 403
    assert await status(bearer(scope="admin")) == 200
    assert (await asked(scene, path, headers=bearer("*", scope="read"))).status in {403, 404}


async def test_a_token_reads_its_own_tasks_and_no_others(scene: Scene, ref: str) -> None:
    mine, strange = bearer(ref), bearer("qingbo/another", "vapi/*")
    path = path_of(ref)
    assert (await asked(scene, path, headers=mine)).json["progress"] == 1
    assert (await asked(scene, f"{path}/events", "HEAD", headers=mine)).status == 200
    async with scene.events(ref, headers=mine) as stream:
        assert (await stream.state())["task"] == ref
    for method, where in (("GET", path), ("GET", f"{path}/events"), ("HEAD", f"{path}/events")):
        reply = await asked(scene, where, method, headers=strange)
        assert reply.status == 403
    assert (await asked(scene, path, headers=bearer(ref, scope="submit"))).json["code"] == "forbidden"


async def test_one_strange_task_forbids_the_whole_stream(scene: Scene, ref: str) -> None:
    query = f"?task={ref}&task=qingbo/strange"
    assert (await asked(scene, f"/v1/events{query}", headers=bearer(ref))).status == 403
    body = {"tasks": [ref, "qingbo/strange"]}
    assert (await asked(scene, "/v1/events", "POST", json=body, headers=bearer(ref))).status == 403
    assert scene.ledger.of("qingbo", "strange") == 0, "nothing was asked of the provider"
    async with scene.stream(f"/v1/events?task={ref}", headers=bearer(ref)) as stream:
        assert (await stream.state())["task"] == ref


async def test_submitting_needs_the_scope_and_all_of_the_upstream(scene: Scene) -> None:
    for path in ("/v1/tasks/qingbo", "/proxy/qingbo/v1/tasks"):
        for credential in (
            bearer("qingbo/*"),
            bearer("vapi/*", "qingbo/a", scope="submit"),
            bearer(scope="submit"),
        ):
            assert (await asked(scene, path, "POST", json=SUBMIT, headers=credential)).status == 403
        for tasks in ("qingbo/*", "*"):
            reply = await asked(scene, path, "POST", json=SUBMIT, headers=bearer(tasks, scope="submit"))
            assert reply.status in {200, 201}, reply.body


async def test_cancelling_needs_the_scope_and_the_task(scene: Scene) -> None:
    task = await scene.submit("qingbo", "/v1/tasks", SUBMIT, queue_seconds=1000, run_seconds=1000)
    path = f"{path_of(f'qingbo/{task}')}/cancel"
    for credential in (bearer("*", scope="read submit"), bearer("qingbo/b", scope="cancel")):
        assert (await asked(scene, path, "POST", headers=credential)).status == 403
    reply = await asked(scene, path, "POST", headers=bearer(f"qingbo/{task}", scope="cancel"))
    assert (reply.status, reply.json["status"]) == (200, "cancelled")


async def test_an_alias_is_found_for_who_may_read_its_task(scene: Scene) -> None:
    body = {"model": "sora-2", "params": {"prompt": "x"}, "out_task_id": "order-1"}
    task = await scene.submit("bytespike", "/v1/tasks/submit", body, queue_seconds=1000, run_seconds=1000)
    path = "/v1/aliases/bytespike/order-1"
    assert (await asked(scene, path, headers=bearer(f"bytespike/{task}"))).json["task_id"] == task
    assert (await asked(scene, path, headers=bearer("bytespike/other"))).status == 403
    assert (await asked(scene, path, headers=bearer("qingbo/*"))).status == 403
    unknown = await asked(scene, "/v1/aliases/bytespike/nobody", headers=bearer("bytespike/other"))
    assert unknown.status == 403, "whether there is such an alias is not theirs to know"


async def test_the_proxy_asks_by_call(scene: Scene, ref: str) -> None:
    path = f"/proxy/qingbo/v1/tasks/{ref.partition('/')[2]}"
    assert (await asked(scene, path, headers=bearer(ref))).json["status"] == "processing"
    for credential in (bearer("qingbo/b"), bearer(ref, scope="submit")):
        reply = await asked(scene, path, headers=credential)
        assert (reply.status, reply.json["error"]["code"]) == (403, "forbidden")


async def test_a_preflight_needs_no_credential_and_strange_pages_are_not_named(
    scene: Scene, ref: str
) -> None:
    wanted = {
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization,last-event-id",
    }
    reply = await asked(scene, path_of(ref), "OPTIONS", headers={"Origin": PAGE} | wanted)
    assert reply.status == 200
    assert reply.headers["Access-Control-Allow-Origin"] == PAGE
    allowed = {name.strip().lower() for name in reply.headers["Access-Control-Allow-Headers"].split(",")}
    assert allowed >= {
        "authorization",
        "last-event-id",
        "cache-control",
        "content-type",
        "prefer",
        "if-none-match",
    }
    for headers in ({}, wanted):
        strange = await asked(
            scene, path_of(ref), "OPTIONS", headers={"Origin": "https://evil.example"} | headers
        )
        assert "Access-Control-Allow-Origin" not in strange.headers
    read = await asked(scene, path_of(ref), headers={"Origin": "https://evil.example"} | bearer(ref))
    assert "Access-Control-Allow-Origin" not in read.headers


async def test_a_cookie_is_a_credential_but_not_for_a_strangers_page(scene: Scene, ref: str) -> None:
    cookie = {"Cookie": f"bridge_token={token('*', scope='read submit cancel')}"}
    assert (await asked(scene, path_of(ref), headers=cookie)).status == 200
    changing = [
        ("/v1/tasks/qingbo", SUBMIT),
        (f"{path_of(ref)}/cancel", {}),
        ("/v1/tickets", {"tasks": [ref]}),
        ("/proxy/qingbo/v1/tasks", SUBMIT),
    ]
    for path, body in changing:
        for where in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {}):
            assert (await asked(scene, path, "POST", json=body, headers=cookie | where)).status == 403
    own = cookie | {"Sec-Fetch-Site": "same-origin"}
    assert (await asked(scene, "/v1/tickets", "POST", json={"tasks": [ref]}, headers=own)).status == 201
    listed = cookie | {"Origin": PAGE}
    assert (await asked(scene, "/v1/tasks/qingbo", "POST", json=SUBMIT, headers=listed)).status == 201


def address(scene: Scene, query: str = "") -> str:
    return f"{scene.bridge.url.replace('http', 'ws')}/v1/ws{query}"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({}, 401),
        ({"additional_headers": {"Authorization": "Bearer nonsense"}}, 401),
        ({"additional_headers": bearer("qingbo/b")}, 403),
        ({"additional_headers": {"Cookie": f"bridge_token={token('*')}"}}, 403),
        (
            {
                "additional_headers": {"Cookie": f"bridge_token={token('*')}"},
                "origin": Origin("https://evil.example"),
            },
            403,
        ),
        ({"additional_headers": bearer("*"), "origin": Origin("https://evil.example")}, 403),
    ],
)
async def test_a_websocket_is_refused_before_it_opens(
    scene: Scene, options: dict[str, Any], status: int
) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with websockets.connect(address(scene, "?task=qingbo/a"), **options):
            pass
    assert caught.value.response.status_code == status


async def test_a_cursor_beside_a_refused_task_is_not_that_of_the_other(scene: Scene, ref: str) -> None:
    task = scene.id()
    other = await scene.script("qingbo", task, qingbo_done(task))
    for one in (ref, other):  # the second has the newer cursor
        newer = (await asked(scene, path_of(one), headers=bearer(one))).json["cursor"]
    async with (
        asyncio.timeout(PATIENCE),
        websockets.connect(address(scene), additional_headers=bearer(ref)) as socket,
    ):
        subscribe = {"type": "subscribe", "id": 1, "tasks": [ref, "qingbo/strange"], "after": newer}
        await socket.send(orjson.dumps(subscribe).decode())
        heard = [orjson.loads(await socket.recv()) for _ in range(3)]
        assert [one["type"] for one in heard] == ["error", "subscribed", "state"]


async def test_each_subscribe_is_authorised_and_the_connection_stays(scene: Scene, ref: str) -> None:
    options: dict[str, Any] = {
        "additional_headers": {"Cookie": f"bridge_token={token(ref)}"},
        "origin": Origin(PAGE),
    }
    async with asyncio.timeout(PATIENCE), websockets.connect(address(scene), **options) as socket:

        async def say(**fields: Any) -> None:
            await socket.send(orjson.dumps(fields).decode())

        async def hear() -> Any:
            return orjson.loads(await socket.recv())

        await say(type="subscribe", id=1, tasks=["qingbo/strange", ref])
        said = await hear()
        assert (said["type"], said["id"], said["code"], said["task"]) == (
            "error",
            1,
            "forbidden",
            "qingbo/strange",
        )
        assert await hear() == {"type": "subscribed", "id": 1, "tasks": [ref]}
        assert (await hear())["state"]["task"] == ref
        await say(type="subscribe", id=2, tasks=["qingbo/strange"])
        assert (await hear())["code"] == "forbidden"
        await say(type="ping", id=3)
        assert await hear() == {"type": "pong", "id": 3}
    assert scene.ledger.of("qingbo", "strange") == 0


async def test_nothing_secret_comes_into_the_log_at_debug_level(scene: Scene, ref: str) -> None:
    mine, wrong = token(ref, jti="marker"), token("*", secret="y" * 40)
    shown = (await asked(scene, "/v1/tickets", "POST", json={"tasks": [ref]}, headers=bearer(ref))).json[
        "ticket"
    ]
    for credential in (mine, wrong):
        await asked(scene, path_of(ref), headers={"Authorization": f"Bearer {credential}"})
        await asked(scene, path_of(ref), headers={"Cookie": f"bridge_token={credential}"})
        await asked(scene, f"{path_of(ref)}/events?ticket={credential}", "HEAD")
        with pytest.raises(websockets.InvalidStatus):
            async with websockets.connect(address(scene, f"?ticket={credential}")):
                pass
    assert (await asked(scene, f"{path_of(ref)}/events?ticket={shown}", "HEAD")).status == 200
    async with websockets.connect(address(scene, f"?task={ref}&ticket={shown}")) as socket:
        await socket.recv()
    log = "".join(scene.bridge.log)
    for secret in (mine, wrong, shown, SECRET, OTHER_SECRET):
        assert secret not in log
        assert secret.rpartition(".")[2] not in log


async def test_a_minted_token_lets_bridge_watch_in(scene: Scene) -> None:
    task = scene.id()
    done = await scene.script("qingbo", task, qingbo_done(task))
    settings = {
        "BRIDGE_AUTH": "token",
        "BRIDGE_TOKEN_SECRETS": orjson.dumps([SECRET]).decode(),
        "BRIDGE_TOKEN_ISSUER": ISSUER,
        "BRIDGE_UPSTREAMS__QINGBO__API_KEY": "x",
    }
    minted = await run("token", "mint", "--tasks", done, "--scope", "read", "--seconds", "60", **settings)
    assert minted.code == 0, minted.err
    text = minted.out.strip()
    watched = await run("watch", done, "--json", "--url", scene.bridge.url, "--token", text)
    assert watched.code == 0, watched.err
    assert orjson.loads(watched.out.splitlines()[-1])["status"] == "completed"
    for more in ((), ("--token", token("qingbo/b")), ("--token", "nonsense")):
        failed = await run("watch", done, "--json", "--url", scene.bridge.url, *more)
        assert failed.code == 2, failed.err
        assert "nonsense" not in failed.err
    for wrong in (("--scope", "root"), ("--tasks", "qingbo"), ("--seconds", "0")):
        assert (await run("token", "mint", *wrong, **settings)).code == 2
    none = await run("token", "mint", "--tasks", "*", BRIDGE_UPSTREAMS__QINGBO__API_KEY="x")
    assert none.code == 1
    assert "token_secrets" in none.err


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        ({"AUTH": "token"}, "token_issuer"),
        ({"AUTH": "token", "TOKEN_ISSUER": "x"}, "either token_secrets or token_jwks_url"),
        ({"AUTH": "token", "TOKEN_ISSUER": "x", "TOKEN_SECRETS": '["short"]'}, "32 bytes"),
        (
            {"AUTH": "token", "TOKEN_ISSUER": "x", "TOKEN_SECRETS": f'["{SECRET}","{SECRET}","{SECRET}"]'},
            "at most 2",
        ),
        ({"AUTH": "token", "TOKEN_ISSUER": "x", "TOKEN_JWKS_URL": "http://keys.example/"}, "https://"),
        (
            {"AUTH": "token", "TOKEN_ISSUER": "x", "TOKEN_SECRETS": f'["{SECRET}"]', "TICKET_SECRET": SECRET},
            "ticket_secret",
        ),
        ({"TOKEN_ISSUER": "x"}, 'token_issuer: needs auth = "token"'),
        ({"AUTH": "basic"}, "'none', 'token'"),
    ],
)
async def test_mistakes_about_tokens_are_told_before_the_start(wishes: dict[str, str], sentence: str) -> None:
    variables = {f"BRIDGE_{name}": value for name, value in wishes.items()}
    ended = await run("check-config", **variables, BRIDGE_UPSTREAMS__QINGBO__API_KEY="x")
    assert ended.code == 2
    assert sentence in ended.err
    assert SECRET not in ended.err


async def test_secrets_are_not_shown_and_a_public_address_is_allowed_with_tokens() -> None:
    settings = {
        "BRIDGE_AUTH": "token",
        "BRIDGE_TOKEN_SECRETS": orjson.dumps([SECRET]).decode(),
        "BRIDGE_TOKEN_ISSUER": ISSUER,
        "BRIDGE_UPSTREAMS__QINGBO__API_KEY": "x",
        "BRIDGE_JOURNAL": "memory",
    }
    shown = await run("check-config", **settings)
    assert shown.code == 0, shown.err
    assert SECRET not in shown.out
    arguments = ("serve", "--host", "0.0.0.0", "--port", "0")
    async with started(*arguments, **settings) as process, asyncio.timeout(PATIENCE):
        assert process.stdout is not None
        assert b"listening" in await process.stdout.readline()


async def test_tokens_of_a_key_server_and_tickets_with_a_secret_of_their_own(anyio_backend: str) -> None:
    signer = ec.generate_private_key(ec.SECP256R1())
    key = get_default_algorithms()["ES256"].to_jwk(signer.public_key(), as_dict=True)
    hits = []

    async def keys(_: web.Request) -> web.Response:
        hits.append(1)
        return web.json_response({"keys": [key | {"kid": "one", "use": "sig"}]})

    app = web.Application()
    app.router.add_get("/keys", keys)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    wishes = {"auth": "token", "token_jwks_url": url, "token_issuer": ISSUER, "ticket_secret": OTHER_SECRET}
    try:
        async with stage(**wishes) as scene:
            task = scene.id()
            ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
            mine = bearer(ref, secret=signer, algorithm="ES256", kid="one")
            assert (await asked(scene, path_of(ref), headers=mine)).status == 200
            await runner.cleanup()
            assert (await asked(scene, path_of(ref), headers=mine)).status == 200
            assert (await asked(scene, path_of(ref), headers=bearer(ref))).status == 401
            assert (await asked(scene, path_of(ref), headers=bearer(ref, secret=OTHER_SECRET))).status == 401
            ticket = await asked(scene, "/v1/tickets", "POST", json={"tasks": [ref]}, headers=mine)
            async with scene.stream(ticket.json["links"]["events"]) as stream:
                assert (await stream.state())["task"] == ref
            assert len(hits) == 1
    finally:
        await runner.cleanup()
