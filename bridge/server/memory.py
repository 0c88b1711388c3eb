"""Returns memory to the operating system after many connections have closed."""

from __future__ import annotations

import ctypes
import gc
import sys

MANY = 5_000  # ended connections that are worth a full collection
MIN_TRIM_INTERVAL_SECONDS = 30.0


class MemoryTrimmer:
    """Decides when to free the memory of ended connections; called at regular intervals.

    A full collection stops the event loop for about 30 µs per open connection. So it runs only after many
    connections have ended, and at most every 30 s while most are still open. It may run while clients are
    still leaving; a second run, once no more leave, frees the rest.
    """

    def __init__(self) -> None:
        self._trimmed = 0  # ended connections at the last trim
        self._trimmed_at = 0.0
        self._previous = 0  # ended connections at the last call
        self._leaving = False  # whether the last trim may have run while clients were still leaving

    def should_trim(self, *, ended: int, still_open: int, now: float) -> bool:
        """Whether to trim now; the caller then does.

        Args:
            ended: Connections ended since the start.
            now: Monotonic seconds.
        """
        gone = ended - self._trimmed
        # With few open connections the pause is short, so the interval does not matter.
        in_time = still_open < max(gone, MANY) or now - self._trimmed_at >= MIN_TRIM_INTERVAL_SECONDS
        many = gone >= MANY and in_time
        settled = self._leaving and ended == self._previous and in_time
        self._previous = ended
        if many or settled:
            self._trimmed, self._trimmed_at, self._leaving = ended, now, many
        return many or settled


def trim_memory() -> int:
    """Collect garbage and return free memory to the operating system; blocks for a while.

    Python keeps a megabyte allocated while one small object in it is in use. Its cache of attribute lookups
    has many such objects: whenever a `date` header is written, once per second, the library that writes it
    leaves a new name there.

    Returns:
        How many objects were found in reference cycles.
    """
    objects = gc.collect()
    # The second name is the older one; both are documented, despite the underscore.
    clear = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
    if clear is not None:
        clear()
    # glibc does not return free memory in the middle of its heap on its own; other C libraries lack the call.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return objects
