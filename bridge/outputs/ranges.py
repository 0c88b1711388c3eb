"""One range of bytes (RFC 9110 section 14), as a reader asks for it and as a server answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,200}"')
HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")

_RANGE = re.compile(r"bytes=(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})", re.IGNORECASE)


class ByteRange(NamedTuple):
    """A range that a reader asks for.

    Args:
        first: The first byte; None for the last `last` bytes of the file.
        last: The last byte; None for all that follow.
        condition: `If-Range`: a strong entity tag or a date; None without.
    """

    first: int | None
    last: int | None
    condition: str | None = None

    def __str__(self) -> str:
        first, last = ("" if number is None else str(number) for number in (self.first, self.last))
        return f"bytes={first}-{last}"

    def of(self, size: int) -> tuple[int, int] | None:
        """First and last byte in a file of that size; None where it has none of them."""
        if self.first is None:
            assert self.last is not None
            first, last = max(size - self.last, 0), size - 1
        else:
            first, last = self.first, size - 1 if self.last is None else min(self.last, size - 1)
        return (first, last) if first <= last else None

    def is_answered_by(self, first: int, last: int, size: int | None) -> bool:
        """Whether a part of a file is what was asked for, or the beginning of it.

        Args:
            size: Of the whole file; None where the server does not say it.
        """
        if last < first or (size is not None and last >= size):
            return False
        if self.first is None:
            return size is None or (first, last) == self.of(size)
        return first == self.first and (self.last is None or last <= self.last)


def asked_range(headers: Mapping[str, str]) -> ByteRange | None:
    """The range of a request; None where the whole file is to come.

    One range at most: several would come as `multipart/byteranges`. What is malformed is left out, as the
    RFC asks, and so is a range under the condition of a weak entity tag, which vouches for no single byte.

    Args:
        headers: By lower-case names.
    """
    match = _RANGE.fullmatch("".join(headers.get("range", "").split()))
    if match is None:
        return None
    first, last = (int(text) if text else None for text in (match["first"], match["last"]))
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        return None
    condition = headers.get("if-range", "").strip() or None
    dated = condition is None or HTTP_DATE.fullmatch(condition)
    if condition is not None and not dated and not (condition[0] == '"' and ENTITY_TAG.fullmatch(condition)):
        return None
    return ByteRange(first, last, condition)
