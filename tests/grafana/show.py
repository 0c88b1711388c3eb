"""Runs a busy bridge for a while, with a provider outage in the middle, and draws its dashboard.

python -m tests.grafana.show --seconds 300 docs/pictures/dashboard.png
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from tests.grafana.crowd import OUTAGE, WEATHER, busy_bridge
from tests.grafana.pages import GRAFANA
from tests.grafana.prometheus import scraping


async def show(place: Path, seconds: float) -> None:
    """Run it, then draw the dashboard."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            # polled as providers recommend, so that the share of polls avoided is a real one
            busy_bridge(folder, polls=(2.0, 4.0), pause=0.25, run=(5.0, 30.0)) as (bridge, crowd),
            scraping(urlsplit(bridge.url).netloc, folder, interval="2s") as prometheus,
        ):
            for share, weather in ((0.45, WEATHER), (0.2, WEATHER | OUTAGE), (0.35, WEATHER)):
                await crowd.weather(weather)
                await asyncio.sleep(seconds * share)
            words = (prometheus.url, str(place), "--minutes", str(seconds / 60 * 0.9), "--window", "10s")
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(GRAFANA / "picture.py"), *words
            )
            if await process.wait() != 0:
                raise SystemExit(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("place", type=Path)
    parser.add_argument("--seconds", type=float, default=300.0)
    wishes = parser.parse_args()
    asyncio.run(show(wishes.place, wishes.seconds))
