"""Keys as clients send them, and kept answers as an engine returns them."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from bridge.auth.caller import ANONYMOUS, Caller
from bridge.core.task import TaskKey
from bridge.errors import (
    BridgeError,
    CredentialRefused,
    InvalidRequest,
    TaskNotFound,
    UnreadablePayload,
    UpstreamBusy,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from bridge.watchers.submitter import may_exist
from bridge.web.idempotency import SubmitKey, idempotency_key, submit_key
from bridge.web.kept_answers import MAX_BODY, MAY_HAVE_CREATED, KeptAnswer, decode_answer

TASK = TaskKey("up", "task/1", "-")


def key_of(*values: str) -> str | None:
    raw = [(b"idempotency-key", value.encode("latin-1")) for value in values]
    return idempotency_key(Headers(raw=raw))


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ('"8e03978e"', "8e03978e"),
        ('"a\\"b\\\\c"', 'a"b\\c'),
        ("  spaces-around ", "spaces-around"),
        ("stainless-python-retry-1", "stainless-python-retry-1"),
        ("a,b;c=1", "a,b;c=1"),
        ("x" * 255, "x" * 255),
        ("!~", "!~"),
    ],
)
def test_what_clients_send_is_a_key(value: str, key: str) -> None:
    assert key_of(value) == key


@pytest.mark.parametrize(
    "values",
    [("",), (" ",), ('""',), ("a b",), ("\x7f",), ("\xe9",), ("x" * 256,), ("a", "b"), ("a", "a"), ('" "',)],
)
def test_anything_else_is_refused(values: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        key_of(*values)
    assert not any(value.strip() and value in str(raised.value) for value in values if len(value) > 3)


def test_without_the_header_there_is_no_key() -> None:
    assert key_of() is None


async def made(caller: Caller = ANONYMOUS, key: str = "k", **more: object) -> SubmitKey:
    request = {"method": "POST", "path": "/p", "query": b"q", "body": b"b", "content_type": None} | more
    return await submit_key(caller, key, **request)  # type: ignore[arg-type]


def caller(name: str, account: str = "-") -> Caller:
    return Caller(name=name, scopes=frozenset(), tasks=None, expires_at=None, account=account)


@pytest.mark.anyio
async def test_the_operation_is_of_caller_and_key_and_the_digest_of_the_request() -> None:
    plain = await made()
    assert await made() == plain
    parts = [{"method": "PUT"}, {"path": "/pq", "query": b""}, {"query": b"qb", "body": b""}, {"body": b"c"}]
    digests = {(await made(**part)).digest for part in [{}, *parts, {"body": b"b" * 200_000}]}  # type: ignore[arg-type]
    assert len(digests) == 6
    callers = [caller("a"), caller("b"), caller("a", "1"), caller("a", "2"), caller("1")]
    names = {(await made(one, key)).name for one in callers for key in ("k", "l")}
    assert len(names) == 2 * len(callers)
    assert not any("secret" in name for name in [(await made(key="secret")).name])


@pytest.mark.anyio
@pytest.mark.parametrize(
    "form", ["multipart/form-data; boundary=%s", 'Multipart/Mixed;charset=x; boundary="%s"']
)
async def test_a_body_of_parts_counts_without_its_boundary(form: str) -> None:
    def of(boundary: str, value: str, content_type: str = form) -> dict[str, object]:
        text = (
            f'--{boundary}\r\ncontent-disposition: form-data; name="p"\r\n\r\n{value}\r\n--{boundary}--\r\n'
        )
        named = content_type % boundary if "%s" in content_type else content_type
        return {"body": text.encode(), "content_type": named}

    first = await made(**of("abc", "x"))
    assert await made(**of("0123456789abcdef", "x")) == first
    assert (await made(**of("abc", "y"))).digest != first.digest
    plain = [(await made(**of(boundary, "x", "text/plain"))).digest for boundary in ("abc", "abd")]
    assert plain[0] != plain[1]
    for odd in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/x;boundary="',
        ";" * 9000,
    ):
        await made(body=b"--", content_type=odd)


@given(
    st.integers(200, 599),
    st.dictionaries(st.sampled_from(["content-type", "etag"]), st.text("az/-;= ", max_size=9)),
    st.binary(max_size=3000),
)
def test_a_kept_answer_is_what_it_was(status: int, headers: dict[str, str], body: bytes) -> None:
    kept = KeptAnswer(status=status, headers=headers, body=body, task=TASK)
    assert decode_answer(kept.encode()) == kept


def test_a_large_answer_keeps_its_task() -> None:
    fits = KeptAnswer(status=201, body=b"x" * MAX_BODY, task=TASK)
    assert decode_answer(fits.encode()) == fits
    assert len(fits.encode()) < 1000
    large = decode_answer(KeptAnswer(status=201, body=b"x" * (MAX_BODY + 1), task=TASK).encode())
    assert (large.status, large.body, large.task) == (201, None, TASK)


GOOD = KeptAnswer(status=201, headers={"etag": '"a"'}, body=b"x" * 1000, task=TASK).encode()
HEAD = b'{"status":201,"headers":{},"task":["up","t","-"],"packed":%s}\n%s'


@pytest.mark.parametrize(
    "encoded",
    [
        None,
        b"",
        b"[]",
        b"\xff\n",
        GOOD[:-3],
        HEAD % (b"true", b"not deflated"),
        HEAD % (b"true", zlib.compress(b"x" * (MAX_BODY + 1))),
        b'{"status":201}\nx',
        b'{"status":"201","headers":{},"packed":false}\nx',
        b'{"status":99,"headers":{},"packed":false}\nx',
        b'{"status":201,"headers":{"a":"b\\r\\nc: d"},"packed":false}\nx',
        b'{"status":201,"headers":{"a":1},"packed":false}\nx',
        b'{"status":201,"headers":[],"packed":false}\nx',
        b'{"status":201,"headers":{},"packed":false,"task":["up"]}\nx',
        b'{"status":201,"headers":{},"packed":false,"task":["up","..","-"]}\nx',
        b'{"status":201,"headers":{},"packed":false,"task":7}\nx',
    ],
)
def test_what_cannot_be_read_is_a_doubt(encoded: bytes | None) -> None:
    assert decode_answer(encoded) == MAY_HAVE_CREATED


@given(st.binary(max_size=200))
def test_no_bytes_break_it(encoded: bytes) -> None:
    decode_answer(encoded)
    decode_answer(GOOD[:40] + encoded)
    decode_answer(HEAD % (b"true", encoded))


@pytest.mark.parametrize(
    ("error", "doubt"),
    [
        (UpstreamTimeout(), True),
        (UpstreamUnavailable(), True),
        (UpstreamUnavailable(provider_status=500), True),
        (UpstreamUnavailable(provider_status=302), True),
        (UnreadablePayload(provider_status=200), True),
        (UpstreamUnavailable(provider_status=408), False),
        (UpstreamUnavailable(provider_status=425), False),
        (UpstreamUnreachable(), False),
        (UpstreamBusy(provider_status=429), False),
        (UpstreamBusy(provider_status=503, retry_after=3.0), False),
        (UpstreamRefused(provider_status=400), False),
        (CredentialRefused(provider_status=401), False),
        (TaskNotFound(), False),
    ],
)
def test_which_errors_leave_a_doubt(error: UpstreamError, doubt: bool) -> None:
    assert may_exist(error) is doubt
    error.may_exist = True  # an earlier attempt of the same submit
    assert may_exist(error) is True
    assert isinstance(error, BridgeError)
