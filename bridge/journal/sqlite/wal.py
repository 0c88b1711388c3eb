"""What a write-ahead log holds, read before SQLite opens it.

At the first frame that does not fit, SQLite takes the log for ended and says nothing. After a `kill -9` that
is right: frames are written one after the other, so behind a torn one lie only frames of an earlier use of
the file, with other salts. A commit of the current use that lies behind it was synced and announced: it is
lost.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from pathlib import Path

UNREADABLE = 2**31
"""Instead of a number of frames, where the head of the log is damaged: SQLite drops all of them."""

_HEAD = struct.Struct(">8I")  # magic, version, page size, checkpoints, two salts, two checksums
_FRAME = struct.Struct(">6I")  # page, pages after the commit or 0, two salts, two checksums
_LITTLE_ENDIAN, _BIG_ENDIAN = 0x377F0682, 0x377F0683  # the order of the words that are summed up
_SMALLEST_PAGE, _LARGEST_PAGE = 512, 65_536
_LOOKED_AT = 65_536  # bytes that show whether a log without a head is unused: empty or all zeros


def committed_frames(log: Path) -> int:
    """How many frames of a log end with its last commit, whether SQLite can read them or not.

    Returns:
        0 without a log or without a commit; `UNREADABLE` if the head is damaged.

    Raises:
        OSError: The log cannot be read.
    """
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        start = os.read(descriptor, _LOOKED_AT)
        if not start.strip(b"\0"):
            return 0
        if len(start) < _HEAD.size:
            return 0  # SQLite syncs the head before the first frame
        _, _, page_size, _, *salts, _, _ = head = _HEAD.unpack_from(start)
        if not _is_intact(start, head) or not _SMALLEST_PAGE <= page_size <= _LARGEST_PAGE:
            return UNREADABLE
        return _last_commit(descriptor, _FRAME.size + page_size, salts)
    finally:
        os.close(descriptor)


def recovered_frames(connection: sqlite3.Connection) -> int:
    """How many frames SQLite took from the log of an open database."""
    _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(frames)


def _last_commit(descriptor: int, frame_size: int, salts: list[int]) -> int:
    """The number of the last whole frame that has the current salts and is a commit."""
    # Backwards: behind the current frames lie at most those of earlier uses.
    count = (os.fstat(descriptor).st_size - _HEAD.size) // frame_size
    for number in range(count, 0, -1):
        head = os.pread(descriptor, _FRAME.size, _HEAD.size + (number - 1) * frame_size)
        if len(head) < _FRAME.size:
            continue
        _, pages, *rest = _FRAME.unpack(head)
        if pages and rest[:2] == salts:
            return number
    return 0


def _is_intact(start: bytes, head: tuple[int, ...]) -> bool:
    magic, *_, first, second = head
    if magic not in (_LITTLE_ENDIAN, _BIG_ENDIAN):
        return False
    words = struct.unpack_from("<6I" if magic == _LITTLE_ENDIAN else ">6I", start)
    sums = [0, 0]
    for even, odd in zip(words[::2], words[1::2], strict=True):
        sums[0] = (sums[0] + even + sums[1]) & 0xFFFFFFFF
        sums[1] = (sums[1] + odd + sums[0]) & 0xFFFFFFFF
    return sums == [first, second]
