"""Whatever a provider makes of a secret, no reader of what is left of its answer finds it."""

from __future__ import annotations

import binascii
import html
import json
import re
from base64 import b64decode, b64encode, encodebytes, urlsafe_b64encode
from collections.abc import Callable, Iterator
from urllib.parse import quote, unquote

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from bridge.core.secrets import MASK, MIN_SECRET, SecretMask
from bridge.dialects.lenient import read_json

KEY = "sk-S3cret_of/ours+0123456789=="
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=",
    "0123456789abcdef",
    "nrtbfu/x0123456789-.~!$*()'\"<>",
)
keys = st.sampled_from(_ALPHABETS).flatmap(lambda some: st.text(some, min_size=12, max_size=60))
around = st.text("abc :/&%\\\"'éλ\n", max_size=4)


def _each(write: Callable[[int], str]) -> Callable[[str], str]:
    return lambda text: "".join(write(ord(character)) for character in text)


VALUES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper case": str.upper,
    "lower case": str.lower,
    "percent, where needed": lambda text: quote(text, safe=""),
    "percent, each": _each("%{:02X}".format),
    "percent, lower case": _each("%{:02x}".format),
    "percent, twice": lambda text: quote(quote(text, safe=""), safe=""),
    "html, decimal": _each("&#{};".format),
    "html, hex": _each("&#x{:x};".format),
    "html, long": _each("&#X{:06X};".format),
    "html, where needed": html.escape,
    "html, twice": lambda text: html.escape(html.escape(text + "'")),
    "JSON in it": json.dumps,
    "JSON in JSON in it": lambda text: json.dumps(json.dumps({"key": text})),
    "JavaScript": _each("\\x{:02x}".format),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "base64, no padding": lambda text: b64encode(text.encode()).decode().rstrip("="),
    "base64, url-safe": lambda text: urlsafe_b64encode(text.encode()).decode(),
    "base64 of key:": lambda text: b64encode(f"{text}:".encode()).decode(),
    "base64 of :key": lambda text: "Basic " + b64encode(f":{text}".encode()).decode(),
    "base64 of user:key": lambda text: "Basic " + urlsafe_b64encode(f"me:{text}".encode()).decode(),
    "base64 of a header": lambda text: b64encode(f"Bearer {text}\r\n".encode()).decode(),
    "base64 of JSON": lambda text: b64encode(json.dumps({"k": text}).encode()).decode(),
    "base64 of a query": lambda text: b64encode(f"k={quote(text, safe='')}&x".encode()).decode(),
    "base64, in lines": lambda text: encodebytes(f"{text} {text}".encode()).decode(),
    "base64, quoted": lambda text: quote(b64encode(text.encode()).decode(), safe=""),
    "hex": lambda text: text.encode().hex(),
    "hex, upper case": lambda text: text.encode().hex().upper(),
    "list of codes": lambda text: json.dumps(list(text.encode())),
}
"""What a value of a document can be made of a secret."""

_WORD = re.compile(r"[\w-]+", re.ASCII)


def _all_escaped(text: str) -> str:
    return '"' + _each("\\u{:04x}".format)(text) + '"' if text.isascii() else json.dumps(text)


def _one_escaped(text: str) -> str:
    """One letter of each word, as if to evade a search."""
    dumped = json.dumps(text)
    return (
        _WORD.sub(
            lambda word: (
                word[0][:4] + f"\\u{ord(word[0][4]):04x}" + word[0][5:] if len(word[0]) > 8 else word[0]
            ),
            dumped,
        )
        if "\\" not in dumped
        else dumped
    )


WRITERS: dict[str, Callable[[str], str]] = {
    "python": json.dumps,
    "utf-8": lambda text: json.dumps(text, ensure_ascii=False),
    "slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "dotnet": lambda text: re.sub(r"[+&'<>]", lambda one: f"\\u{ord(one[0]):04X}", json.dumps(text)),
    "all escaped": _all_escaped,
    "one escaped": _one_escaped,
}
"""How a JSON document can write a string."""

PLACES: dict[str, Callable[[str], str]] = {
    "value": lambda text: f'{{"id":"t","debug":{text},"n":1.50}}',
    "key": lambda text: f'{{"id":"t",{text}:true,"n":1.50}}',
    "deep": lambda text: f'{{"id":"t","a":[[{{"b":[1,{text},null]}}]],\n  "n":1.50}}',
}


def readings(text: str, depth: int = 3) -> Iterator[str]:
    """What a reader can make of a text."""
    yield text
    if not depth:
        return
    made = {unquote(text), html.unescape(text)}
    for token in re.finditer(r'"(?:[^"\\]|\\.)*"', text):
        try:
            made.add(json.loads(token[0], strict=False))
        except ValueError:
            continue
    for run in re.finditer(r"[\w+/-]{10,}", text.replace("\n", ""), re.ASCII):
        coded = run[0].replace("-", "+").replace("_", "/")
        try:
            made.add(b64decode(coded + "=" * (-len(coded) % 4)).decode("latin-1"))
        except binascii.Error:
            continue
    for one in made - {text}:
        yield from readings(one, depth - 1)


def is_found(key: str, text: str) -> bool:
    return any(key in one or key.encode().hex() in one.lower() for one in readings(text))


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
