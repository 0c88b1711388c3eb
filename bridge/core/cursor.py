"""A position in the journal as one opaque token."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

_TOKEN = re.compile(r"([A-Za-z0-9]{1,32})-(0|[1-9][0-9]{0,17})")


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
