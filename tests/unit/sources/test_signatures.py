"""Callbacks signed as providers sign, and everything that only looks like it."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode, urlsafe_b64encode
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from bridge.core.task import TaskKey
from bridge.dialects.base import Callback
from bridge.dialects.registry import load_preset
from bridge.dialects.signature import Scheme, Signature
from bridge.errors import InvalidRequest, UpstreamUnavailable
from bridge.sources.callback import CallbackResult, take
from bridge.sources.jwks import REFETCH_SECONDS, REFRESH_SECONDS, keys_in, read_ed25519
from bridge.sources.signatures import Proof, check_signing_key, make_verifier
from bridge.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.provider import FakeProvider, make_upstream

pytestmark = pytest.mark.anyio

BODY = b'{"id":"t-1","odd":"\xff\x00 {timestamp}"}'
KEY = "s3cret-key"
RAW = b"\x00\xffraw key of a webhook"
WHSEC = "whsec_" + b64encode(RAW).decode()

HEADER = Signature(scheme=Scheme.HEADER, header="x-webhook-secret")
HMAC = Signature(scheme=Scheme.HMAC, header="x-bfl-signature", prefix="sha256=")
TIMED = Signature(
    scheme=Scheme.HMAC,
    header="x-signature",
    algorithm="sha512",
    encoding="base64",
    content="v0:{timestamp}.{header:X-Id}.{body}",
    timestamp_header="x-timestamp",
)
STANDARD = Signature(scheme=Scheme.STANDARD_WEBHOOKS)
FAL = Signature(scheme=Scheme.FAL)


class Caller:
    """A provider that calls back, at the time of the clock unless said otherwise."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.now = int(self.clock.time())

    async def proof(self, signature: Signature | None, key: str | None, headers: dict[str, str]) -> Proof:
        async def nobody() -> bytes:
            raise AssertionError("no key is fetched for this scheme")

        return await make_verifier(signature, key, self.clock, nobody).proof(headers, BODY)

    def timed(self, *, at: int | None = None, body: bytes = BODY, key: str = KEY) -> dict[str, str]:
        stamp = str(self.now if at is None else at)
        digest = hmac.digest(key.encode(), b"v0:%b.7.%b" % (stamp.encode(), body), "sha512")
        return {"x-timestamp": stamp, "x-id": "7", "x-signature": b64encode(digest).decode()}

    def standard(self, *, at: int | None = None, body: bytes = BODY, key: bytes = RAW) -> dict[str, str]:
        stamp = str(self.now if at is None else at)
        digest = hmac.digest(key, b"msg_1.%b.%b" % (stamp.encode(), body), "sha256")
        return {
            "webhook-id": "msg_1",
            "webhook-timestamp": stamp,
            "webhook-signature": "v1," + b64encode(digest).decode(),
        }


@pytest.fixture
def caller() -> Caller:
    return Caller()


def hexed(body: bytes = BODY, key: str = KEY) -> dict[str, str]:
    return {"x-bfl-signature": "sha256=" + hmac.digest(key.encode(), body, "sha256").hex()}


async def test_the_secret_in_a_header(caller: Caller) -> None:
    assert await caller.proof(HEADER, KEY, {"x-webhook-secret": KEY}) is Proof.GOOD
    for wrong in ("", KEY + " ", KEY[:-1], KEY.upper(), "\xe9\u20ac", "\udcff"):
        assert await caller.proof(HEADER, KEY, {"x-webhook-secret": wrong}) is Proof.WRONG
    assert await caller.proof(HEADER, KEY, {}) is Proof.WRONG


async def test_a_hash_over_the_body(caller: Caller) -> None:
    good = hexed()
    assert await caller.proof(HMAC, KEY, good) is Proof.GOOD
    assert await caller.proof(HMAC, KEY, {"x-bfl-signature": good["x-bfl-signature"].upper()}) is Proof.GOOD
    wrong = [
        hexed(BODY + b" "),
        hexed(key="other"),
        {},
        {"x-bfl-signature": good["x-bfl-signature"].removeprefix("sha256=")},
        {"x-bfl-signature": "sha256="},
    ]
    for headers in wrong:
        assert await caller.proof(HMAC, KEY, headers) is Proof.WRONG


async def test_one_of_several_hashes_suffices(caller: Caller) -> None:
    good, old = hexed()["x-bfl-signature"], hexed(key="old")["x-bfl-signature"]
    for both in (f"{old} {good}", f"{good}  {old}", f" {good}\t{old}"):
        assert await caller.proof(HMAC, KEY, {"x-bfl-signature": both}) is Proof.GOOD
    for none in (f"{old} {old}", f"{good[:-1]} {good[-1]}", f"{old},{good}"):
        assert await caller.proof(HMAC, KEY, {"x-bfl-signature": none}) is Proof.WRONG


async def test_a_hash_over_time_and_headers_is_good_about_now_only(caller: Caller) -> None:
    assert await caller.proof(TIMED, KEY, caller.timed()) is Proof.GOOD
    for apart in (-299, 299):
        assert await caller.proof(TIMED, KEY, caller.timed(at=caller.now + apart)) is Proof.GOOD
    assert await caller.proof(TIMED, KEY, caller.timed(at=caller.now * 1000)) is Proof.GOOD
    for apart in (-302, 302):
        assert await caller.proof(TIMED, KEY, caller.timed(at=caller.now + apart)) is Proof.WRONG
    good = caller.timed()
    for name, value in (("x-timestamp", str(caller.now + 1)), ("x-id", "8"), ("x-signature", "")):
        assert await caller.proof(TIMED, KEY, good | {name: value}) is Proof.WRONG
        assert await caller.proof(TIMED, KEY, {k: v for k, v in good.items() if k != name}) is Proof.WRONG
    for stamp in ("", "nan", "1e9", "-1", "9" * 400, "\u0661", f" {caller.now}"):
        assert await caller.proof(TIMED, KEY, good | {"x-timestamp": stamp}) is Proof.WRONG


async def test_standard_webhooks(caller: Caller) -> None:
    good = caller.standard()
    assert await caller.proof(STANDARD, WHSEC, good) is Proof.GOOD
    assert await caller.proof(STANDARD, WHSEC.removeprefix("whsec_"), good) is Proof.GOOD
    old = caller.standard(key=b"old key")["webhook-signature"]
    both = good | {"webhook-signature": f"{old} v1a,xyz {good['webhook-signature']}"}
    assert await caller.proof(STANDARD, WHSEC, both) is Proof.GOOD
    wrong = [
        good | {"webhook-signature": old},
        good | {"webhook-signature": good["webhook-signature"].replace("v1,", "v2,")},
        good | {"webhook-id": "msg_2"},
        good | {"webhook-id": ""},
        caller.standard(body=b"{}"),
        caller.standard(at=caller.now - 301),
        {},
    ]
    for headers in wrong:
        assert await caller.proof(STANDARD, WHSEC, headers) is Proof.WRONG


async def test_without_a_scheme_or_a_key_nothing_is_proven_and_nothing_refused(caller: Caller) -> None:
    assert await caller.proof(None, KEY, {}) is Proof.NONE
    for signature in (HEADER, HMAC, TIMED, STANDARD):
        assert await caller.proof(signature, None, {}) is Proof.NONE
        assert await caller.proof(signature, "", {}) is Proof.NONE


@given(
    headers=st.dictionaries(
        st.sampled_from(["x-webhook-secret", "x-signature", "x-timestamp", "webhook-id", "webhook-signature"])
        | st.sampled_from(["webhook-timestamp", "x-bfl-signature"]),
        st.text(st.characters(codec="latin-1"), max_size=80),
    ),
    body=st.binary(max_size=60),
)
async def test_no_headers_and_no_body_are_more_than_wrong(headers: dict[str, str], body: bytes) -> None:
    async def nobody() -> bytes:
        raise UpstreamUnavailable

    for signature, key in ((HEADER, KEY), (HMAC, KEY), (TIMED, KEY), (STANDARD, WHSEC), (FAL, "")):
        proof = await make_verifier(signature, key, FakeClock(), nobody).proof(headers, body)
        assert proof in {Proof.WRONG, Proof.NONE}


def test_a_signing_key_is_checked_at_the_start() -> None:
    check_signing_key(load_preset("replicate"), WHSEC)
    for preset, key in (("replicate", "whsec_%%%"), ("replicate", "whsec_"), ("fal", "x"), ("qingbo", "x")):
        with pytest.raises(InvalidRequest) as caught:
            check_signing_key(load_preset(preset), key)
        assert "%%%" not in str(caught.value)


# fal


class Fal:
    """fal's side: it publishes keys, and signs with one."""

    def __init__(self) -> None:
        ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
        self.new_key = ed25519.Ed25519PrivateKey.generate
        self.clock = FakeClock()
        self.key = self.new_key()
        self.published = [self.key]
        self.fetched = 0
        self.down = False
        self.verifier = make_verifier(FAL, None, self.clock, self.fetch)

    async def fetch(self) -> bytes:
        self.fetched += 1
        if self.down:
            raise UpstreamUnavailable("down")
        keys = [
            {"kty": "OKP", "crv": "Ed25519", "x": _b64(key.public_key().public_bytes_raw()), "kid": "k"}
            for key in self.published
        ]
        return orjson.dumps({"keys": [{"kty": "RSA", "n": "x"}, *keys]})

    def headers(self, *, at: int | None = None, body: bytes = BODY, key: Any = None) -> dict[str, str]:
        stamp = str(int(self.clock.time()) if at is None else at)
        message = f"req-1\nuser-1\n{stamp}\n{hashlib.sha256(body).hexdigest()}".encode()
        return {
            "x-fal-webhook-request-id": "req-1",
            "x-fal-webhook-user-id": "user-1",
            "x-fal-webhook-timestamp": stamp,
            "x-fal-webhook-signature": (key or self.key).sign(message).hex(),
        }

    async def proof(self, headers: dict[str, str]) -> Proof:
        return await self.verifier.proof(headers, BODY)


def _b64(octets: bytes) -> str:
    return urlsafe_b64encode(octets).rstrip(b"=").decode()


@pytest.fixture
def fal() -> Fal:
    return Fal()


async def test_fal_signs_with_a_published_key(fal: Fal) -> None:
    assert await fal.proof(fal.headers()) is Proof.GOOD
    now = int(fal.clock.time())
    wrong = [fal.headers(body=b"{}"), fal.headers(at=now - 301), fal.headers(key=fal.new_key()), {}]
    good = fal.headers()
    wrong += [good | {name: "x"} for name in good]
    wrong += [{name: value for name, value in good.items() if name != left_out} for left_out in good]
    for headers in wrong:
        assert await fal.proof(headers) is Proof.WRONG
    assert fal.fetched == 1


async def test_the_keys_are_kept_for_a_day_and_fetched_for_an_unknown_one_once_a_minute(fal: Fal) -> None:
    assert await fal.proof(fal.headers()) is Proof.GOOD
    fal.clock.skip(REFRESH_SECONDS - 1)
    assert await fal.proof(fal.headers()) is Proof.GOOD
    assert fal.fetched == 1
    fal.key = fal.new_key()
    fal.published.append(fal.key)
    assert await fal.proof(fal.headers()) is Proof.GOOD
    assert fal.fetched == 2
    stranger = fal.new_key()
    for _ in range(20):
        assert await fal.proof(fal.headers(key=stranger)) is Proof.WRONG
    assert fal.fetched == 2
    fal.clock.skip(REFETCH_SECONDS)
    assert await fal.proof(fal.headers(key=stranger)) is Proof.WRONG
    assert fal.fetched == 3


async def test_keys_that_cannot_be_had_prove_nothing_and_are_not_asked_for_again_and_again(fal: Fal) -> None:
    fal.down = True
    for _ in range(5):
        assert await fal.proof(fal.headers()) is Proof.NONE
    assert fal.fetched == 1
    fal.down = False
    fal.clock.skip(REFETCH_SECONDS)
    assert await fal.proof(fal.headers()) is Proof.GOOD
    fal.down = True
    fal.clock.skip(2 * REFRESH_SECONDS)
    assert await fal.proof(fal.headers()) is Proof.GOOD  # old keys are better than none


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"{", b'{"keys": 3}', b'{"keys": [3, {}, {"kty": "OKP", "x": "***"}]}'],
)
def test_a_document_without_keys_holds_none(document: bytes) -> None:
    assert keys_in(document, read_ed25519) == ()


# What a callback comes to


class Called(FakeProvider):
    def read_callback(self, body: bytes) -> Callback:
        return Callback(orjson.loads(body).get("id"), None, challenge=False)


@pytest.mark.parametrize(
    ("key", "headers", "result"),
    [
        (KEY, {"x-webhook-secret": KEY}, CallbackResult.ACCEPTED),
        (KEY, {"x-webhook-secret": "wrong"}, CallbackResult.FORGED),
        (KEY, {}, CallbackResult.FORGED),
        (None, {}, CallbackResult.ACCEPTED),
    ],
)
async def test_a_wrong_signature_is_counted_as_forged_and_makes_no_look(
    key: str | None, headers: dict[str, str], result: CallbackResult
) -> None:
    clock, registry, looks = FakeClock(), CollectorRegistry(), list[TaskKey]()
    upstream = make_upstream(
        Called(clock),
        clock,
        metrics=Metrics(registry, ["qingbo"]),
        callback_secret="s",
        verifier=make_verifier(HEADER, key, clock, _no_fetch),
    )
    upstream.callbacks.come = False

    def look_now(named: TaskKey) -> bool:
        looks.append(named)
        return True

    taken = await take(upstream, "s", headers, b'{"id":"t-1"}', called_back=look_now)
    assert taken.result is result
    accepted = result is CallbackResult.ACCEPTED
    assert looks == [TaskKey("qingbo", "t-1")] * accepted
    assert upstream.callbacks.come is accepted
    labels = {"upstream": "qingbo", "result": result.value}
    assert registry.get_sample_value("bridge_callbacks_total", labels) == 1


async def _no_fetch() -> bytes:
    raise AssertionError("nothing is fetched")
