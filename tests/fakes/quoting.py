"""What a provider can make of a key it quotes, and what a reader can make of that."""

from __future__ import annotations

import binascii
import html
import json
import re
from base64 import b64decode, b64encode, encodebytes, urlsafe_b64encode
from collections.abc import Callable, Iterator
from urllib.parse import quote, unquote


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
