"""What the demo serves plays in a browser, from its own page."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.browser.chromium import launch_chromium, new_page
from tests.e2e.test_commands import started
from tests.e2e.test_demo import link_of

pytestmark = [pytest.mark.anyio, pytest.mark.extended]

# Plays past half a second, then seeks: that needs a range.
PLAYED = """(link) => new Promise((resolve, reject) => {
  const player = document.createElement(link.endsWith(".wav") ? "audio" : "video");
  player.muted = true;
  player.onerror = () => reject(new Error(player.error.message));
  player.ontimeupdate = () => {
    if (player.currentTime < 0.5) return;
    player.ontimeupdate = null;
    player.onseeked = () => resolve([player.readyState, player.duration, player.videoWidth ?? 0]);
    player.currentTime = 1.2;
  };
  player.src = link;
  document.body.append(player);
  player.play().catch(reject);
})"""

LOADED = """(link) => {
  const image = new Image();
  image.src = link;
  return image.decode().then(() => image.width);
}"""


@pytest.fixture
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with launch_chromium("--autoplay-policy=no-user-gesture-required") as launched:
        yield launched


async def test_the_results_of_the_demo_play(browser: Browser) -> None:
    async with started("demo", "--port", "0") as process:
        link = await link_of(process.stdout)
        context = await browser.new_context()
        page, errors = await new_page(context)
        await page.goto(f"{link}/")
        for name, seconds, width in (("a.webm", 4, 320), ("a.mp4", 4, 320), ("a.wav", 1.6, 0)):
            ready, duration, shown = await page.evaluate(PLAYED, f"{link}/demo/files/{name}")
            assert ready >= 2
            assert duration == pytest.approx(seconds, abs=0.1)
            assert shown == width
        assert await page.evaluate(LOADED, f"{link}/demo/files/a.png") == 320
        assert errors == []
        await context.close()
