"""What the settings of an upstream make of the intervals and the price of its polls."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from bridge.app.bridge import make_upstream
from bridge.config.settings import UpstreamSettings
from bridge.core.schedule import Pace
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.tracing import NO_TRACING
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.anyio


async def pace(preset: str, **settings: Any) -> Pace:
    config = UpstreamSettings(preset=preset, api_key="key", **settings)
    metrics = Metrics(CollectorRegistry(), ["one"])
    upstream = make_upstream("one", config, FakeClock(), metrics, NO_TRACING)
    await upstream.session.close()
    return upstream.pace


@pytest.mark.parametrize(("economy", "thrift"), [("fewer", 3.0), ("balanced", 2.0), ("sooner", 1.0)])
async def test_economy_is_the_price_of_a_poll(economy: str, thrift: float) -> None:
    assert (await pace("qingbo", poll_economy=economy)).thrift == thrift
    assert (await pace("qingbo")).thrift == 2.0


def test_another_word_is_refused() -> None:
    with pytest.raises(ValidationError, match="poll_economy"):
        UpstreamSettings(preset="qingbo", poll_economy="cheap")  # type: ignore[arg-type]


async def test_a_longer_maximum_does_not_move_the_price() -> None:
    price = (await pace("qingbo")).price(100.0)
    assert price == pytest.approx(2 * 2 * 5 / (2 * 100))
    assert (await pace("qingbo", poll_max_seconds=60)).price(100.0) == pytest.approx(price)
    # V-API: 30 s is ours, 15 s was; the price is that of before.
    assert (await pace("vapi")).max_seconds == 30.0
    assert (await pace("vapi")).price(100.0) == pytest.approx(2 * 5 * 15 / (2 * 100), rel=0.02)
    # A maximum below the usual interval is one; so is a minimum above it.
    assert (await pace("vapi", poll_max_seconds=4)).usual_seconds == 4
    assert (await pace("vapi", poll_min_seconds=20)).usual_seconds == 20
