"""Masks known secrets in bytes from outside, in any encoding in which they were quoted.

A provider that quotes our key knows JSON, URLs, HTML, headers and base64, and mixes them. So a secret is not
searched for in each mixture. The text is folded (lower case, one alphabet of base64, no white space), then
unescaped step by step, and the text of each step is searched for a few fixed strings. Only after a hit its
place in the original bytes is computed.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from html.entities import html5
from urllib.parse import quote, quote_plus

MASK = b"***"
MIN_SECRET = 8
"""A shorter one is a test key, and may be a word of any document."""

_MAX_ROUNDS = 4  # escapes within escapes: a JSON text in a JSON string doubles its backslashes
_MAX_UNITS = 200_000  # escapes in one text, after a hit: their places are kept in memory
_WINDOW = 1024 * 1024
_OVERLAP = 64 * 1024  # more than any escaped secret takes, blanks left out
_BLANK = bytes([*range(0x21), 0x7F])
# `-` and `_` are `+` and `/` in the URL-safe alphabet of base64.
_FOLDED = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ-_", b"abcdefghijklmnopqrstuvwxyz+/")
# All patterns are for folded text.
_BLANKS = re.compile(rb"[\x00-\x20\x7f]+")
_BACKSLASH = re.compile(
    rb"\\(?:u00([0-9a-f]{2})|x([0-9a-f]{2})|u\{0*([0-9a-f]{2})\}|([\\/\"'bfnrtv]))"  # JSON, JavaScript
)
_ENTITY = re.compile(  # `&amp;amp;` is `&` escaped twice
    rb"&(?:amp;)*(?:#x0*([0-9a-f]{1,2})(?![0-9a-f]);?|#0*([0-9]{1,3})(?![0-9]);?|([a-z]{2,16});)"
)
_PERCENT = re.compile(rb"%(?:25)*([0-9a-f]{2})")  # `%2525` is `%` quoted twice
_PARTS = frozenset(bytes([byte]) for byte in b"\\%&#;{}abcdefghijklmnopqrstuvwxyz0123456789")
"""What an escape can consist of."""
_NOT_ZERO = re.compile(rb"[^\x00]")
_NUMBERS = re.compile(rb"[0-9,\s]+")


def _fold(text: bytes) -> bytes:
    return text.translate(_FOLDED, _BLANK)


_ENTITIES = {
    name.rstrip(";").lower().encode(): _fold(text.encode())
    for name, text in html5.items()
    if len(text) == 1 and text.isascii()
}


class SecretMask:
    """Masks a set of secrets.

    Args:
        secrets: Each, and the parts of a pair `name:secret`; those shorter than `MIN_SECRET` bytes, and names
            that may be words, are left out.
        mask: Replaces a secret.
    """

    __slots__ = ("_coded", "_mask", "_needles", "_plain", "_secrets")

    def __init__(self, secrets: Iterable[str] = (), mask: bytes = MASK) -> None:
        self._mask = mask
        self._secrets: set[str] = set()
        self._plain: list[bytes] = []
        self._coded: dict[bytes, tuple[int, int]] = {}
        self._needles: list[bytes] = []
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Mask these as well."""
        new = {part for secret in secrets for part in _parts(secret)} - self._secrets
        if not new:
            return
        self._secrets |= new
        plain, coded = set(self._plain), dict(self._coded)
        for secret in new:
            plain |= _plain_forms(secret)
            coded |= _base64_forms(secret)
        self._plain, self._coded = sorted(plain), coded
        self._needles = sorted({*plain, *coded}, key=len)

    def with_more(self, secrets: Iterable[str]) -> SecretMask:
        """A mask for these secrets as well."""
        return SecretMask((*self._secrets, *secrets), self._mask)

    def __call__(self, body: bytes) -> bytes:
        """The body with its secrets masked; the same object where it has none.

        Valid JSON stays valid: a mask takes the place of whole escapes, and of a number it is one.
        """
        return self._masked(body, self._stand_in) if self._needles and self._shows(body) else body

    def text(self, text: str) -> str:
        """The same for text."""
        body = text.encode("utf-8", "surrogatepass")
        if not self._needles or not self._shows(body):
            return text
        return self._masked(body, lambda _: self._mask).decode("utf-8", "replace")

    def _shows(self, body: bytes) -> bool:
        if len(body) < len(self._needles[0]):
            return False  # and no step makes it longer: most headers
        text = _fold(body)
        if self._is_in(text):
            return True
        # In windows: unescaping takes thirty times the memory of what it unescapes.
        windows = range(0, max(len(text) - _OVERLAP, 1), _WINDOW - _OVERLAP)
        return any(self._shows_escaped(text[at : at + _WINDOW]) for at in windows)

    def _shows_escaped(self, text: bytes) -> bool:
        for _ in range(_MAX_ROUNDS):
            made: set[bytes] = set()
            for mark, pattern, decoded in _ESCAPES:
                if mark not in text:
                    continue
                new: set[bytes] = set()
                text = pattern.sub(partial(_noted, new, decoded), text)
                if new and self._is_in(text):
                    return True
                made |= new
            if made.isdisjoint(_PARTS):
                # Most documents: a few escaped slashes or quotes, of which no other escape can be made.
                return False
        return False

    def _is_in(self, text: bytes) -> bool:
        size = len(text)
        for needle in self._needles:
            if len(needle) > size:
                return False  # the others are longer
            if needle in text:
                return True
        return False

    def _stand_in(self, quoted: bytes) -> bytes:
        if _NUMBERS.fullmatch(quoted):
            return b"1"  # or a list of character codes: without quotes, `***` would break the document
        # In UTF-16 and UTF-32 the zeros stay where they are.
        return _NOT_ZERO.sub(b"*", quoted) if b"\x00" in quoted else self._mask

    def _masked(self, body: bytes, stand_in: Callable[[bytes], bytes]) -> bytes:
        blanks = _Step(_BLANKS, _nothing, body.translate(_FOLDED))
        steps = [blanks]
        text = blanks.text
        spans: list[tuple[int, int]] = []
        for _, pattern, decoded in _ESCAPES * _MAX_ROUNDS:
            step = _Step(pattern, decoded, text)
            if step.is_too_long or blanks.is_too_long:
                return self._mask  # no document has that many; nothing of it is shown
            for hit in self._hits(text):
                span = step.whole(hit)
                for earlier in reversed(steps):
                    span = earlier.traced_back(span)
                spans.append(_with_whole_escapes(body, *span))
            steps.append(step)
            text = step.text
        parts: list[bytes] = []
        at = 0
        for start, end in _joined(spans):
            parts += (body[at:start], stand_in(body[start:end]))
            at = end
        return b"".join((*parts, body[at:]))

    def _hits(self, text: bytes) -> Iterable[tuple[int, int]]:
        for needle in self._plain:
            start = text.find(needle)
            while start >= 0:
                yield start, start + len(needle)
                start = text.find(needle, start + 1)
        for needle, (before, after) in self._coded.items():
            start = text.find(needle)
            while start >= 0:
                end = min(start + len(needle) + after, len(text))
                while text[end : end + 1] == b"=":
                    end += 1
                yield max(start - before, 0), end
                start = text.find(needle, start + 1)


@dataclass(slots=True)
class _Step:
    """One step from a text to a plainer one, which can be traced back.

    Attributes:
        text: The plainer text.
        is_too_long: There are more than `_MAX_UNITS` places, and `text` is empty.
    """

    pattern: re.Pattern[bytes]
    decoded: Callable[[re.Match[bytes]], bytes]
    source: bytes
    text: bytes = field(init=False, default=b"")
    is_too_long: bool = field(init=False, default=False)
    _starts: list[int] = field(init=False, default_factory=list)
    _ends: list[int] = field(init=False, default_factory=list)
    _new_starts: list[int] = field(init=False, default_factory=list)
    _new_ends: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        parts: list[bytes] = []
        at = size = 0
        for match in self.pattern.finditer(self.source):
            if len(self._starts) == _MAX_UNITS:
                self.is_too_long = True
                return
            start, end = match.span()
            new = self.decoded(match)
            size += start - at
            self._starts.append(start)
            self._ends.append(end)
            self._new_starts.append(size)
            size += len(new)
            self._new_ends.append(size)
            parts += (self.source[at:start], new)
            at = end
        self.text = b"".join((*parts, self.source[at:]))

    def whole(self, span: tuple[int, int]) -> tuple[int, int]:
        """A span of the source, so that it cuts no escape in half."""
        start, end = span
        first = bisect_right(self._starts, start) - 1
        if first >= 0 and start < self._ends[first]:
            start = self._starts[first]
        last = bisect_right(self._starts, end - 1) - 1
        if last >= 0 and end - 1 < self._ends[last]:
            end = self._ends[last]
        return start, end

    def traced_back(self, span: tuple[int, int]) -> tuple[int, int]:
        """The span of the source that a span of the plainer text was made of."""
        start, end = span
        first = bisect_right(self._new_starts, start) - 1
        if first >= 0:
            inside = start < self._new_ends[first]
            start = self._starts[first] if inside else self._ends[first] + start - self._new_ends[first]
        last = bisect_right(self._new_starts, end - 1) - 1
        if last >= 0:
            inside = end - 1 < self._new_ends[last]
            end = self._ends[last] if inside else self._ends[last] + end - self._new_ends[last]
        return start, end


def _parts(secret: str) -> Iterable[str]:
    """What of a configured secret must not be shown: the whole, and the parts of `name:secret`."""
    *names, last = re.split(r"[:\s]+", secret)
    # A name without a digit may be a word of any document.
    parts = (secret, last, *(name for name in names if re.search(r"\d", name)))
    return (part for part in parts if len(part.encode("utf-8", "replace")) >= MIN_SECRET)


def _plain_forms(secret: str) -> set[bytes]:
    """How a text that needs no unescaping can show it, folded."""
    data = secret.encode("utf-8", "replace")
    forms = {
        secret,
        quote_plus(secret, errors="replace"),  # a blank is `+` in a query
        json.dumps(secret)[1:-1],  # characters beyond ASCII
        data.hex(),
        ",".join(map(str, data)),  # what JavaScript makes of a buffer
    }
    return {_fold(form.encode("utf-8", "replace")) for form in forms}


def _base64_forms(secret: str) -> dict[bytes, tuple[int, int]]:
    """The characters that stand for nothing but it in base64 of any text that contains it, folded.

    Returns:
        For each, how many characters before and after it hold bits of the secret and of something else.
    """
    as_json = json.dumps(secret)[1:-1]
    cores = {}
    texts = {secret, quote(secret, safe="", errors="replace"), as_json, as_json.replace("/", "\\/")}
    # What Windows encodes is UTF-16.
    for data in (*(text.encode("utf-8", "replace") for text in texts), secret.encode("utf-16-le", "replace")):
        for before, first in enumerate((0, 2, 3)):  # bytes before it modulo 3
            whole, rest = divmod((before + len(data)) * 8, 6)
            core = b64encode(bytes(before) + data)[first:whole]
            cores[_fold(core)] = (min(before, 1), min(rest, 1))
    return cores


def _nothing(_: re.Match[bytes]) -> bytes:
    return b""


def _of_backslash(match: re.Match[bytes]) -> bytes:
    known = _KNOWN.get(match[0])
    if known is not None:
        return known
    code = match[1] or match[2] or match[3]
    return _LETTERS[match[4]] if code is None else _fold(chr(int(code, 16)).encode())


def _of_entity(match: re.Match[bytes]) -> bytes:
    code, decimal, name = match.groups()
    if name is not None:
        return _ENTITIES.get(name, match[0])
    return _fold(chr(int(decimal) if code is None else int(code, 16)).encode())


def _of_percent(match: re.Match[bytes]) -> bytes:
    return _CODES[match[1]]


def _noted(made: set[bytes], decoded: Callable[[re.Match[bytes]], bytes], match: re.Match[bytes]) -> bytes:
    new = decoded(match)
    made.add(new)
    return new


_LETTERS = {bytes([letter]): b"" if chr(letter).isalpha() else bytes([letter]) for letter in b"\\/\"'bfnrtv"}
_CODES = {b"%02x" % code: _fold(bytes([code])) for code in range(256)}
_KNOWN = {b"\\" + letter: new for letter, new in _LETTERS.items()}
_KNOWN |= {b"\\u00" + code: _CODES[code] for code in _CODES if code < b"80"}
# In this order: JSON is around everything else, and `%` before a key is not the start of an escape there.
_ESCAPES = ((b"\\", _BACKSLASH, _of_backslash), (b"&", _ENTITY, _of_entity), (b"%", _PERCENT, _of_percent))


def _with_whole_escapes(body: bytes, start: int, end: int) -> tuple[int, int]:
    """The span, extended by the rest of a JSON escape at either end, so that no half of one is left."""
    first, last = _escape_at(body, start), _escape_at(body, end - 1)
    return (start if first is None else first[0], end if last is None else max(last[1], end))


def _escape_at(body: bytes, at: int) -> tuple[int, int] | None:
    """The JSON escape that a byte is in."""
    slash = body.rfind(b"\\", max(at - 5, 0), at + 1)
    if slash < 0:
        return None
    start = slash
    while start > 0 and body[start - 1 : start] == b"\\":
        start -= 1
    if (slash - start) % 2:
        slash -= 1  # the second of a pair
    stop = slash + (6 if body[slash + 1 : slash + 2] == b"u" else 2)
    return (slash, stop) if at < stop else None


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined
