"""A credential no template can say."""

import hashlib
import hmac
import math
from base64 import urlsafe_b64decode

import orjson
import pytest

from bridge.dialects.credentials import HOOKS, check_key, kling_jwt
from bridge.dialects.registry import load_document
from bridge.errors import ConfigError, InvalidRequest

SMALLEST = {
    "base_url": "https://x.example",
    "calls": {"status": {"path": "/t/{task_id}"}},
    "status": {"at": "status"},
}


def decoded(part):
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def test_klings_token_says_who_until_when_and_is_sealed_with_the_secret_half():
    minted = kling_jwt("ak:s:k", 1_800_000_000.9)
    head, claims, seal = minted.value.split(".")
    assert orjson.loads(decoded(head)) == {"alg": "HS256", "typ": "JWT"}
    assert orjson.loads(decoded(claims)) == {"iss": "ak", "exp": 1_800_001_800, "nbf": 1_799_999_995}
    assert decoded(seal) == hmac.new(b"s:k", f"{head}.{claims}".encode(), hashlib.sha256).digest()
    assert minted.expires_at == 1_800_001_800
    assert "=" not in minted.value


def test_a_token_does_not_show_itself():
    minted = kling_jwt("ak:sk", 0)
    assert minted.value not in repr(minted)


@pytest.mark.parametrize("key", ["sk-relay", "0123456789abcdef", "a.b.c"])
def test_a_relays_key_without_a_colon_is_the_credential_and_does_not_expire(key):
    minted = kling_jwt(key, 1_800_000_000.0)
    assert minted.value == key
    assert minted.expires_at == math.inf


@pytest.mark.parametrize("key", ["", ":", "ak:", ":sk"])
def test_a_key_with_an_empty_half_is_refused_and_not_repeated(key):
    with pytest.raises(InvalidRequest) as caught:
        kling_jwt(key, 0)
    assert str(caught.value) == "the key must be access_key:secret_key, or a relay's key without a colon"


def test_a_hook_nobody_knows_is_a_mistake():
    with pytest.raises(ConfigError) as caught:
        load_document({**SMALLEST, "auth": {"hook": "kling-jwtt"}}, "made-up")
    assert caught.value.errors == [
        f"dialect made-up: auth.hook: 'kling-jwtt' is not one of {', '.join(HOOKS)}"
    ]


def test_what_a_hook_makes_takes_the_place_of_the_key():
    bare = load_document({**SMALLEST, "auth": {"hook": "kling-jwt"}}, "made-up")
    assert bare.auth_headers("token") == {"Authorization": "Bearer token"}
    own = {"hook": "kling-jwt", "headers": {"X-Token": "{api_key}"}}
    assert load_document({**SMALLEST, "auth": own}, "made-up").auth_headers("token") == {"X-Token": "token"}


def test_a_key_is_checked_before_anything_starts():
    hooked = load_document({**SMALLEST, "auth": {"hook": "kling-jwt"}}, "made-up")
    plain = load_document({**SMALLEST, "auth": {"headers": {"X-Key": "{api_key}"}}}, "made-up")
    check_key(hooked, "ak:sk")
    check_key(plain, "anything")
    check_key(hooked, "a-relays-key")
    for dialect, key in ((hooked, "anything:"), (hooked, "a\nb"), (plain, "a\nb")):
        with pytest.raises(InvalidRequest):
            check_key(dialect, key)
