"""A position in the journal as one opaque token."""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple, Self

from bridge.core.task import TaskKey

OFFSET_LIMIT = 2**53
"""Offsets are below this: clients that read them as numbers have doubles."""

_TEXT = r"([A-Za-z0-9]{1,32})-(0|[1-9][0-9]{0,15})"
_SHOWN = r"[a-z][0-9]{1,4}"
_TOKEN = re.compile(rf"{_TEXT}(?:~({_SHOWN}))?")
_ID = re.compile(rf"{_TEXT}((?:\.[a-z2-7]{{8}}){{0,8}})(?:~({_SHOWN}))?")
_SOMEWHERE = re.compile(rf"(?<![A-Za-z0-9._~-]){_TEXT}(?:~({_SHOWN}))?(?![A-Za-z0-9~])")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Cursor(NamedTuple):
    """Epoch and offset together: in a journal created again, an old offset would point at another event.

    A tuple, like `Event`: one is created per event, and a frozen dataclass takes three times as long.

    Args:
        epoch: Identifies one life of the journal; letters and digits.
        offset: Position in the journal; 0 is before the first event.
        shown: Of a state that is not recorded, because the engine that replicas share is away: how far it is
            (`bridge.core.resume.shown_of`), while `offset` is that of the newest recorded state known. Empty
            for a recorded one.
    """

    epoch: str
    offset: int
    shown: str = ""

    def __str__(self) -> str:
        if self.shown:
            return f"{self.epoch}-{self.offset}~{self.shown}"
        return f"{self.epoch}-{self.offset}"

    @classmethod
    def parse(cls, token: str) -> Self | None:
        """The cursor in a token that a client sent; None for one the bridge cannot have issued."""
        return cls._of(_TOKEN.fullmatch(token))

    @classmethod
    def find(cls, text: str) -> Iterator[Self]:
        """The cursors in a text such as a list of entity tags."""
        for match in _SOMEWHERE.finditer(text):
            cursor = cls._of(match)
            if cursor is not None:
                yield cursor

    @classmethod
    def _of(cls, match: re.Match[str] | None) -> Self | None:
        if match is None or int(match[2]) >= OFFSET_LIMIT:
            return None
        return cls(match[1], int(match[2]), match[3] or "")


class EventId(NamedTuple):
    """What a client sends back to resume: a cursor and, from a many-task stream, the mark of its list.

    Args:
        mark: See `mark_of`; None on a stream of one task. A WebSocket may follow up to eight tags and groups:
            then those of all, with dots between them.
    """

    cursor: Cursor
    mark: str | None = None

    def __str__(self) -> str:
        if self.mark is None:
            return str(self.cursor)
        text = f"{self.cursor.epoch}-{self.cursor.offset}.{self.mark}"
        return f"{text}~{self.cursor.shown}" if self.cursor.shown else text

    @classmethod
    def parse(cls, token: str) -> Self | None:
        """The id in a token that a client sent; None for one the bridge cannot have issued."""
        match = _ID.fullmatch(token)
        if match is None or int(match[2]) >= OFFSET_LIMIT:
            return None
        return cls(Cursor(match[1], int(match[2]), match[4] or ""), match[3][1:] or None)

    def is_of(self, mark: str | None) -> bool:
        """Whether it says where its client left off in the list of this mark; None for a single task."""
        if mark is None or self.mark is None:
            return mark == self.mark
        return mark in self.mark.split(".")


def new_epoch(unix_time: float, random_number: int, *, after: str = "") -> str:
    """The name of an epoch that begins now: milliseconds in base 36, then two random characters.

    Args:
        unix_time: Seconds.
        random_number: Any, so that two that begin in the same millisecond differ.
        after: The epoch before: the new one is later by its name, also by a clock that is slow.
    """
    milliseconds = int(unix_time * 1000)
    if re.fullmatch("[0-9a-z]{3,12}", after):
        milliseconds = max(milliseconds, int(after[:-2], 36) + 1)
    return _base36(milliseconds) + _base36(random_number % 36**2).rjust(2, "0")


def is_later(epoch: str, than: str) -> bool:
    """Whether an epoch began after another one, by their names: a guess where one has no time in it."""
    return (len(epoch), epoch) > (len(than), than)


def _base36(number: int) -> str:
    text = ""
    while number or not text:
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return text


def mark_of(keys: Iterable[TaskKey]) -> str:
    """The mark of a list of tasks: 8 characters, the same for every order and for repetitions.

    A cursor says up to where its client has seen the tasks of one list. For another list it says nothing: a
    task that the client has added may have changed before. With the account, because the same id is another
    task in another account.
    """
    names = sorted({f"{key.account} {key.ref}" for key in keys})
    return b32encode(blake2b("\n".join(names).encode(), digest_size=5).digest()).decode().lower()
