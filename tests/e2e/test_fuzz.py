"""What nobody would send on purpose: changed tickets, streams asked for oddly, sockets that speak nonsense.

Whatever comes, the bridge says what is wrong, in the words of its API documents, and goes on.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from json import dumps
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.delivery.websocket import MAX_MESSAGE
from tests.contract.test_api_documents import message_of, state_payload, validator
from tests.e2e import raw
from tests.e2e.scene import Scene, path_of, stage
from tests.e2e.test_websocket import Client, connected
from tests.fakes.credentials import OTHER_SECRET, SECRET, TOKEN_SETTINGS, bearer, part, token
from tests.harness import PATIENCE, qingbo

pytestmark = pytest.mark.anyio

REF = "qingbo/open"
PROBLEM = validator("openapi.yaml#/components/schemas/Problem")
FLOOD = 5000
Forgery = Callable[..., str]
seldom = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    """A bridge that asks nobody."""
    async with stage(first_state_timeout_seconds=0.2, log_level="debug") as made:
        await made.script("qingbo", "open", qingbo("open", "processing", 3))
        yield made


@pytest.fixture(scope="module")
async def guarded(anyio_backend: str) -> AsyncIterator[Scene]:
    """A bridge that asks who calls."""
    async with stage(first_state_timeout_seconds=0.2, log_level="debug", **TOKEN_SETTINGS) as made:
        await made.script("qingbo", "open", qingbo("open", "processing", 3))
        await made.script("qingbo", "other", qingbo("other", "processing", 3))
        yield made


# -- tickets -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def genuine(guarded: Scene) -> list[str]:
    """Tickets the bridge gave out: two of one task, one of another."""
    given_out = []
    for ref, seconds in ((REF, 900), (REF, 800), ("qingbo/other", 900)):
        body = {"tasks": [ref], "seconds": seconds}
        reply = await guarded.call("POST", "/v1/tickets", json=body, headers=bearer("*"))
        given_out.append(reply.json["ticket"])
    return given_out


def octets(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def flipped(which: int, bit: int) -> Forgery:
    """One bit of one part is another."""

    def forge(mine: str, *_: str) -> str:
        parts = mine.split(".")
        changed = bytearray(octets(parts[which]))
        changed[bit // 8 % len(changed)] ^= 1 << bit % 8
        parts[which] = part(bytes(changed))
        return ".".join(parts)

    return forge


def resigned(more: dict[str, Any], key: str, algorithm: str) -> Forgery:
    """The same claims, or better ones, by a key that somebody has: with the bridge's own it is a token."""

    def forge(mine: str, *_: str) -> str:
        claims = orjson.loads(octets(mine.split(".")[1])) | more
        return token(
            secret=key.ljust(64, "x") if algorithm != "HS256" else key, algorithm=algorithm, **claims
        )

    return forge


def renamed(alg: Any, more: dict[str, Any], seal: str | None) -> Forgery:
    """Another algorithm in the head, the signature kept or left out."""

    def forge(mine: str, *_: str) -> str:
        _head, payload, kept = mine.split(".")
        return f"{part({'alg': alg, 'typ': 'JWT'} | more)}.{payload}.{kept if seal is None else seal}"

    return forge


def mixed(pieces: list[int]) -> Forgery:
    """Parts of one and of others, in any order."""

    def forge(*all_of_them: str) -> str:
        parts = [one for text in all_of_them for one in text.split(".")]
        return ".".join(parts[number] for number in pieces)

    return forge


def cut(places: int, more: str) -> Forgery:
    """Shorter, longer, or much longer."""
    return lambda mine, *_: mine[: len(mine) - places] + more


forgeries = st.one_of(
    st.builds(flipped, st.integers(0, 2), st.integers(0, 2000)),
    st.builds(
        resigned,
        st.sampled_from([{}, {"tasks": ["qingbo/*"]}, {"exp": 1e12}, {"aud": "task-event-bridge"}]),
        st.sampled_from([SECRET, OTHER_SECRET, "k" * 64]),
        st.sampled_from(["HS256", "HS384", "HS512"]),
    ),
    st.builds(
        renamed,
        st.sampled_from(["none", "NONE", "", "RS256", "ES256", "HS512", "EdDSA", None, 0, ["HS256"]]),
        st.sampled_from([{}, {"kid": "../../dev/null"}, {"jku": "http://127.0.0.1/"}, {"crit": ["b64"]}]),
        st.sampled_from([None, "", "AA"]),
    ),
    st.builds(mixed, st.lists(st.integers(0, 8), min_size=1, max_size=4)),
    st.builds(mixed, st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(0, 8))),
    st.builds(
        cut,
        st.integers(0, 100),
        st.sampled_from(["", "=", ".", "A", "%00", " ", "\u00e9", "\r\n", "A" * 20_000]),
    ),
)


def same(ticket: str, genuine: list[str]) -> bool:
    """Whether a ticket says and proves what a genuine one does, byte for byte once decoded."""
    try:
        return [octets(one) for one in ticket.split(".")] in [
            [octets(one) for one in text.split(".")] for text in genuine
        ]
    except ValueError:
        return False


@seldom
@given(forge=forgeries)
async def test_no_changed_ticket_opens_anything(guarded: Scene, genuine: list[str], forge: Forgery) -> None:
    forged = forge(*genuine)
    for path in (f"{path_of(REF)}/events?", f"/v1/events?task={REF}&"):
        async with guarded.stream(f"{path}ticket={quote(forged)}", method="HEAD") as stream:
            expected = {200, 403} if same(forged, genuine) else {401}
            assert stream.status in expected, forged
    if same(forged, genuine):
        return
    url = guarded.bridge.url.replace("http", "ws") + f"/v1/ws?task={REF}&ticket={quote(forged)}"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(url):
            pass
    assert refused.value.response.status_code == 401


async def test_what_is_changed_above_would_be_let_in_unchanged(guarded: Scene, genuine: list[str]) -> None:
    for mine in genuine[:2]:
        assert same(mine, genuine)
        async with guarded.stream(f"{path_of(REF)}/events?ticket={mine}", method="HEAD") as stream:
            assert stream.status == 200
    async with guarded.stream(f"{path_of(REF)}/events?ticket={genuine[2]}", method="HEAD") as stream:
        assert stream.status == 403


async def test_of_two_tickets_in_one_address_one_counts_and_nobody_is_let_in_by_mistake(
    guarded: Scene, genuine: list[str]
) -> None:
    for query in (f"ticket=x&ticket={genuine[2]}", f"ticket={genuine[2]}&ticket=x"):
        async with guarded.stream(f"{path_of(REF)}/events?{query}", method="HEAD") as stream:
            assert stream.status in {401, 403}


# -- streams -----------------------------------------------------------------------------------------------

values = st.sampled_from(
    ["", "0", "1", "raw", "raw,data", "openai", "null", "k3f9-17", "é", "\x00", "a" * 200]
)
words = values | st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
names = st.sampled_from(
    ["include", "history", "format", "last_event_id", "lastEventId", "task", "ticket", "x"]
)
accepts = st.sampled_from(
    ["text/event-stream", "application/x-ndjson", "*/*", "", "application/json", "application/x-ndjson;q=0"]
)
tokens = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
tasks = st.sampled_from([REF, REF, "qingbo/nope", "qingbo", "nowhere/x", "qingbo/%00", ""])


@seldom
@given(
    query=st.lists(st.tuples(names, words), max_size=3),
    accept=accepts,
    resume=tokens,
    named=st.lists(tasks, max_size=3),
    way=st.sampled_from(["path", "query", "body"]),
)
async def test_whatever_stream_is_asked_for_one_begins_or_a_problem_says_why_not(
    scene: Scene, query: list[tuple[str, str]], accept: str, resume: str, named: list[str], way: str
) -> None:
    text = "&".join(f"{name}={quote(value)}" for name, value in query)
    headers = {"Accept": accept, "Last-Event-ID": resume}
    if way == "path":
        asked = scene.events(REF, f"?{text}", headers=headers)
    elif way == "query":
        refs = "".join(f"task={ref}&" for ref in named)
        asked = scene.stream(f"/v1/events?{refs}{text}", headers=headers)
    else:
        body = orjson.dumps({"tasks": named})
        asked = scene.stream(f"/v1/events?{text}", method="POST", headers=headers, body=body)
    async with asked as stream:
        await check_beginning(stream)


async def check_beginning(stream: raw.RawStream) -> None:
    """A problem, or a stream whose first words are those of its kind."""
    kind = stream.headers["content-type"]
    if stream.status != 200:
        assert (stream.status, kind) in {(400, "application/problem+json"), (404, "application/problem+json")}
        PROBLEM.validate(orjson.loads(await stream.body()))
        return
    assert stream.headers["cache-control"] == "no-store, no-transform"
    first = await stream.piece()
    if kind == "application/x-ndjson":
        while not first.strip(b"\n"):
            first = await stream.piece()
        line = orjson.loads(first.strip().split(b"\n")[0])
        payload = state_payload("state") if "event" not in line else said(line.pop("event"))
        payload.validate(line)
        return
    assert kind == "text/event-stream; charset=utf-8"
    assert first.startswith(b": ok\n")
    data = raw.Block.parse(first.partition(b"\n\n")[0]) if b"\n\n" in first else await stream.block()
    assert data is not None
    assert data.event in {None, "notice", "reset"}


def said(name: str) -> Any:
    return validator(f"asyncapi.yaml#/components/messages/{name}/payload")


# -- sockets -----------------------------------------------------------------------------------------------

plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | words
json = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)
keys = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["subscribe", "unsubscribe", "ping", "pong", "state"]) | json,
        "id": st.integers(0, 9) | words | json,
        "tasks": st.lists(tasks | words, max_size=3) | json,
        "after": words | json,
    },
)


def written(value: Any) -> bytes:
    """As JSON, with numbers that are none (`NaN`) or too large, as some encoders write them."""
    return dumps(value).encode()


@seldom
@given(
    talk=st.lists(st.one_of(keys, keys, json).map(written) | st.binary(max_size=40), min_size=1, max_size=8)
)
async def test_whatever_is_said_on_a_socket_it_answers_in_its_own_words(
    scene: Scene, talk: list[bytes]
) -> None:
    async with connected(scene) as client:
        for message in talk:
            await client.socket.send(message)
        await client.say(type="ping", id="the end")
        while True:
            heard = await client.hear()
            message_of(heard).validate(heard)
            if heard == {"type": "pong", "id": "the end"}:
                return


async def test_fragments_count_together(scene: Scene) -> None:
    async with connected(scene) as client:

        async def pieces() -> AsyncIterator[str]:
            for _ in range(MAX_MESSAGE // 1024 + 1):
                yield "x" * 1024
            await client.socket.wait_closed()  # more would meet a closed connection, which hides why

        with suppress(websockets.ConnectionClosed):
            async with asyncio.timeout(PATIENCE):
                await client.socket.send(pieces())
        assert client.socket.close_code == 1009


async def test_nothing_is_ever_compressed_so_nothing_can_blow_up(scene: Scene) -> None:
    url = scene.bridge.url.replace("http", "ws") + "/v1/ws"
    async with websockets.connect(url, compression="deflate") as socket:
        assert "Sec-WebSocket-Extensions" not in socket.response.headers
        bomb = b"\xc1\xfe\x00\x04\x00\x00\x00\x00abcd"  # a text message that says it is compressed
        socket.transport.write(bomb)
        async with asyncio.timeout(PATIENCE):
            await socket.wait_closed()
        assert socket.close_code == 1002


@pytest.mark.extended
async def test_a_client_that_floods_is_answered_in_its_turn_and_disturbs_nobody(scene: Scene) -> None:
    async with connected(scene) as flooding, connected(scene) as quiet:
        sending = asyncio.ensure_future(flood(flooding))
        await quiet.say(type="ping", id=1)
        assert await quiet.hear() == {"type": "pong", "id": 1}
        for number in range(FLOOD):
            assert await flooding.hear() == {"type": "pong", "id": number}
        await sending


async def flood(client: Client) -> None:
    for number in range(FLOOD):
        await client.say(type="ping", id=number)


async def test_a_client_that_changes_its_mind_for_ever_leaves_nothing_behind(scene: Scene) -> None:
    async with connected(scene) as client:
        for number in range(300):
            await client.say(type="subscribe", id=number, tasks=[REF])
            await client.say(type="unsubscribe", id=number, tasks=[REF])
        await client.say(type="ping", id="the end")
        while (heard := await client.hear()) != {"type": "pong", "id": "the end"}:
            message_of(heard).validate(heard)
    await scene.reaches('bridge_connections{delivery="websocket"}', 0)
    await scene.reaches('bridge_interests{upstream="qingbo"}', 0)


HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"Sec-WebSocket-Version": "12"},
        {"Sec-WebSocket-Version": "x"},
        {"Sec-WebSocket-Key": "c2hvcnQ="},
        {"Sec-WebSocket-Key": "no base64!"},
        {"Sec-WebSocket-Key": None},
        {"Sec-WebSocket-Version": None},
        {"Upgrade": "h2c"},
        {"Connection": "close"},
    ],
)
async def test_a_handshake_that_is_none_is_refused(scene: Scene, wrong: dict[str, str | None]) -> None:
    headers = {name: value for name, value in (HANDSHAKE | wrong).items() if value is not None}
    async with scene.stream("/v1/ws", headers=headers) as stream:
        assert 400 <= stream.status < 500
    async with scene.stream("/v1/ws", headers=HANDSHAKE) as stream:
        assert stream.status == 101


async def test_a_handshake_may_be_as_long_as_any_request(scene: Scene) -> None:
    """A ticket of 8 KiB fits, with its tasks; so does a token in a header."""
    for path, headers in ((f"/v1/ws?x={'x' * 30_000}", {}), ("/v1/ws", {"Authorization": "x" * 30_000})):
        async with scene.stream(path, headers=HANDSHAKE | headers) as stream:
            assert stream.status == 101


async def test_a_handshake_the_library_refuses_by_itself_is_answered_and_ended(scene: Scene) -> None:
    many = {f"X-{number}": "1" for number in range(200)}
    async with scene.stream("/v1/ws", headers=HANDSHAKE | many) as stream:
        assert stream.status == 431
        await stream.body()
        async with asyncio.timeout(PATIENCE):
            assert await stream.reader.read() == b""


async def test_nothing_of_all_this_was_a_bug(scene: Scene, guarded: Scene) -> None:
    for one in (scene, guarded):
        log = "".join(one.bridge.log)
        assert "Traceback" not in log
        assert "unhandled exception" not in log
        assert one.bridge.process.returncode is None


async def test_no_ticket_good_or_forged_stands_in_the_log(guarded: Scene, genuine: list[str]) -> None:
    for ticket in (*genuine, genuine[0][::-1]):  # Whatever ran before, each was in a request.
        async with guarded.stream(f"{path_of(REF)}/events?ticket={ticket}"):
            pass
    async with asyncio.timeout(PATIENCE):
        while not guarded.bridge.log:  # noqa: ASYNC110 - the pipe is read by a task of its own
            await asyncio.sleep(0.01)
    log = "".join(guarded.bridge.log)
    assert log
    for ticket in genuine:
        assert all(one not in log for one in ticket.split(".")[1:])
