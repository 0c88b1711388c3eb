"""One scrape of `/metrics`: in which format, and its text, made in slices so that the event loop turns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest as plain
from prometheus_client.openmetrics import exposition as openmetrics

from bridge.telemetry.metrics import Metrics

SAMPLES_PER_SLICE = 200  # about 2 ms
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_END = b"# EOF\n"


class _Encode(Protocol):
    def __call__(self, registry: _Slice, /) -> bytes: ...


async def scraped(metrics: Metrics, *, accept: str) -> tuple[bytes, str]:
    """Everything, and its content type.

    A family is read at one moment, two families may be read at different turns of the loop.

    Args:
        accept: The header of the request.
    """
    wanted = accepts_openmetrics(accept)
    # the names are plain ones, so not escaping them changes nothing but the time
    encode: _Encode = partial(openmetrics.generate_latest if wanted else plain, escaping="allow-utf-8")
    written = []
    for family in metrics.exposition(openmetrics=wanted).collect():
        for part in _parts(family):
            written.append(part.written(encode))
            await asyncio.sleep(0)
    return b"".join(written) + (_END if wanted else b""), OPENMETRICS if wanted else TEXT


def accepts_openmetrics(accept: str) -> bool:
    """Whether the header names it, unless with a weight of nothing."""
    for one in accept.lower().split(","):
        name, *parameters = (word.strip() for word in one.split(";"))
        if name == "application/openmetrics-text":
            return not any(word.startswith("q=") and not word[2:].strip("0.") for word in parameters)
    return False


@dataclass(frozen=True, slots=True)
class _Slice:
    """A part of a family, as an encoder reads it."""

    part: Metric
    first: bool

    def collect(self) -> Iterator[Metric]:
        yield self.part

    def written(self, encode: _Encode) -> bytes:
        """Its lines: with the head only where the family begins, and without the end of a whole scrape."""
        text = encode(self).removesuffix(_END)
        return text if self.first else text.split(b"\n", 2)[2]


def _parts(family: Metric) -> Iterator[_Slice]:
    samples = family.samples
    for start in range(0, max(len(samples), 1), SAMPLES_PER_SLICE):
        part = Metric(family.name, family.documentation, family.type)
        part.samples = samples[start : start + SAMPLES_PER_SLICE]
        yield _Slice(part, first=start == 0)
