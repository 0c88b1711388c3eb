"""A credential that ends is made anew before it does."""

import pytest

from bridge.core.secrets import MASK
from bridge.dialects.registry import load_document, load_preset
from bridge.errors import InvalidRequest
from bridge.sources.credentials import credential_of
from tests.fakes.clock import FakeClock

KLING = load_document(
    {
        "base_url": "https://x.example",
        "auth": {"hook": "kling-jwt"},
        "calls": {"status": {"path": "/t/{task_id}"}},
        "status": {"at": "status"},
    },
    "kling",
)


def test_a_key_that_stays_is_filled_in_once():
    credential = credential_of(load_preset("qingbo"), "k", FakeClock())
    assert credential.headers() == {"Authorization": "Bearer k"}
    assert credential.headers() is credential.headers()


def test_without_a_key_there_is_no_credential():
    assert credential_of(load_preset("qingbo"), "", FakeClock()).headers() == {}
    assert credential_of(KLING, "", FakeClock()).headers() == {}


def test_a_token_is_kept_and_renewed_minutes_before_its_end():
    clock = FakeClock()
    credential = credential_of(KLING, "ak:sk", clock)
    first = credential.headers()
    clock.skip(1499)
    assert credential.headers() is first
    clock.skip(1)
    second = credential.headers()
    assert second != first
    clock.skip(1400)
    assert credential.headers() is second


def test_neither_the_key_nor_a_token_on_its_way_is_left_in_an_answer():
    clock = FakeClock()
    credential = credential_of(KLING, "ak:sk-of-ours", clock)
    tokens = []
    for _ in range(2):
        tokens.append(credential.headers()["Authorization"].removeprefix("Bearer "))
        clock.skip(1500)
    quoted = " ".join(["ak:sk-of-ours", *tokens, "eyJhbGciOi.of.others"]).encode()
    assert credential.hide(quoted) == b"*** *** *** eyJhbGciOi.of.others"


def test_a_clock_that_was_set_back_makes_a_new_token():
    clock = FakeClock()
    credential = credential_of(KLING, "ak:sk", clock)
    first = credential.headers()
    clock.skip(-3600)
    assert credential.headers() != first


def test_a_malformed_key_is_told_at_the_start():
    with pytest.raises(InvalidRequest):
        credential_of(KLING, "only-one-half:", FakeClock())


def test_a_relays_static_key_is_sent_as_it_is_for_good():
    clock = FakeClock()
    credential = credential_of(KLING, "sk-of-a-relay", clock)
    first = credential.headers()
    assert first == {"Authorization": "Bearer sk-of-a-relay"}
    clock.skip(10 * 24 * 3600)
    assert credential.headers() == first
    assert credential.hide(b"no key sk-of-a-relay") == b"no key " + MASK


def test_a_short_static_key_hides_nothing_of_a_body():
    credential = credential_of(KLING, "k", FakeClock())
    credential.headers()
    assert credential.hide(b"kling") == b"kling"


def test_no_secret_shows_in_what_a_log_could_print():
    credential = credential_of(KLING, "ak:sk-secret", FakeClock())
    credential.headers()
    assert "sk-secret" not in repr(credential)
