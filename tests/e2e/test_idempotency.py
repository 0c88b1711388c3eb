"""`Idempotency-Key` from outside: a submit is sent once, and its repeats get the first answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import orjson
import pytest

from tests.e2e.bare import Bare, bare_provider
from tests.e2e.scene import Reply, Scene, stage, until
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

SLOW = {"queue_seconds": 1000, "run_seconds": 1000}
BODY = {"model": "wan2.7", "prompt": "x", "sim": SLOW}
ROUTES = ("/v1/tasks/qingbo", "/proxy/qingbo/v1/tasks")


@pytest.fixture(scope="module")
async def bare(anyio_backend: str) -> AsyncIterator[Bare]:
    async with bare_provider() as made:
        yield made


@pytest.fixture(scope="module")
async def scene(anyio_backend: str, bare: Bare) -> AsyncIterator[Scene]:
    also = {
        "bare": {"preset": "qingbo", "base_url": bare.url, "poll_min_seconds": 60, "poll_max_seconds": 120},
        "named": {"preset": "bytespike", "submit_timeout_seconds": 0.3},
        "hasty": {"preset": "qingbo", "submit_timeout_seconds": 0.3},
        "away": {"preset": "qingbo", "base_url": "http://127.0.0.1:9"},
    }
    async with stage(also=also, sync_wait_seconds=1.5, allowed_origins=["https://app.example"]) as made:
        yield made
        assert "Traceback" not in "".join(made.bridge.log)
        assert "secret-key" not in "".join(made.bridge.log)


@pytest.fixture(autouse=True)
async def calm(scene: Scene, bare: Bare) -> AsyncIterator[None]:
    bare.asked.clear()
    bare.answers.clear()
    bare.headers = Bare.headers
    yield
    await scene.faults(qingbo=[], bytespike=[])


def created(scene: Scene, provider: str = "qingbo") -> int:
    """How many tasks the provider has created."""
    return scene.simulator.world.store.last_number(provider)


async def submit(scene: Scene, path: str, key: str, body: Any = BODY, **headers: str) -> Reply:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return await scene.call("POST", path, json=body, headers={"Idempotency-Key": key} | more)


async def faulty(scene: Scene, name: str, provider: str = "qingbo", **more: Any) -> None:
    """The next submit has this fault."""
    await scene.faults(**{provider: [{"name": name, "calls": ["submit"], "times": 1, **more}]})


def replayed(reply: Reply) -> bool:
    return reply.headers.get("idempotent-replayed") == "true"


@pytest.mark.parametrize("path", ROUTES)
async def test_a_repeat_gets_the_first_answer_and_creates_nothing(scene: Scene, path: str) -> None:
    before, key = created(scene), scene.id("secret-key")
    first = await submit(scene, path, key)
    assert first.status in {200, 201}, first.body
    assert not replayed(first)
    again = [await submit(scene, path, key) for _ in range(2)]
    for one in again:
        assert replayed(one)
        assert (one.status, one.body) == (first.status, first.body)
        names = ("content-type", "location", "etag", "cache-control")
        assert [one.headers.get(name) for name in names] == [first.headers.get(name) for name in names]
    assert created(scene) == before + 1
    other = await submit(scene, path, scene.id("secret-key"))
    assert not replayed(other)
    assert created(scene) == before + 2


@pytest.mark.parametrize("path", ROUTES)
async def test_another_request_with_the_key_is_refused(scene: Scene, path: str) -> None:
    before, key = created(scene), scene.id("secret-key")
    await submit(scene, path, key)
    for changed, body in ((path, BODY | {"prompt": "y"}), (f"{path}?x=1", BODY)):
        reply = await submit(scene, changed, key, body)
        if reply.status == 400:  # the query is not one of this provider's, and nothing was sent
            continue
        document = reply.json
        code = document["code"] if "code" in document else document["error"]["code"]
        assert (reply.status, code) == (422, "idempotency_mismatch")
        assert reply.headers["x-should-retry"] == "false"
    other = ROUTES[1 - ROUTES.index(path)]
    assert (await submit(scene, other, key)).status == 422
    assert created(scene) == before + 1


@pytest.mark.parametrize("path", ROUTES)
async def test_of_two_at_once_one_reaches_the_provider(scene: Scene, path: str) -> None:
    before, key = created(scene), scene.id("secret-key")
    await faulty(scene, "slow", seconds=5)
    first = asyncio.ensure_future(submit(scene, path, key))

    async def is_created() -> bool:
        return created(scene) > before

    await until(is_created, value=True)
    reply = await submit(scene, path, key)
    document = reply.json
    code = document["code"] if "code" in document else document["error"]["code"]
    assert (reply.status, code) == (409, "conflict")
    assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("1", "true")
    assert (await submit(scene, path, key, BODY | {"prompt": "y"})).status == 422
    await scene.faults(qingbo=[])
    scene.advance(6)
    answer = await first
    again = await submit(scene, path, key)
    assert replayed(again)
    assert again.body == answer.body
    assert created(scene) == before + 1


async def test_many_repeats_at_once_all_get_the_answer(scene: Scene) -> None:
    before, key = created(scene), scene.id("secret-key")
    first = await submit(scene, ROUTES[0], key)
    repeats = await asyncio.gather(*(submit(scene, ROUTES[0], key) for _ in range(20)))
    assert {(one.status, one.body) for one in repeats} == {(201, first.body)}
    assert created(scene) == before + 1


async def test_many_first_requests_at_once_create_one_task(scene: Scene) -> None:
    before, key = created(scene), scene.id("secret-key")
    replies = await asyncio.gather(*(submit(scene, ROUTES[0], key) for _ in range(20)))
    assert {one.status for one in replies} <= {201, 409}
    assert len({one.json["state"]["task"] for one in replies if one.status == 201}) == 1
    assert created(scene) == before + 1


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("fault", ["429", "402", "451"])
async def test_what_the_provider_refuses_frees_the_key(scene: Scene, path: str, fault: str) -> None:
    before, key = created(scene), scene.id("secret-key")
    await faulty(scene, fault)
    refused = await submit(scene, path, key)
    assert refused.status >= 400
    assert not replayed(refused)
    await scene.faults(qingbo=[])
    scene.advance(30)

    async def accepted() -> bool:
        return (await submit(scene, path, key)).status in {200, 201}  # the credential pauses after a 429

    await until(accepted, value=True)
    assert replayed(await submit(scene, path, key))
    assert created(scene) == before + 1


@pytest.mark.parametrize("prefix", ["/v1/tasks/away", "/proxy/away/v1/tasks"])
async def test_what_was_never_sent_frees_the_key(scene: Scene, prefix: str) -> None:
    key = scene.id("secret-key")
    for _ in range(2):
        reply = await submit(scene, prefix, key)
        assert reply.status == 503, reply.body
        assert not replayed(reply)
        assert "may" not in reply.body.decode()
        assert "retry-after" in reply.headers
    changed = await submit(scene, prefix, key, BODY | {"prompt": "y"})
    assert changed.status == 503  # and not 422


@pytest.mark.parametrize("prefix", ["/v1/tasks/hasty", "/proxy/hasty/v1/tasks"])
@pytest.mark.parametrize("fault", ["500", "html", "truncated", "reset", "timeout"])
async def test_an_uncertain_submit_is_never_sent_again(scene: Scene, prefix: str, fault: str) -> None:
    key = scene.id("secret-key")
    await faulty(scene, fault)
    first = await submit(scene, prefix, key)
    assert first.headers["x-should-retry"] == "false", first.body
    number = created(scene)
    await scene.faults(qingbo=[])
    for _ in range(2):
        reply = await submit(scene, prefix, key)
        document = reply.json
        problem = document if "code" in document else document["error"]
        assert (reply.status, problem["code"]) == (502, "task_may_exist"), reply.body
        assert "may exist" in (problem.get("detail") or problem["message"])
        assert reply.headers["x-should-retry"] == "false"
        assert "retry-after" not in reply.headers
    assert created(scene) == number
    assert (await submit(scene, prefix, key, BODY | {"prompt": "y"})).status == 422


@pytest.mark.parametrize("prefix", ["/v1/tasks/named", "/proxy/named/v1/tasks/submit"])
async def test_a_task_with_an_id_of_the_clients_own_is_found(scene: Scene, prefix: str) -> None:
    own, key = scene.id("own"), scene.id("secret-key")
    body = {"model": "sora-2", "params": {"prompt": "x", "sim": SLOW}, "out_task_id": own}
    await faulty(scene, "truncated", provider="bytespike")
    first = await submit(scene, prefix, key, body)
    number = created(scene, "bytespike")
    await scene.faults(bytespike=[])
    again = await submit(scene, prefix, key, body)
    assert again.status in {200, 201}, again.body
    assert replayed(again)
    assert own in again.body.decode()
    assert created(scene, "bytespike") == number
    assert first.status in {200, 201, 503}


@pytest.mark.parametrize(
    "headers",
    [
        [("Idempotency-Key", "")],
        [("Idempotency-Key", '""')],
        [("Idempotency-Key", "a b")],
        [("Idempotency-Key", "k\u00e9")],
        [("Idempotency-Key", "x" * 256)],
        [("Idempotency-Key", '"open')] * 2,
        [("Idempotency-Key", "a"), ("Idempotency-Key", "a")],
    ],
)
@pytest.mark.parametrize("path", ROUTES)
async def test_a_malformed_key_reaches_no_provider(
    scene: Scene, path: str, headers: list[tuple[str, str]]
) -> None:
    before = created(scene)
    reply = await scene.call("POST", path, json=BODY, headers=headers)
    document = reply.json
    code = document["code"] if "code" in document else document["error"]["code"]
    assert (reply.status, code) == (400, "invalid_request")
    assert created(scene) == before


async def test_a_key_in_quotes_is_what_is_between_them(scene: Scene) -> None:
    before, key = created(scene), scene.id("secret-key")
    await submit(scene, ROUTES[0], f'"{key}"')
    assert replayed(await submit(scene, ROUTES[0], key))
    longest = (scene.id("secret-key") + "x" * 255)[:255]
    assert (await submit(scene, ROUTES[0], longest)).status == 201
    assert created(scene) == before + 2


async def test_an_answer_above_64_kib_is_made_of_the_task(scene: Scene, bare: Bare) -> None:
    task = scene.id()
    bare.answers = [{"task_id": task, "status": "queued", "echo": "e" * 70_000}]
    bare.answers.append({"task_id": task, "status": "processing", "echo": "short"})
    key = scene.id("secret-key")
    first = await submit(scene, "/v1/tasks/bare?include=raw", key)
    assert first.status == 201
    assert len(first.body) > 70_000
    again = await submit(scene, "/v1/tasks/bare?include=raw", key)
    assert (again.status, again.json["state"]["task_id"]) == (201, task)
    assert again.json["links"] == first.json["links"]
    assert replayed(again)
    assert len(bare.asked_for("POST")) == 1


async def test_below_proxy_it_is_the_document_of_the_status_call(scene: Scene, bare: Bare) -> None:
    task, key = scene.id(), scene.id("secret-key")
    bare.answers = [{"task_id": task, "status": "queued", "echo": "e" * 70_000}]
    bare.answers.append({"task_id": task, "status": "processing", "echo": "short"})
    first = await submit(scene, "/proxy/bare/v1/tasks", key)
    assert len(first.body) > 70_000
    again = await submit(scene, "/proxy/bare/v1/tasks", key)
    assert (again.status, again.json["task_id"]) == (200, task)
    assert replayed(again)
    assert len(bare.asked_for("POST")) == 1


async def test_a_client_that_leaves_gets_the_answer_by_a_repeat(scene: Scene) -> None:
    before, key = created(scene), scene.id("secret-key")
    await faulty(scene, "slow", seconds=5)
    body = orjson.dumps(BODY)
    _, writer = await asyncio.open_connection("127.0.0.1", int(scene.bridge.url.rpartition(":")[2]))
    head = f"POST /v1/tasks/qingbo HTTP/1.1\r\nhost: x\r\nidempotency-key: {key}\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    async def is_created() -> bool:
        return created(scene) > before

    await until(is_created, value=True)
    writer.close()
    await writer.wait_closed()
    await scene.faults(qingbo=[])
    scene.advance(6)

    async def answered() -> int:
        reply = await scene.call("POST", ROUTES[0], data=body, headers={"Idempotency-Key": key})
        assert reply.status in {201, 409}
        return reply.status

    await until(answered, value=201)
    assert created(scene) == before + 1


async def test_a_web_page_may_send_the_key_and_read_the_answer(scene: Scene) -> None:
    asks = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "idempotency-key,content-type",
    }
    preflight = await scene.call("OPTIONS", ROUTES[0], headers=asks)
    assert "idempotency-key" in preflight.headers["access-control-allow-headers"].lower()
    reply = await submit(scene, ROUTES[0], scene.id("secret-key"), origin="https://app.example")
    assert "idempotent-replayed" in reply.headers["access-control-expose-headers"].lower()


async def test_the_retry_of_an_official_client_is_one_task(scene: Scene) -> None:
    before, key = created(scene), scene.id("secret-key")
    await faulty(scene, "slow", seconds=2)
    direct = openai.DefaultHttpxClient(trust_env=False)
    client = openai.OpenAI(
        base_url=f"{scene.bridge.url}/proxy/qingbo/v1",
        api_key="k",
        http_client=direct,
        timeout=0.4,
        max_retries=8,
    )

    def create() -> dict[str, object]:
        options = {"headers": {"Idempotency-Key": key}}
        return client.post("/tasks", body=BODY, options=options, cast_to=dict[str, object])

    making = asyncio.ensure_future(asyncio.to_thread(create))

    async def is_created() -> bool:
        return created(scene) > before

    await until(is_created, value=True)
    await asyncio.sleep(0.5)  # longer than the client waits for an answer
    await scene.faults(qingbo=[])
    scene.advance(6)
    async with asyncio.timeout(PATIENCE):
        made = await making
    client.close()
    assert made["task_id"]
    assert created(scene) == before + 1


@pytest.mark.parametrize(
    "headers",
    [
        b"content-type: application/json;\tcharset=utf-8\r\n",
        b"content-type: application/json; x=%b\r\n" % (b"y" * 3000),
        b"content-type: application/json; charset=\xfc\r\n",
        b"content-type: application/json\r\nretry-after: 5\t6\r\nx-should-retry: \t maybe \t later\r\n",
        b"content-type:\r\n",
        b"",
    ],
    ids=["tab", "long", "latin-1", "retry", "empty", "none"],
)
async def test_headers_that_are_not_passed_on_are_not_kept(scene: Scene, bare: Bare, headers: bytes) -> None:
    key = scene.id("secret-key")
    bare.headers = headers
    bare.answers = [{"task_id": scene.id("task"), "status": "queued"}]
    first = await submit(scene, "/proxy/bare/v1/tasks", key)
    again = await submit(scene, "/proxy/bare/v1/tasks", key)
    assert replayed(again)
    assert (again.status, again.body) == (first.status, first.body)
    for name in ("content-type", "retry-after", "x-should-retry"):
        assert again.headers.get(name) == first.headers.get(name)
    assert len(bare.asked_for("POST")) == 1
