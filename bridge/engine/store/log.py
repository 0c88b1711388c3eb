"""The log: entries in one order, the oldest dropped."""

from __future__ import annotations

import bisect

from bridge.engine.base import Entry

MAX_OFFSET = 2**53 - 1  # above it a client's JSON would round
_TRIM = 1024


class Log:
    """The newest entries, each with an offset above the one before.

    Attributes:
        epoch: Name of the history; empty before the first session.
        head: The newest offset; no entry need have it: an epoch begins above all offsets before it.

    Args:
        limit: Entries that are kept at least, if there are so many.
    """

    def __init__(self, limit: int) -> None:
        self.epoch = ""
        self.head = 0
        self._limit = limit
        self._trim = max(min(limit // 8, _TRIM), 1)
        self._entries: list[Entry] = []
        self._offsets: list[int] = []

    def begin(self, epoch: str, known_head: int, now: int) -> None:
        """Begin a new epoch, above every known offset."""
        self.epoch = epoch
        self.head = max(now, known_head, self.head) + 1

    def next_offset(self, now: int) -> int:
        """The offset of the next entry; it is not taken."""
        return max(self.head + 1, now)

    def append(self, entry: Entry) -> int:
        """Add an entry made with `next_offset` and the present head; returns its offset."""
        self.head = entry.offset
        self._entries.append(entry)
        self._offsets.append(entry.offset)
        if len(self._entries) >= self._limit + self._trim:
            # In portions: dropping the first of a long list moves all others.
            del self._entries[: self._trim]
            del self._offsets[: self._trim]
        return entry.offset

    def after(self, offset: int, limit: int) -> list[Entry]:
        """Up to `limit` entries after an offset, oldest first."""
        start = bisect.bisect_right(self._offsets, offset)
        return self._entries[start : start + limit]
