"""When a task probably ends, as clients read it."""

from __future__ import annotations

from typing import NamedTuple

PLAUSIBLE_SECONDS = 86_400.0
"""A provider's time further away than a day is in the wrong unit or of a wrong clock."""


class Estimate(NamedTuple):
    """When a task probably ends, Unix seconds; None without ground. It may lie in the past.

    Args:
        at: Half of such tasks have ended by then.
        by: Nine of ten have.
    """

    at: float | None = None
    by: float | None = None


NO_ESTIMATE = Estimate()
