"""Submits with a key, and the calls that administer webhooks."""

from __future__ import annotations

import uuid

import orjson
import pytest

from bridge.client import SyncBridge, WebhookEvent
from bridge.client.errors import BridgeUnreachable
from bridge.errors import (
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    InvalidRequest,
    TaskMayExist,
    UnknownWebhook,
    UnreadablePayload,
)

pytestmark = pytest.mark.anyio

ENDPOINT = {
    "id": "wh_1",
    "url": "https://app.example/hook",
    "events": ["task.final"],
    "upstreams": [],
    "tags": ["vip"],
    "enabled": True,
    "disabled_reason": None,
    "static": False,
    "new": "a key of a newer bridge",
}
ATTEMPT = {
    "delivery": "msg_1",
    "type": "webhook.test",
    "at": "2026-11-30T10:00:00.000Z",
    "status": 503,
    "seconds": 0.25,
    "error": "HTTP 503",
    "result": "failed",
}


def created(fake):
    return fake.answer(201, {"state": fake.document("q/1", "queued", "e-1"), "links": {}})


async def test_a_submit_has_no_key_unless_one_is_given(fake):
    fake.plays(created(fake))
    async with fake() as bridge:
        await bridge.submit("q", {})
        await bridge.submit("q", {}, idempotency_key="order-7", webhook="https://app.example/hook?a=b")
    plain, named = fake.seen
    assert not {"Idempotency-Key", "X-Webhook-URL"} & plain.headers.keys()
    assert named.headers["Idempotency-Key"] == "order-7"
    assert named.headers["X-Webhook-URL"] == "https://app.example/hook?a=b"


@pytest.mark.parametrize("key", ["", " a", "a\r\nX-Other: b", "ключ", "k" * 256])
async def test_a_key_that_no_header_can_hold_is_refused_before_it_is_sent(fake, key):
    async with fake() as bridge:
        with pytest.raises(InvalidRequest, match="idempotency_key"):
            await bridge.submit("q", {}, idempotency_key=key)
    assert fake.seen == []


@pytest.mark.parametrize("url", ["", "app.example", "https://[::1/"])
async def test_a_webhook_that_is_no_url_is_refused_before_it_is_sent(fake, url):
    async with fake() as bridge:
        with pytest.raises(InvalidRequest, match="webhook"):
            await bridge.submit("q", {}, webhook=url)
    assert fake.seen == []


async def test_all_attempts_of_a_submit_have_one_key_and_the_same_bytes(fake):
    fake.plays(
        [fake.CUT],
        fake.problem(503, "over_capacity", retry_after="0"),
        fake.problem(409, "conflict", retry_after="0", x_should_retry="true"),
        created(fake),
    )
    async with fake() as bridge:
        assert (await bridge.submit("q", {"prompt": "猫"}, retry_seconds=60)).task == "q/1"
    assert len(fake.seen) == 4
    (key,) = {request.headers["Idempotency-Key"] for request in fake.seen}
    assert uuid.UUID(key).version == 4
    assert len({request.body for request in fake.seen}) == 1


async def test_a_submit_without_time_for_more_is_attempted_once(fake):
    fake.plays(fake.problem(409, "conflict", retry_after="1", x_should_retry="true"))
    async with fake() as bridge:
        for seconds in (0.0, 0.5):  # less than what the bridge asks for
            with pytest.raises(Conflict) as caught:
                await bridge.submit("q", {}, idempotency_key="k", retry_seconds=seconds)
            assert caught.value.retryable
    assert len(fake.seen) == 2


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (502, "task_may_exist", TaskMayExist),
        (422, "idempotency_mismatch", IdempotencyMismatch),
        (404, "webhook_not_found", UnknownWebhook),
        (409, "conflict", Conflict),
        (403, "forbidden", Forbidden),
    ],
)
async def test_what_a_repetition_cannot_mend_ends_a_submit_at_once(fake, status, code, error):
    fake.plays(fake.problem(status, code, x_should_retry="false"))
    async with fake() as bridge:
        with pytest.raises(error) as caught:
            await bridge.submit("q", {}, retry_seconds=60)
    assert (caught.value.code, caught.value.status, caught.value.retryable) == (code, status, False)
    assert len(fake.seen) == 1


async def test_endpoints_are_administered(fake):
    fake.plays(
        fake.answer(201, ENDPOINT | {"secret": "whsec_x"}),
        fake.answer(200, {"webhooks": [ENDPOINT]}),
        fake.answer(200, ENDPOINT | {"enabled": False, "disabled_reason": "operator"}),
        fake.answer(200, ENDPOINT | {"secret": "whsec_y"}),
        fake.answer(200, ENDPOINT),
        fake.answer(204),
    )
    async with fake("t") as bridge:
        new = await bridge.webhooks.create("https://app.example/hook", tags=["vip"])
        assert (new.id, new.secret, new.tags) == ("wh_1", "whsec_x", ("vip",))
        assert "whsec" not in repr(new)
        (listed,) = await bridge.webhooks.list()
        assert (listed.secret, listed.enabled) == (None, True)
        disabled = await bridge.webhooks.set_enabled(new.id, enabled=False)
        assert (disabled.enabled, disabled.disabled_reason) == (False, "operator")
        assert (await bridge.webhooks.rotate_secret(new.id)).secret == "whsec_y"
        assert (await bridge.webhooks.get("../a")).id == "wh_1"
        await bridge.webhooks.delete(new.id)
    assert [(one.method, one.path) for one in fake.seen] == [
        ("POST", "/v1/webhooks"),
        ("GET", "/v1/webhooks"),
        ("PATCH", "/v1/webhooks/wh_1"),
        ("POST", "/v1/webhooks/wh_1/rotate-secret"),
        ("GET", "/v1/webhooks/..%2Fa"),
        ("DELETE", "/v1/webhooks/wh_1"),
    ]
    assert orjson.loads(fake.seen[0].body) == {
        "url": "https://app.example/hook",
        "events": ["task.final"],
        "upstreams": [],
        "tags": ["vip"],
    }


async def test_attempts_and_deliveries_are_read(fake):
    delivery = {
        "id": "msg_1",
        "type": "task.final",
        "task": "q/1",
        "state": "waiting",
        "next_attempt_at": "2026-11-30T10:00:05.000Z",
        "attempts": [ATTEMPT],
    }
    fake.plays(
        fake.answer(200, ATTEMPT),
        fake.answer(200, {"deliveries": [delivery]}),
        fake.answer(200, ATTEMPT | {"status": 204, "error": None, "result": "delivered"}),
        fake.answer(200, []),
    )
    async with fake() as bridge:
        tested = await bridge.webhooks.test("wh_1")
        assert (tested.delivered, tested.status, tested.error) == (False, 503, "HTTP 503")
        (found,) = await bridge.webhooks.deliveries("wh_1")
        assert (found.state, found.task, found.attempts[0].seconds) == ("waiting", "q/1", 0.25)
        assert (await bridge.webhooks.redeliver("wh_1", found.id)).delivered
        with pytest.raises(UnreadablePayload):
            await bridge.webhooks.list()
        for nothing in ("", ".."):  # would be the address of all endpoints
            with pytest.raises(InvalidRequest):
                await bridge.webhooks.delete(nothing)
    assert fake.seen[2].path == "/v1/webhooks/wh_1/deliveries/msg_1/redeliver"


async def test_a_receiver_reads_an_event(fake):
    state = fake.document("q/1", "completed", "e-2")
    body = {"type": "task.final", "timestamp": "2026-11-30T10:00:00.000Z", "data": state}
    event = WebhookEvent.parse(orjson.dumps(body))
    assert event.state is not None
    assert (event.type, event.state.task, event.state.final) == ("task.final", "q/1", True)
    assert WebhookEvent.of({"type": "webhook.test", "data": {}}).state is None
    for nonsense in (b"[]", b"{", b'{"type": 1}', b'{"type": "task.final", "data": {}}'):
        with pytest.raises(UnreadablePayload):
            WebhookEvent.parse(nonsense)


def test_the_same_without_async():
    with SyncBridge("http://127.0.0.1:1") as bridge:
        with pytest.raises(BridgeUnreachable):
            bridge.submit("q", {}, idempotency_key="k", webhook="https://app.example/", retry_seconds=0.01)
        for call in (
            bridge.webhooks.list,
            lambda: bridge.webhooks.get("a"),
            lambda: bridge.webhooks.create("https://app.example/"),
            lambda: bridge.webhooks.set_enabled("a", enabled=True),
            lambda: bridge.webhooks.delete("a"),
            lambda: bridge.webhooks.rotate_secret("a"),
            lambda: bridge.webhooks.test("a"),
            lambda: bridge.webhooks.deliveries("a"),
            lambda: bridge.webhooks.redeliver("a", "msg_1"),
        ):
            with pytest.raises(BridgeUnreachable):
                call()
