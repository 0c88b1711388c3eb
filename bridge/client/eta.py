"""How long a task will take, in words: from the two moments of its state, counted on since it arrived."""

from __future__ import annotations

from datetime import datetime


def moment(text: object) -> float | None:
    """Unix seconds of an RFC 3339 timestamp; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def eta_words(left: float, spread: float | None) -> str:
    """The sentence for people.

    Args:
        left: Seconds until it will probably be done; 0 or less once that moment has passed.
        spread: Seconds from that moment until it will nearly surely be done; None if unknown.
    """
    if left > 0:
        return f"about {_duration(left)}"
    return "should finish soon" if spread is None or left + spread > 0 else "taking longer than usual"


def _duration(seconds: float) -> str:
    """`40 s`, `2 min 05 s`, `3 h 20 min`."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
