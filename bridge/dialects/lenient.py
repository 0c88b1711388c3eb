"""Reads a provider's JSON: strictly, and where that fails as the usual parsers of its clients do.

A task echoes prompts and logs, so one lone surrogate, a NaN or a byte of another charset would make its end
unreadable for good. The second reading accepts what common parsers accept: JavaScript and Go surrogates and
bytes that are not UTF-8, Python NaN, control characters and text after the document. Trailing commas,
comments, single quotes and text before the document stay errors: no common parser takes them.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

MAX_UNFOLDED = 3
MAX_VALUES = 200_000
_COUNTED_BLOCK = 1024 * 1024
_MAX_DIGITS = 400  # a float has at most 309 before its point
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
# Charsets that are named in practice, by their names in Python; a header must not choose a codec such as
# `zip` or `unicode_escape`.
_CHARSETS = frozenset(
    {
        *("gbk", "gb2312", "gb18030", "big5", "big5hkscs", "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949"),
        *("koi8-r", "iso8859-1", "iso8859-2", "iso8859-9", "iso8859-15", "cp874", "tis-620"),
        *(f"cp{number}" for number in range(1250, 1259)),
        *("utf-16", "utf-16-le", "utf-16-be", "utf-32"),
    }
)
# Names that browsers know (WHATWG's labels) and Python does not.
_LABELS = {
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j", "ms_kanji"), "cp932"),
    "windows-949": "cp949",
    "windows-874": "cp874",
    "x-gbk": "gbk",
    "gb_2312-80": "gb2312",
    "x-x-big5": "big5",
}
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_GUARD = re.compile(r"\)\]\}',?")  # a prefix of documents, so that no page can load them as a script
_LEADING = "\ufeff\x00 \t\r\n\v\f\x85\xa0"
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # the only way a surrogate gets into a decoded text
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class JsonText:
    """A JSON document and its text.

    Args:
        raw: The text, valid JSON in UTF-8: as it came where it was valid.
        lenient: Strict JSON does not allow the text as it came.
    """

    document: object
    raw: bytes
    lenient: bool


def read_json(body: bytes, content_type: str = "") -> JsonText | None:
    """The object or array in a body; None for anything else, however deep, wide or broken.

    Args:
        content_type: Its charset counts where the body is not Unicode.
    """
    if has_too_many_values(body):
        return None
    try:
        document = orjson.loads(body)
    except (ValueError, RecursionError):
        return _read_leniently(body, content_type)
    if isinstance(document, str):
        return _read_leniently(document.encode(), "")  # JSON in a string
    return JsonText(document, body, lenient=False) if isinstance(document, dict | list) else None


def has_too_many_values(body: bytes) -> bool:
    """Whether a text has so many commas and brackets that parsing it would hold up the event loop.

    A document of 32 MB may be one picture, which is parsed in milliseconds, or millions of empty objects,
    which take seconds and 700 MB. Base64 has none of these characters.
    """
    if len(body) <= MAX_VALUES:
        return False
    left = MAX_VALUES
    for at in range(0, len(body), _COUNTED_BLOCK):
        end = at + _COUNTED_BLOCK
        left -= body.count(b",", at, end) + body.count(b"[", at, end) + body.count(b"{", at, end)
        if left < 0:
            return True
    return False


def read_text(text: str) -> object:
    """The object or array that a whole text is, read leniently where it must be; None for anything else.

    Nothing may follow it: a sentence that begins with `[1]` is a sentence.
    """
    try:
        document = orjson.loads(text)
    except (ValueError, RecursionError):
        try:
            document = _mended(_DECODER.decode(text))
        except (ValueError, RecursionError):
            return None
    return document if isinstance(document, dict | list) else None


def write_json(document: object) -> bytes:
    """JSON text of a document that `read_json` could have read, of any depth.

    Raises:
        ValueError: It is nested deeper than any usual parser reads.
    """
    try:
        return orjson.dumps(document)  # to a depth of 254
    except TypeError:
        pass
    try:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _read_leniently(body: bytes, content_type: str) -> JsonText | None:
    for text in _texts(body, content_type):
        document = _decoded(text)
        if document is None:
            continue
        halves = _ESCAPED_HALF.search(text) is not None
        del text  # as large as the body, or larger
        try:
            if halves:
                document = _mended(document)
            return JsonText(document, write_json(document), lenient=True)
        except ValueError:
            return None
    return None


def _decoded(text: str) -> object:
    """The first object or array in a text; what follows it does not count."""
    for _ in range(MAX_UNFOLDED):
        text = text.lstrip(_LEADING)
        guard = _GUARD.match(text)
        if guard:
            text = text[guard.end() :].lstrip(_LEADING)
        if text[:1] not in ("{", "[", '"'):
            return None
        try:
            document, _ = _DECODER.raw_decode(text)
        except (ValueError, RecursionError):
            return None
        if isinstance(document, dict | list):
            return document
        text = document
    return None


def _texts(body: bytes, content_type: str) -> Iterator[str]:
    """The body as text, the likeliest reading first."""
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            yield body[len(mark) :].decode(encoding, "replace")
    wide = _wide_encoding(body[:8])
    if wide is not None:
        yield body.decode(wide, "replace")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        yield from _texts_of_a_charset(body, content_type)
    else:
        yield text


def _texts_of_a_charset(body: bytes, content_type: str) -> Iterator[str]:
    charset = _charset(content_type)
    if charset is not None:
        yield body.decode(charset, "replace")
    yield body.decode(errors="replace")
    # The second byte of a character may be a backslash in GBK, which UTF-8 takes for the escape of a quote.
    yield body.decode("gb18030", "replace")


def _charset(content_type: str) -> str | None:
    named = _CHARSET.search(content_type)
    if named is None:
        return None
    label = named[1].lower()
    try:
        name = codecs.lookup(_LABELS.get(label, label)).name
    except LookupError:
        return None
    return name if name in _CHARSETS else None


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 by the zeros around the first two characters, which are ASCII in JSON."""
    zeros = tuple(byte == 0 for byte in head)
    if zeros == (True, True, True, False) * 2:
        return "utf-32-be"
    if zeros == (False, True, True, True) * 2:
        return "utf-32-le"
    if zeros[:4] == (True, False) * 2:
        return "utf-16-be"
    return "utf-16-le" if zeros[:4] == (False, True) * 2 else None


def _mended(document: object) -> object:
    """The document with every string valid Unicode, so that its text can be written."""
    waiting = [document]
    while waiting:  # a stack of its own: deep nesting must not become a RecursionError
        node = waiting.pop()
        if isinstance(node, dict):
            if not all(key.isascii() for key in node):
                mended = {_unicode(key): value for key, value in node.items()}
                node.clear()
                node.update(mended)
            places: Iterable[tuple[Any, object]] = list(node.items())
        elif isinstance(node, list):
            places = enumerate(node)
        else:
            continue
        for place, value in places:
            if isinstance(value, str):
                if not value.isascii():
                    node[place] = _unicode(value)
            elif isinstance(value, dict | list):
                waiting.append(value)
    return document


def _unicode(text: str) -> str:
    """The text with two halves of a surrogate pair joined, and a lone one replaced."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _integer(digits: str) -> int | float | None:
    if len(digits) > _MAX_DIGITS:
        return None  # also: int() takes quadratic time, and refuses 4,301 digits
    value = int(digits)
    return value if -(2**63) <= value < 2**64 else _float(digits)


def _float(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


_NONE: dict[str, None] = {}  # its `get` is faster than a function of ours: there may be millions
_DECODER = json.JSONDecoder(strict=False, parse_constant=_NONE.get, parse_int=_integer, parse_float=_float)
