"""Who gets in, and who does not: the OWASP list for JWT, tickets, cookies, and everything in between."""

from __future__ import annotations

import hmac
import string
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms
from starlette.requests import HTTPConnection

from bridge.auth.authenticator import NoAuth, TokenAuth
from bridge.auth.caller import ANONYMOUS, Caller, TokenScope
from bridge.auth.origins import Origins
from bridge.auth.signing_keys import REFRESH_SECONDS, SharedSecrets, SigningKeySet, read_token_key
from bridge.auth.tickets import Tickets
from bridge.auth.tokens import MAX_CREDENTIAL, Tokens
from bridge.core.task import TaskKey
from bridge.errors import Forbidden, InvalidRequest, Unauthenticated, UpstreamUnavailable
from bridge.sources.jwks import REFETCH_SECONDS, keys_in
from tests.fakes.clock import FakeClock
from tests.fakes.credentials import AUDIENCE, DAY, ISSUER, OTHER_SECRET, SECRET, claims, part, token

pytestmark = pytest.mark.anyio

A, B = TaskKey("qingbo", "a"), TaskKey("qingbo", "b")
ELSEWHERE = TaskKey("vapi", "a")
CLOCK = FakeClock()
NOW = CLOCK.time()


def tokens(*secrets: str, clock: FakeClock = CLOCK) -> Tokens:
    keys = SharedSecrets([secret.encode() for secret in secrets or (SECRET,)])
    return Tokens(keys, clock, issuer=ISSUER, audience=AUDIENCE)


def good(*tasks: str, **more: Any) -> str:
    return token(*tasks, **({"now": NOW} | more))


async def refused(text: str, reader: Tokens | None = None) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await (reader or tokens()).caller(text)
    sentence = str(caught.value)
    assert len(text) < 20 or text not in sentence
    assert caught.value.__cause__ is None
    return sentence


async def test_a_good_token_says_who_calls_and_what_they_may_do() -> None:
    caller = await tokens().caller(good("qingbo/a", "vapi/*", scope="read cancel openid"))
    assert caller.name == "ann"
    assert caller.scopes == {TokenScope.READ, TokenScope.CANCEL}
    assert caller.expires_at == NOW + DAY
    assert [caller.covers(key) for key in (A, B, ELSEWHERE)] == [True, False, True]
    assert (caller.covers_all_of("vapi"), caller.covers_all_of("qingbo")) == (True, False)


async def test_an_id_that_ends_like_a_pattern_is_an_id() -> None:
    caller = await tokens().caller(good("qingbo/a/*"))
    assert caller.covers(TaskKey("qingbo", "a/*"))
    assert not caller.covers(TaskKey("qingbo", "a/b"))


async def test_scopes_may_be_a_list_and_without_the_claims_nothing_is_allowed() -> None:
    assert (await tokens().caller(good(scope=["submit"]))).scopes == {TokenScope.SUBMIT}
    nobody = await tokens().caller(good(scope=None, tasks=None))
    assert nobody.scopes == frozenset()
    assert not nobody.covers(A)
    everybody = await tokens().caller(good("*"))
    assert everybody.tasks is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"tasks": "qingbo/a"},
        {"tasks": ["qingbo"]},
        {"tasks": ["Qingbo/*"]},
        {"tasks": ["*/*"]},
        {"tasks": [1]},
        {"scope": 7},
        {"scope": [7]},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 1e400},
        {"exp": float("nan")},
        {"exp": 10**400},
        {"nbf": "now"},
        {"nbf": [0]},
    ],
)
async def test_claims_of_another_kind_are_refused(wrong: dict[str, Any]) -> None:
    await refused(good("qingbo/a", **wrong))


@pytest.mark.parametrize("claim", ["iss", "aud", "exp"])
async def test_a_token_without_iss_aud_or_exp_is_refused(claim: str) -> None:
    assert await refused(good("*", **{claim: None})) == "the token lacks one of the claims iss, aud and exp"


async def test_a_token_of_another_issuer_or_for_another_audience_is_refused() -> None:
    assert "issuer" in await refused(good("*", iss="evil.example"))
    assert "wrong audience" in await refused(good("*", aud="another"))
    assert "lacks" in await refused(good("*", aud=[]))
    assert "wrong audience" in await refused(good("*", aud=["another"]))
    assert (await tokens().caller(good("*", aud=["another", AUDIENCE]))).name == "ann"


async def test_expiry_and_not_before_have_a_skew_of_a_minute() -> None:
    assert "expired" in await refused(good("*", seconds=-60))
    late = await tokens().caller(good("*", seconds=-59))
    assert late.expires_at == NOW + 1  # its streams are short; they do not end at once for a minute
    assert "not valid yet" in await refused(good("*", nbf=NOW + 61))
    assert await tokens().caller(good("*", nbf=NOW + 59))


async def test_alg_none_is_refused_in_every_spelling() -> None:
    body = part(claims("*", now=NOW))
    for alg in ("none", "None", "NONE", "nOnE", "", None):
        await refused(f"{part({'alg': alg, 'typ': 'JWT'})}.{body}.")
        await refused(f"{part({'alg': alg, 'typ': 'JWT'})}.{body}.AA")
    await refused(f"{part({'typ': 'JWT'})}.{body}.AA")
    for alg in ("HS384", "HS512"):
        await refused(good("*", secret=SECRET * 2, algorithm=alg), tokens(SECRET * 2))


async def test_a_changed_payload_or_a_cut_signature_is_refused() -> None:
    head, _, seal = good("qingbo/a").split(".")
    await refused(f"{head}.{part(claims('*', now=NOW))}.{seal}")
    await refused(f"{head}.{part(claims('qingbo/a', now=NOW))}.")
    await refused(good("*")[:-2])
    await refused(good("*", secret=OTHER_SECRET))


async def test_two_secrets_live_while_one_replaces_the_other() -> None:
    old, new = good("*"), good("*", secret=OTHER_SECRET)
    during, after = tokens(OTHER_SECRET, SECRET), tokens(OTHER_SECRET)
    for one in (old, new):
        assert (await during.caller(one)).name == "ann"
    assert (await after.caller(new)).name == "ann"
    await refused(old, after)


async def test_huge_and_shapeless_tokens_are_refused_before_they_are_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def parsed(*_: Any, **__: Any) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr(jwt, "get_unverified_header", parsed)
    monkeypatch.setattr(jwt, "decode", parsed)
    assert "8 KiB" in await refused("a" * (MAX_CREDENTIAL + 1))
    for text in ("", "a", "a.b", "a.b.c.d", "a.b.c\n", "é.b.c", "a.b.c ", "\ud800.b.c", "..", "a.b."):
        await refused(text)


async def test_headers_made_to_break_parsers_are_refused() -> None:
    body, seal = part(claims("*", now=NOW)), "AA"
    deep = b"[" * 2900
    for head in (
        deep,
        b"{}",
        b"[]",
        b"null",
        b'"x"',
        b"\xff",
        b'{"alg":' + deep,
        b'{"alg":["HS256"]}',
        b"1" * 5000,
    ):
        await refused(f"{part(head)}.{body}.{seal}")
    for more in (
        {"kid": 1},
        {"kid": {"a": 1}},
        {"crit": ["b64"], "b64": False},
        {"b64": False},
        {"crit": "x"},
    ):
        await refused(f"{part({'alg': 'HS256'} | more)}.{body}.{seal}")


async def test_signed_nonsense_is_refused() -> None:
    for payload in (b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 3000, b'{"exp":' + b"9" * 5000 + b"}"):
        signed = f"{part({'alg': 'HS256'})}.{part(payload)}"
        seal = (
            urlsafe_b64encode(hmac.digest(SECRET.encode(), signed.encode(), "sha256")).rstrip(b"=").decode()
        )
        await refused(f"{signed}.{seal}")


async def test_a_token_without_a_subject_is_named_by_something_that_lets_nobody_in() -> None:
    one, other = good("*", sub=None), good("*", sub=None, jti="2")
    names = [(await tokens().caller(text)).name for text in (one, other, one)]
    assert names[0] == names[2] != names[1]
    assert names[0].startswith("token-")
    assert names[0].removeprefix("token-") not in one


# A key server.

RSA = rsa.generate_private_key(65537, 2048)
SIGNERS: dict[str, Any] = {
    "RS256": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def published(algorithm: str, signer: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    key = get_default_algorithms()[algorithm].to_jwk(signer.public_key(), as_dict=True)
    return {name: value for name, value in (key | {"kid": kid} | more).items() if value is not None}


class KeyServer:
    """Counts how often it is asked."""

    def __init__(self, *keys: Any) -> None:
        self.keys = list(keys)
        self.down = False
        self.asked = 0

    async def fetch(self) -> bytes:
        self.asked += 1
        if self.down:
            raise UpstreamUnavailable("the key server is away")
        return orjson.dumps({"keys": self.keys})


def served(server: KeyServer, clock: FakeClock) -> Tokens:
    return Tokens(SigningKeySet(server.fetch, clock), clock, issuer=ISSUER, audience=AUDIENCE)


@pytest.mark.parametrize("algorithm", list(SIGNERS))
@pytest.mark.parametrize("alg", [True, False])
async def test_tokens_of_a_key_server(algorithm: str, alg: bool) -> None:
    signer = SIGNERS[algorithm]
    server = KeyServer(published(algorithm, signer, "one", alg=algorithm if alg else None, use="sig"))
    reader = served(server, FakeClock())
    assert (await reader.caller(good("*", secret=signer, algorithm=algorithm, kid="one"))).name == "ann"
    assert (await reader.caller(good("*", secret=signer, algorithm=algorithm))).name == "ann"
    assert server.asked == 1


async def test_a_public_key_is_no_shared_secret() -> None:
    """The classic confusion: HS256 with the published RSA key as the secret."""
    server = KeyServer(published("RS256", RSA, "one"))
    reader = served(server, FakeClock())
    kinds, forms = serialization.Encoding, serialization.PublicFormat
    pem = RSA.public_key().public_bytes(kinds.PEM, forms.SubjectPublicKeyInfo)
    der = RSA.public_key().public_bytes(kinds.DER, forms.SubjectPublicKeyInfo)
    for secret in (pem, pem.strip(), der, orjson.dumps(server.keys[0])):
        signed = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims('*', now=NOW))}"
        seal = urlsafe_b64encode(hmac.digest(secret, signed.encode(), "sha256")).rstrip(b"=").decode()
        await refused(f"{signed}.{seal}", reader)


async def test_a_key_in_the_token_itself_is_not_believed() -> None:
    mine = rsa.generate_private_key(65537, 2048)
    server = KeyServer(published("RS256", RSA, "one"))
    headers = {"kid": "one", "jwk": published("RS256", mine, "one"), "jku": "https://evil.example/jwks"}
    text = jwt.encode(claims("*", now=NOW), mine, algorithm="RS256", headers=headers)
    await refused(text, served(server, FakeClock()))
    assert server.asked == 1


async def test_only_public_signing_keys_of_the_allowed_algorithms_are_taken() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    octets = {"kty": "oct", "k": part(SECRET.encode()), "alg": "HS256", "kid": "one"}
    assert keys_in(orjson.dumps({"keys": [octets]}), read_token_key) == ()
    others = [
        published("RS256", RSA, "one", use="enc"),
        published("RS256", RSA, "one", alg="RS512"),
        published("RS256", RSA, "one", alg=["RS256"]),
        {"kty": "RSA", "n": 5, "e": "AQAB"},
        {"kty": "EC", "crv": ["P-256"]},
        {"kty": {}},
        7,
        None,
    ]
    assert keys_in(orjson.dumps({"keys": others}), read_token_key) == ()
    for nonsense in (b"", b"[]", b"{}", b'{"keys":{}}', b"\xff", b" " * 300_000):
        assert keys_in(nonsense, read_token_key) == ()
    reader = served(KeyServer(published("RS256", weak, "one")), FakeClock())
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        text = good("*", secret=weak, algorithm="RS256", kid="one")
    await refused(text, reader)


async def test_an_unknown_key_id_asks_again_once_a_minute_at_most() -> None:
    clock = FakeClock()
    server = KeyServer(published("RS256", RSA, "old"))
    reader = served(server, clock)
    assert await reader.caller(good("*", secret=RSA, algorithm="RS256", kid="old"))
    fresh = good("*", secret=SIGNERS["ES256"], algorithm="ES256", kid="new")
    server.keys.append(published("ES256", SIGNERS["ES256"], "new"))
    for _ in range(20):
        await refused(fresh, reader)
    assert server.asked == 1
    clock.skip(REFETCH_SECONDS)
    assert (await reader.caller(fresh)).name == "ann"
    assert server.asked == 2


async def test_the_key_servers_outage_is_survived_and_keys_are_renewed_in_the_background() -> None:
    import asyncio

    clock = FakeClock()
    server = KeyServer(published("RS256", RSA, "one"))
    keys = SigningKeySet(server.fetch, clock)
    reader = Tokens(keys, clock, issuer=ISSUER, audience=AUDIENCE)
    running = asyncio.ensure_future(keys.run())
    await clock.advance(0)
    assert server.asked == 1
    server.down = True
    await clock.advance(REFRESH_SECONDS * 10)
    assert server.asked == 11
    text = good("*", secret=RSA, algorithm="RS256", kid="one", now=clock.time())
    assert (await reader.caller(text)).name == "ann"
    server.down, server.keys = False, []  # a document without keys is a mistake, not a revocation
    await clock.advance(REFRESH_SECONDS)
    assert (await reader.caller(text)).name == "ann"
    running.cancel()


async def test_with_the_key_server_down_from_the_start_nobody_gets_in_and_the_first_moment_it_is_back() -> (
    None
):
    import asyncio

    clock = FakeClock()
    server = KeyServer(published("RS256", RSA, "one"))
    server.down = True
    keys = SigningKeySet(server.fetch, clock)
    running = asyncio.ensure_future(keys.run())
    await clock.advance(0)
    reader = Tokens(keys, clock, issuer=ISSUER, audience=AUDIENCE)
    text = good("*", secret=RSA, algorithm="RS256", kid="one")
    await refused(text, reader)
    server.down = False
    await clock.advance(REFETCH_SECONDS)
    assert (await reader.caller(text)).name == "ann"
    running.cancel()


# Tickets.


def tickets(*secrets: str, clock: FakeClock = CLOCK) -> Tickets:
    return Tickets([secret.encode() for secret in secrets or (SECRET,)], clock)


def somebody(*tasks: str, expires_at: float | None = None) -> Caller:
    from bridge.auth.grants import read_grant

    return Caller(
        name="ann", scopes=frozenset({TokenScope.READ}), tasks=read_grant(list(tasks)), expires_at=expires_at
    )


def test_a_ticket_reads_its_tasks_and_nothing_else() -> None:
    ticket = tickets().mint(somebody("qingbo/*"), [A], 60)
    assert ticket.expires_at == NOW + 60
    caller = tickets().caller(ticket.text)
    assert (caller.name, caller.scopes, caller.expires_at) == ("ann", {TokenScope.READ}, NOW + 60)
    assert (caller.covers(A), caller.covers(B), caller.covers_all_of("qingbo")) == (True, False, False)


def test_a_ticket_ends_with_the_credential_it_was_asked_for_with() -> None:
    assert tickets().mint(somebody("*", expires_at=NOW + 10), [A], 900).expires_at == NOW + 10


def test_a_ticket_is_only_for_tasks_the_caller_may_read() -> None:
    with pytest.raises(Forbidden):
        tickets().mint(somebody("qingbo/a"), [A, B], 60)
    blind = Caller(name="b", scopes=frozenset({TokenScope.SUBMIT}), tasks=None, expires_at=None)
    with pytest.raises(Forbidden):
        tickets().mint(blind, [A], 60)
    with pytest.raises(InvalidRequest):
        tickets().mint(somebody("*"), [TaskKey("qingbo", "*")], 60)
    with pytest.raises(InvalidRequest):
        tickets().mint(somebody("*"), [TaskKey("qingbo", f"{n:0256}") for n in range(200)], 60)


def test_a_ticket_is_good_until_it_expires_to_the_second() -> None:
    clock = FakeClock()
    ticket = tickets(clock=clock).mint(somebody("*"), [A], 60)
    for _ in range(3):
        clock.skip(19)
        assert tickets(clock=clock).caller(ticket.text).name == "ann"
    clock.skip(3)
    with pytest.raises(Unauthenticated):
        tickets(clock=clock).caller(ticket.text)


def test_a_ticket_dies_with_the_key_that_signed_it() -> None:
    ticket = tickets().mint(somebody("*"), [A], 60)
    assert tickets(OTHER_SECRET, SECRET).caller(ticket.text)
    with pytest.raises(Unauthenticated):
        tickets(OTHER_SECRET).caller(ticket.text)


async def test_no_ticket_passes_for_a_token_and_no_token_for_a_ticket() -> None:
    await refused(tickets().mint(somebody("*"), [A], 60).text)
    for text in (good("qingbo/a"), good("qingbo/a", iss="bridge", aud="bridge-ticket")):
        with pytest.raises(Unauthenticated):
            tickets().caller(text)


def test_a_ticket_with_a_pattern_is_none_even_if_it_is_signed() -> None:
    keys = tickets()._keys
    said = claims("qingbo/*", now=NOW, iss="bridge", aud="bridge-ticket")
    with pytest.raises(Unauthenticated):
        tickets().caller(jwt.encode(said, keys[0].key, algorithm="HS256"))


GENUINE = tickets().mint(somebody("*"), [A], 900).text


@given(st.one_of(st.text(), st.text(string.ascii_letters + string.digits + "-_."), st.binary().map(repr)))
def test_no_text_is_a_ticket(text: str) -> None:
    with pytest.raises(Unauthenticated):
        tickets().caller(text)


@given(st.integers(0, len(GENUINE) - 1), st.sampled_from(string.ascii_letters + string.digits + "-_.=%\x00é"))
def test_no_changed_ticket_is_admitted(place: int, mark: str) -> None:
    changed = GENUINE[:place] + mark + GENUINE[place + 1 :]
    try:
        caller = tickets().caller(changed)
    except Unauthenticated:
        return
    # the last mark of base64 holds bits that mean nothing: the signature is the same
    assert changed == GENUINE or place == len(GENUINE) - 1
    assert caller == tickets().caller(GENUINE)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=64))
def test_no_three_parts_of_anything_are_a_ticket(head: bytes, payload: bytes, seal: bytes) -> None:
    with pytest.raises(Unauthenticated):
        tickets().caller(f"{part(head)}.{part(payload)}.{part(seal)}")


json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "sub", "jti", "tasks", "scope"])


@given(st.dictionaries(NAMES, json))
def test_whatever_is_signed_is_understood_or_refused(odd: dict[str, Any]) -> None:
    key = tickets()._keys[0].key
    said = claims("qingbo/a", now=NOW, iss="bridge", aud="bridge-ticket") | odd
    head = part({"alg": "HS256"})
    import json as plain

    signed = f"{head}.{part(plain.dumps(said).encode())}"
    seal = urlsafe_b64encode(hmac.digest(key, signed.encode(), "sha256")).rstrip(b"=").decode()
    try:
        caller = tickets().caller(f"{signed}.{seal}")
    except Unauthenticated:
        return
    assert caller.scopes == {TokenScope.READ}
    assert caller.expires_at is not None
    assert caller.expires_at > NOW


# Where credentials come from.


def connection(method: str = "GET", query: str = "", *, kind: str = "http", **headers: str) -> HTTPConnection:
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope = {
        "type": kind,
        "path": "/",
        "query_string": query.encode(),
        "headers": [(b"host", b"me.example"), *raw],
    }
    return HTTPConnection(scope if kind == "websocket" else scope | {"method": method})


CALLERS = TokenAuth(Origins(["https://app.example", "*"]), CLOCK, tokens(), tickets())
TOKEN = good("*")


async def test_without_auth_nobody_is_asked() -> None:
    open_to_all = NoAuth(CLOCK)
    assert await open_to_all.authenticate(connection(authorization="Bearer nonsense")) is ANONYMOUS
    ANONYMOUS.authorize(TokenScope.ADMIN, [A])
    ANONYMOUS.authorize_upstream(TokenScope.SUBMIT, "qingbo")
    assert open_to_all.ends_at(ANONYMOUS) is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_authorization_header(scheme: str) -> None:
    assert (await CALLERS.authenticate(connection(authorization=f"{scheme} {TOKEN}"))).name == "ann"


@pytest.mark.parametrize(
    "odd",
    [
        connection(),
        connection(authorization="Bearer"),
        connection(authorization="Bearer "),
        connection(authorization=f"Basic {TOKEN}"),
        connection(authorization=TOKEN),
        connection(x_api_key=TOKEN),
        connection(query=f"access_token={TOKEN}"),
        connection(query=f"bridge_token={TOKEN}"),
        connection(cookie=f"token={TOKEN}"),
        connection(cookie="bridge_token="),
        connection(cookie="bridge_token=nonsense"),
    ],
)
async def test_nothing_else_is_a_credential(odd: HTTPConnection) -> None:
    with pytest.raises(Unauthenticated):
        await CALLERS.authenticate(odd, ticket=True)


async def test_two_bearer_tokens_are_none() -> None:
    twice = connection(authorization=f"Bearer {TOKEN}")
    twice.scope["headers"].append((b"authorization", f"Bearer {TOKEN}".encode()))
    with pytest.raises(Unauthenticated):
        await CALLERS.authenticate(twice)


async def test_a_ticket_counts_where_the_route_says_so_only() -> None:
    assert (await CALLERS.authenticate(connection(query=f"ticket={GENUINE}"), ticket=True)).scopes == {
        TokenScope.READ
    }
    for odd in (connection(query=f"ticket={GENUINE}"), connection(authorization=f"Bearer {GENUINE}")):
        with pytest.raises(Unauthenticated):
            await CALLERS.authenticate(odd)
    with pytest.raises(Unauthenticated):
        await CALLERS.authenticate(connection(query=f"ticket={TOKEN}"), ticket=True)
    with pytest.raises(Unauthenticated):
        await TokenAuth(Origins([]), CLOCK, tokens()).authenticate(
            connection(query=f"ticket={GENUINE}"), ticket=True
        )


COOKIE = f"a=b; bridge_token={TOKEN}"


async def test_a_cookie_reads_from_everywhere_and_changes_nothing_for_a_strangers_page() -> None:
    assert (
        await CALLERS.authenticate(connection(cookie=COOKIE, origin="https://evil.example"))
    ).name == "ann"
    ours = (
        {"origin": "https://me.example"},
        {"origin": "https://app.example"},
        {"sec_fetch_site": "same-origin"},
    )
    strange = (
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "https://me.example.evil.example"},
        {"origin": "*"},
        {"origin": "https://["},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "https://evil.example", "sec_fetch_site": "same-origin"},
    )
    for kind, method in (("http", "POST"), ("http", "DELETE"), ("websocket", "")):
        for headers in ours:
            assert await CALLERS.authenticate(connection(method, kind=kind, cookie=COOKIE, **headers))
        for headers in strange:
            with pytest.raises(Forbidden):
                await CALLERS.authenticate(connection(method, kind=kind, cookie=COOKIE, **headers))
            named = connection(method, kind=kind, authorization=f"Bearer {TOKEN}", cookie=COOKIE, **headers)
            assert await CALLERS.authenticate(named), "a header is no cookie: no browser adds it by itself"


def test_the_end_of_a_credential_is_told_by_the_clock_that_only_goes_on() -> None:
    clock = FakeClock(now=5000.0)
    callers = TokenAuth(Origins([]), clock, tokens(clock=clock))
    assert callers.ends_at(somebody("*", expires_at=clock.time() + 30)) == 5030.0
