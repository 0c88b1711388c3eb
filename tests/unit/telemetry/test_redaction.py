"""Nothing secret leaves in a text, whoever wrote it."""

from __future__ import annotations

import base64

import pytest

from bridge.telemetry.redaction import MASK, Redaction

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJlLW1hcmtlcg"
SECRET = "s3cret-marker-value"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization={SECRET}",
        f"{{'Authorization': 'Key {SECRET}'}}",
        f'{{"authorization": "Basic {SECRET}"}}',
        f"[(b'authorization', b'Bearer {SECRET}'), (b'host', b'x')]",
        f"(b'x-api-key', b'{SECRET}')",
        f"Cookie: a=b; bridge_token={SECRET}",
        f"set-cookie: bridge_token={SECRET}; Path=/",
        f"sent bearer {SECRET} and was refused",
        f"a token {JWT} nobody knows",
        f"GET /v1/ws?ticket={SECRET} HTTP/1.1",
        f"/v1/events?task=a/1&ticket={SECRET}&x=1",
        f"/v1/x?access_token={SECRET}",
        f"https://cdn.example/v.mp4?Expires=1&Signature={SECRET}",
        f"https://cdn.example/v.mp4?x-anything-at-all={SECRET}",
        f"wss://host/path?q={SECRET}#part",
        f"https://cdn.example/page#{SECRET}",
        f"cannot connect to https://user:{SECRET}@provider.example/v1",
        f"POST /v1/callbacks/qingbo/{SECRET} 401",
    ],
)
def test_what_looks_like_a_credential_is_hidden(text: str) -> None:
    said = Redaction()(text)
    assert SECRET not in said
    assert JWT not in said
    assert MASK in said


def test_what_is_no_secret_stays() -> None:
    for text in [
        "look failed",
        "qingbo/task-wave1775285160b950328499",
        "the journal /data/bridge.db cannot be written: no space left on device",
        "the keys for tokens cannot be had",
        "https://provider.example/v1/tasks/a%2Fb answered 500",
        "2026-11-22T05:38:11.000Z 127.0.0.1:8080",
        "a = b, c: d? yes",
    ]:
        assert Redaction([SECRET])(text) == text


def test_of_an_address_everything_but_the_query_stays() -> None:
    said = Redaction()("GET https://cdn.example/v.mp4?Signature=abc failed")
    assert said == f"GET https://cdn.example/v.mp4?{MASK} failed"


@pytest.mark.parametrize(
    "secret", ["plain-secret-1", 'with "quotes" and \\', "ünïcode-secret", "a/b+c=d&e f-long"]
)
def test_what_the_configuration_calls_secret_is_hidden_in_every_shape(secret: str) -> None:
    from urllib.parse import quote

    redact = Redaction([secret, "another-secret"])
    for shape in (secret, quote(secret, safe=""), repr(secret), repr([secret])):
        said = redact(f"it said {shape} and left")
        assert secret not in said
        assert shape not in said
        assert MASK in said


def test_the_parts_of_a_pair_are_secret_too() -> None:
    assert "secret-part-1" not in Redaction(["access-part:secret-part-1"])("signed with secret-part-1")


def test_the_longest_secret_goes_first_so_that_no_tail_of_it_stays() -> None:
    assert Redaction(["secret-1", "secret-1-and-more"])("x secret-1-and-more x") == f"x {MASK} x"


def test_a_secret_too_short_to_be_one_does_not_eat_ordinary_words() -> None:
    assert Redaction(["x", "", "test"])("the test took x seconds") == "the test took x seconds"


def test_a_long_line_costs_no_long_time() -> None:
    redact = Redaction([SECRET])
    for part in (
        "a",
        "http://",
        "http://a/b",
        "bearer ",
        "?key=",
        "?",
        "eyJ",
        "-eyJ",
        "eyJ.",
        "/v1/callbacks/",
        "cookie",
    ):
        redact(part * (100_000 // len(part)))  # a rule that backtracks would not come to an end


def test_bytes_that_are_no_text_are_no_trouble() -> None:
    assert Redaction()(base64.b64encode(bytes(range(256))).decode())
