"""How long a provider asks us to wait: in a header or in the body."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from bridge.dialects.paths import Field
from bridge.dialects.values import number, positive

_MAX_SECONDS = 86_400.0


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
    """Seconds from `retry-after-ms` or `Retry-After`; a date counts from the response's own `date`."""
    milliseconds = positive(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, _MAX_SECONDS)
    value = headers.get("retry-after")
    seconds = positive(value)
    if seconds is None and value:
        lifted, sent = _http_date(value), _http_date(headers.get("date", ""))
        seconds = None if lifted is None or sent is None else max(0.0, lifted - sent)
    return None if seconds is None else min(seconds, _MAX_SECONDS)


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
