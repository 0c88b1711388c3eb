"""The engine as plain data structures: every operation with the time passed in, no clock and no I/O."""

from bridge.engine.store.retention import DEFAULT_LIMITS, StoreLimits
from bridge.engine.store.store import Store

__all__ = ["DEFAULT_LIMITS", "Store", "StoreLimits"]
