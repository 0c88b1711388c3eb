"""What the demo serves plays in a browser, from its own page."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Response

from tests.browser.chromium import launch_chromium, new_page
from tests.e2e.test_commands import started
from tests.e2e.test_demo import link_of
from tests.harness import PATIENCE

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


# In the page of the inspector: what cannot be loaded is replaced.
PLAYS_OF_BRIDGE = """() => {
  const shown = document.querySelector("#outputs :is(video, audio, img)");
  return /\\/v1\\/tasks\\/.+\\/outputs\\/0$/.test(shown?.src) && (shown.naturalWidth || shown.readyState) > 0;
}"""

VIDEO = """async () => {
  for (;;) {
    const { tasks } = await (await fetch("/v1/tasks?status=completed")).json();
    const done = tasks.find(({ outputs }) => outputs[0]?.type === "video");
    if (done) return `${location.origin}/v1/tasks/${done.task}/outputs/0`;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
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


async def test_the_inspector_of_the_demo_plays_a_video_through_the_bridge(browser: Browser) -> None:
    async with started("demo", "--port", "0", "--speed", "8") as process:
        link = await link_of(process.stdout)
        context = await browser.new_context()
        page, errors = await new_page(context)
        await page.goto(f"{link}/")
        await page.locator("#rows tr", has_text="completed").first.locator("button.ref").click()
        await page.wait_for_function(PLAYS_OF_BRIDGE, timeout=PATIENCE * 1000)
        video = await page.evaluate(VIDEO)
        answers: list[Response] = []
        page.on("response", lambda answer: answers.append(answer))  # noqa: PLW0108 - no builtin may listen
        ready, duration, _ = await page.evaluate(PLAYED, video)
        assert ready >= 2
        assert duration == pytest.approx(4, abs=0.1)
        assert {one.status for one in answers if one.url == video} == {206}
        assert errors == []
        await context.close()
