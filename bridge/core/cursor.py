"""A position in the journal as one opaque token."""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple, Self

from bridge.core.task import TaskKey

_TOKEN = re.compile(r"([A-Za-z0-9]{1,32})-(0|[1-9][0-9]{0,17})")
_MARK = re.compile(r"[a-z2-7]{8}")


class Cursor(NamedTuple):
    """Epoch and offset together: in a journal created again, an old offset would point at another event.

    A tuple, like `Event`: one is created per event, and a frozen dataclass takes three times as long.

    Args:
        epoch: Identifies one life of the journal; letters and digits.
        offset: Position in the journal; 0 is before the first event.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"

    @classmethod
    def parse(cls, token: str) -> Self | None:
        """The cursor in a token that a client sent; None for one the bridge cannot have issued."""
        match = _TOKEN.fullmatch(token)
        return cls(match[1], int(match[2])) if match else None


class EventId(NamedTuple):
    """What a client sends back to resume: a cursor and, from a many-task stream, the mark of its list.

    Args:
        mark: See `mark_of`; None on a stream of one task.
    """

    cursor: Cursor
    mark: str | None = None

    @classmethod
    def parse(cls, token: str) -> Self | None:
        """The id in a token that a client sent; None for one the bridge cannot have issued."""
        text, dot, mark = token.partition(".")
        cursor = Cursor.parse(text)
        if cursor is None or (dot and not _MARK.fullmatch(mark)):
            return None
        return cls(cursor, mark or None)


def mark_of(keys: Iterable[TaskKey]) -> str:
    """The mark of a list of tasks: 8 characters, the same for every order and for repetitions.

    A cursor says up to where its client has seen the tasks of one list. For another list it says nothing: a
    task that the client has added may have changed before. With the account, because the same id is another
    task in another account.
    """
    names = sorted({f"{key.account} {key.ref}" for key in keys})
    return b32encode(blake2b("\n".join(names).encode(), digest_size=5).digest()).decode().lower()
