"""How long a provider asks us to wait: in a header or in the body."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from bridge.dialects.paths import Field
from bridge.dialects.times import moment
from bridge.dialects.values import number, positive

_MAX_SECONDS = 86_400.0
_UNIX_FROM = 1e8  # seconds of three years, or of 1973


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """Where a provider says how long to wait, besides `Retry-After`.

    Args:
        at: Seconds in the body.
        by_code: Seconds to wait on certain error codes, folded.
        reset_headers: Headers with the unix second at which the limit is lifted. Only those listed here are
            read: the numbers beside them may be dollars (ByteSpike), not requests.
    """

    at: Field[float] = field(default_factory=lambda: Field((), positive))
    by_code: Mapping[str, float] = field(default_factory=dict)
    reset_headers: tuple[str, ...] = ()

    def wait(self, headers: Mapping[str, str], document: object, code: str | None) -> float | None:
        """Seconds to wait; what the response says beats what the preset says about its code."""
        seconds = retry_after(headers)
        if seconds is None:
            seconds = self.at.read(document)
        if seconds is None and code is not None:
            seconds = self.by_code.get(code)
        if seconds is None:
            waits = (_until(headers, name) for name in self.reset_headers)
            seconds = next((wait for wait in waits if wait is not None), None)
        return None if seconds is None else min(seconds, _MAX_SECONDS)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` or `Retry-After`."""
    seconds = wait_in(headers, "retry-after-ms", 0.001)
    return wait_in(headers, "retry-after") if seconds is None else seconds


def wait_in(headers: Mapping[str, str], name: str, unit: float = 1.0) -> float | None:
    """Seconds to wait by one header: a number of units, a date, or a unix second.

    A moment counts from the response's own `date`: the provider's clock and ours may differ.
    """
    value = headers.get(name, "").strip()
    if not value:
        return None
    amount = number(value)
    if amount is not None and amount < _UNIX_FROM:
        return min(amount * unit, _MAX_SECONDS) if amount >= 0 else None
    until = _http_date(value) or moment(value)
    sent = _http_date(headers.get("date", ""))
    return None if until is None or sent is None else min(max(0.0, until - sent), _MAX_SECONDS)


def _until(headers: Mapping[str, str], name: str) -> float | None:
    lifted, sent = number(headers.get(name)), _http_date(headers.get("date", ""))
    if lifted is None or sent is None or lifted < sent:
        return None
    return lifted - sent


def _http_date(text: str) -> float | None:
    try:
        seconds = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return seconds if math.isfinite(seconds) else None
