"""A place in the journal, as one opaque token."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

_TOKEN = re.compile(r"([A-Za-z0-9]{1,32})-(0|[1-9][0-9]{0,17})")


class Cursor(NamedTuple):
    """Epoch and offset together: after a journal is lost and born again, an offset alone would lie.

    A tuple, like `Event`: one is made for each event, and a frozen dataclass takes thrice as long.

    Args:
        epoch: The life of one history; letters and digits.
        offset: Position in the journal; 0 stands before everything.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.offset}"

    @classmethod
    def parse(cls, token: str) -> Self | None:
        """The cursor a client sent back; None for anything we never gave out."""
        match = _TOKEN.fullmatch(token)
        return cls(match[1], int(match[2])) if match else None
