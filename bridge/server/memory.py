"""Memory that a crowd leaves behind when it goes and nobody gives back: when to free it, and how."""

from __future__ import annotations

import ctypes
import gc
import sys

MANY = 5_000
MIN_TRIM_INTERVAL_SECONDS = 30.0


class MemoryTrimmer:
    """Tells when it is worth to free what ended connections left: asked at regular intervals.

    A full collection stops everybody, for some 30 µs a connection that is open: it comes when many have
    ended, and in a full house seldom. It may come amid their leaving: once nobody more leaves, the rest is
    worth it too.
    """

    def __init__(self) -> None:
        self._freed = 0  # ended connections the last time it was worth it
        self._freed_at = 0.0
        self._before = 0  # ended connections when last asked
        self._leaving = False

    def should_trim(self, *, ended: int, still_open: int, now: float) -> bool:
        """Whether to free now; whoever asks then does.

        Args:
            ended: Connections that have ended since the start.
            now: Monotonic seconds.
        """
        gone = ended - self._freed
        in_time = still_open < max(gone, MANY) or now - self._freed_at >= MIN_TRIM_INTERVAL_SECONDS
        many = gone >= MANY and in_time
        settled = self._leaving and ended == self._before and in_time
        self._before = ended
        if many or settled:
            self._freed, self._freed_at, self._leaving = ended, now, many
        return many or settled


def free() -> int:
    """Give back what nobody uses; takes a while.

    Python keeps a megabyte as long as one small object in it is used, and its cache of attribute lookups has
    many such: whenever a `date` is written, once a second, the library that does so leaves a new name there.

    Returns:
        How many objects were found in circles.
    """
    found = gc.collect()
    # the second name is the older one; both are documented, whatever they look like
    clear = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
    if clear is not None:
        clear()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps what is free amid its heap
    if trim is not None:
        trim(0)
    return found
