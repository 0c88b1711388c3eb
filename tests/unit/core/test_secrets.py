"""Whatever a provider makes of a secret, no reader of what is left of its answer finds it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from urllib.parse import quote

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bridge.core.secrets import MASK, MIN_SECRET, SecretMask
from bridge.dialects.lenient import read_json
from tests.fakes.quoting import VALUES, WRITERS, is_found

KEY = "sk-S3cret_of/ours+0123456789=="
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=",
    "0123456789abcdef",
    "nrtbfu/x0123456789-.~!$*()'\"<>",
)
keys = st.sampled_from(_ALPHABETS).flatmap(lambda some: st.text(some, min_size=12, max_size=60))
around = st.text("abc :/&%\\\"'éλ\n", max_size=4)


PLACES: dict[str, Callable[[str], str]] = {
    "value": lambda text: f'{{"id":"t","debug":{text},"n":1.50}}',
    "key": lambda text: f'{{"id":"t",{text}:true,"n":1.50}}',
    "deep": lambda text: f'{{"id":"t","a":[[{{"b":[1,{text},null]}}]],\n  "n":1.50}}',
}


@given(
    key=keys,
    value=st.sampled_from(sorted(VALUES)),
    writer=st.sampled_from(sorted(WRITERS)),
    place=st.sampled_from(sorted(PLACES)),
    before=around,
    after=around,
)
@example(key="nabcdefgh-1234", value="plain", writer="utf-8", place="value", before="\\", after="\n")
@example(key="nabcdefgh-1234", value="base64 of key:", writer="python", place="value", before="\n", after="")
@example(key="abcdef0123456789", value="plain", writer="python", place="key", before="%", after="%")
@example(key="B00000000000", value="html, decimal", writer="python", place="value", before="λ\\", after="")
@example(key="000000000000", value="plain", writer="one escaped", place="value", before="%", after="")
def test_a_secret_is_in_no_reading_of_what_is_left_and_the_rest_stays(
    key: str, value: str, writer: str, place: str, before: str, after: str
) -> None:
    text = PLACES[place](WRITERS[writer](before + VALUES[value](key) + after))
    assume(is_found(key, text) or value in ("upper case", "lower case", "JavaScript", "list of codes"))
    left = SecretMask([key])(text.encode())
    assert not is_found(key, left.decode())
    document = orjson.loads(left)
    assert (document["id"], document["n"]) == ("t", 1.5)
    assert list(document) == list(json.loads(text)) or place == "key"


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("writer", WRITERS)
def test_every_form_is_masked_in_place(value: str, writer: str) -> None:
    text = PLACES["value"](WRITERS[writer](f"used {VALUES[value](KEY)} here"))
    left = orjson.loads(SecretMask([KEY])(text.encode()))["debug"]
    assert left.startswith("used")
    assert left.endswith("here")
    assert MASK.decode() in left or value == "list of codes"
    assert KEY.lower() not in left.lower()


@given(keys, st.sampled_from(["utf-16", "utf-16-le", "utf-16-be", "utf-32"]))
def test_other_unicode_encodings_stay_readable(key: str, encoding: str) -> None:
    body = json.dumps({"id": "t", "debug": f"key {key}"}).encode(encoding)
    text = read_json(SecretMask([key])(body))
    assert text is not None
    assert not is_found(key, text.raw.decode())
    assert isinstance(text.document, dict)
    assert text.document["id"] == "t"


def test_a_secret_that_is_a_number_leaves_a_document() -> None:
    mask = SecretMask(["1234567890123"])
    left = orjson.loads(mask(b'{"a": 1234567890123, "b": [1234567890123, 5], "c": "1234567890123"}'))
    assert "1234567890123" not in str(left)
    codes = ",".join(str(code) for code in KEY.encode())
    assert orjson.loads(SecretMask([KEY])(f'{{"data": [{codes}]}}'.encode())) == {"data": [1]}


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=40),
    lambda some: st.lists(some, max_size=4) | st.dictionaries(st.text(max_size=9), some, max_size=4),
    max_leaves=12,
)


@given(_json)
def test_a_body_without_a_secret_stays_the_same_object(document: object) -> None:
    body = json.dumps(document).encode()
    assert SecretMask([KEY])(body) is body


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_bytes_of_any_kind_are_taken(body: bytes, more: bytes) -> None:
    mask = SecretMask([KEY])
    assert mask(body) is body
    assert KEY.encode() not in mask(body + KEY.encode() + more)


def test_a_short_secret_is_left_out() -> None:
    short = "a" * (MIN_SECRET - 1)
    for secret in ("", "k", "test-ke", short):
        body = f'{{"a": "{secret} test-key"}}'.encode()
        assert SecretMask([secret])(body) is body


def test_the_parts_of_a_pair_are_secrets_unless_they_may_be_words() -> None:
    mask = SecretMask(["AK1234567890:sk-of-the-pair", "processing:another-secret"])
    assert mask(b"AK1234567890 sk-of-the-pair another-secret processing") == b"*** *** *** processing"
    basic = b64encode(b"AK1234567890:sk-of-the-pair")
    assert mask(b"Basic " + basic) == b"Basic ***"


def test_secrets_can_be_added_and_the_longest_counts() -> None:
    mask = SecretMask(["secret-1"])
    mask.add("secret-1-and-more")
    assert mask(b"x secret-1-and-more x") == b"x *** x"
    more = mask.with_more(["another-secret"])
    assert more(b"secret-1, another-secret") == b"***, ***"
    assert mask(b"another-secret") == b"another-secret"


def test_an_endless_number_of_escapes_is_no_endless_trace() -> None:
    body = KEY.encode() + b"%41" * 300_000
    assert SecretMask([KEY])(body) == MASK


def test_text_with_characters_beyond_ascii() -> None:
    mask = SecretMask(["schlüssel-für-uns"])
    for form in ("schlüssel-für-uns", quote("schlüssel-für-uns"), json.dumps("schlüssel-für-uns")):
        assert "ssel" not in mask.text(f"ein {form} \ud800 bleibt")


@pytest.mark.parametrize("before", ["", "x", "xy", "Bearer "])
def test_base64_of_utf_16_is_masked(before: str) -> None:
    key = "sk-secret/of+16-bits"
    quoted = b64encode(f"{before}{key} and more".encode("utf-16-le")).decode()
    shown = SecretMask([key])(f'{{"message":"{quoted}"}}'.encode())
    assert b"***" in shown
    assert len(shown) < len(quoted)
