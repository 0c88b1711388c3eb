"""One scrape: the format somebody accepts, the library's own text, and a loop that goes on turning."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from bridge.telemetry.exposition import OPENMETRICS, SAMPLES_PER_SLICE, TEXT, accepts_openmetrics, scraped
from bridge.telemetry.metrics import Metrics

pytestmark = pytest.mark.anyio

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(CollectorRegistry(), [f"upstream-{number}" for number in range(20)])
    made.record_broadcast({"sse": 3}, {}, 0.01, task='q/"1\\')
    return made


def settled(text: bytes) -> list[bytes]:
    """Without what changes between two scrapes."""
    return [line for line in text.split(b"\n") if not line.startswith(b"process_")]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html", TEXT),
        ("text/plain; version=x", TEXT),
        (PROMETHEUS, OPENMETRICS),
        ("Application/OpenMetrics-Text", OPENMETRICS),
        ("application/openmetrics-text; version=evil", OPENMETRICS),
        ("application/openmetrics-text; version=9.9.9; escaping=evil", OPENMETRICS),
        ("application/openmetrics-text; q=0", TEXT),
        ("application/openmetrics-text;q=0.000,text/plain", TEXT),
        ("application/openmetrics-text;q=0.5", OPENMETRICS),
        ("application/openmetrics-text;q=", TEXT),
        (";;,=,", TEXT),
    ],
)
async def test_it_comes_in_the_format_that_is_accepted(metrics: Metrics, accept: str, expected: str) -> None:
    text, content_type = await scraped(metrics, accept=accept)
    assert content_type == expected
    assert text.endswith(b"# EOF\n") == (expected == OPENMETRICS)
    assert accepts_openmetrics(accept) == (expected == OPENMETRICS)


async def test_in_slices_it_is_the_same_text(metrics: Metrics) -> None:
    text, _ = await scraped(metrics, accept="")
    assert settled(text) == settled(generate_latest(metrics.exposition(openmetrics=False)))  # type: ignore[arg-type]
    text, _ = await scraped(metrics, accept=PROMETHEUS)
    whole = openmetrics.generate_latest(metrics.exposition(openmetrics=True))  # type: ignore[arg-type]
    assert settled(text) == settled(whole)


async def test_the_loop_turns_between_slices(metrics: Metrics) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    text, _ = await scraped(metrics, accept="")
    turning.cancel()
    assert turns >= text.count(b"\n") / SAMPLES_PER_SLICE
