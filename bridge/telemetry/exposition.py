"""One scrape of `/metrics`: its format and its text, encoded in slices so as not to block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest as plain
from prometheus_client.openmetrics import exposition as openmetrics

SAMPLES_PER_SLICE = 200  # about 2 ms
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_END = b"# EOF\n"


class _Encode(Protocol):
    def __call__(self, registry: _Slice, /) -> bytes: ...


class Collects(Protocol):
    """Metrics of one process, or of several."""

    def collect(self, *, openmetrics: bool) -> Iterable[Metric]:
        """Every family once."""


async def scraped(metrics: Collects, *, accept: str) -> tuple[bytes, str]:
    """The text of all metrics, and its content type.

    Each family is read at one moment; two families may be read in different turns of the event loop.

    Args:
        accept: The `Accept` header of the request.
    """
    as_openmetrics = accepts_openmetrics(accept)
    # Our names need no escaping; this option only skips the check.
    encode: _Encode = partial(
        openmetrics.generate_latest if as_openmetrics else plain, escaping="allow-utf-8"
    )
    texts = []
    for family in metrics.collect(openmetrics=as_openmetrics):
        samples = family.samples
        for start in range(0, max(len(samples), 1), SAMPLES_PER_SLICE):
            part = Metric(family.name, family.documentation, family.type)
            part.samples = samples[start : start + SAMPLES_PER_SLICE]
            texts.append(_Slice(part, first=start == 0).encode(encode))
            await asyncio.sleep(0)
    return b"".join(texts) + (_END if as_openmetrics else b""), OPENMETRICS if as_openmetrics else TEXT


def accepts_openmetrics(accept: str) -> bool:
    """Whether an `Accept` header names OpenMetrics, and not with `q=0`."""
    for item in accept.lower().split(","):
        name, *parameters = (word.strip() for word in item.split(";"))
        if name == "application/openmetrics-text":
            return not any(word.startswith("q=") and not word[2:].strip("0.") for word in parameters)
    return False


@dataclass(frozen=True, slots=True)
class _Slice:
    """A part of a family, as a registry for one encoder call."""

    part: Metric
    first: bool

    def collect(self) -> Iterator[Metric]:
        yield self.part

    def encode(self, encode: _Encode) -> bytes:
        """Its lines: HELP and TYPE only in the first slice of a family, and never the end marker."""
        text = encode(self).removesuffix(_END)
        return text if self.first else text.split(b"\n", 2)[2]
