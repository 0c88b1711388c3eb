"""Drives the inspector page in the distribution's Chromium, as a user would."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, Request, Route, expect

from tests.browser.chromium import launch_chromium, new_page
from tests.conftest import missing
from tests.harness import PATIENCE

AXE = Path(__file__).parents[1] / "tools/node_modules/axe-core/axe.min.js"
GONE = "Failed to load resource"  # what a browser says of an answer that is an error, or did not come
WIDE = (1280, 900)
NARROW = (390, 844)
FILES = "**/v1/tasks/*/*/outputs/*"  # `unroute` it where the bridge itself shall send them
GRAVE = {"serious", "critical"}

expect.set_options(timeout=PATIENCE * 1000)

PIXEL = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

_LISTEN = """
    addEventListener("securitypolicyviolation", (one) => console.error("CSP", one.violatedDirective));
    const say = console.log; // nothing the provider says may end up as code
    window.pwned = (how) => say("PWNED", how);
"""


@dataclass
class Inspector:
    """The page.

    Attributes:
        complaints: What the console, the scripts and the policy had to say, and nobody expected.
        asked: Every request of the page.
    """

    page: Page
    expected: Sequence[str] = ()
    complaints: list[str] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)

    async def open(self, base: str, *refs: str, via: str = "") -> None:
        """Come by a link."""
        wishes = [f"via={via}"] if via else []
        await self.page.goto(f"{base}/#{'&'.join(wishes + [f'watch={ref}' for ref in refs])}")

    def row(self, ref: str) -> Locator:
        """A task in the table."""
        return self.page.locator(f"tr[data-task={_quoted(ref)}]")

    async def says(self, ref: str, status: str, progress: str | None = None) -> None:
        """Wait until the table has this of a task."""
        await expect(self.row(ref).locator(".status")).to_have_text(status)
        if progress is not None:
            await expect(self.row(ref).locator(".progress")).to_have_text(progress)

    async def select(self, ref: str) -> None:
        """Look at one task."""
        await self.row(ref).locator("button.ref").click()
        await expect(self.page.locator("#details-heading")).to_have_text(ref)

    async def tab(self, name: str) -> None:
        """Open a panel."""
        await self.page.get_by_role("tab", name=name, exact=True).click()

    async def deliver_by(self, name: str) -> None:
        """Switch the delivery."""
        await self.page.get_by_role("radio", name=name, exact=True).check(force=True)

    async def connected(self, words: str) -> None:
        """Wait until the header says so of the connection."""
        await expect(self.page.locator("#connection")).to_contain_text(words)

    async def findings(self) -> list[str]:
        """What axe finds that is serious, in the state the page is in."""
        if not AXE.is_file():
            missing("axe-core (tests/tools/install.py)")
        if not await self.page.evaluate("() => 'axe' in window"):
            await self.page.evaluate(AXE.read_text())
        found = await self.page.evaluate("() => axe.run({ resultTypes: ['violations'] })")
        return [
            f"{one['id']}: {node['html'][:120]} {node['failureSummary'][:160]}"
            for one in found["violations"]
            if one["impact"] in GRAVE
            for node in one["nodes"]
        ]

    def _hear(self, kind: str, text: str) -> None:
        if kind in {"error", "warning", "pwned"} and not any(one in text for one in self.expected):
            self.complaints.append(text)


@pytest.fixture(scope="module", name="anyio_backend")
def shared_loop() -> str:
    """One event loop for a module: its tests share a browser and a bridge."""
    return "asyncio"


@pytest.fixture(scope="module", name="browser")
async def shared_browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """One browser for a module."""
    async with launch_chromium() as made:
        yield made


@asynccontextmanager
async def inspecting(
    browser: Browser,
    *,
    scheme: Any = "light",
    size: tuple[int, int] = WIDE,
    expected: Sequence[str] = (),
    **more: Any,
) -> AsyncIterator[Inspector]:
    """A page of its own, in which nothing goes wrong unheard.

    Args:
        expected: Parts of what the console may complain of, such as a bridge that is gone.
    """
    viewport: Any = {"width": size[0], "height": size[1]}
    context = await browser.new_context(
        viewport=viewport, color_scheme=scheme, timezone_id="UTC", locale="en-GB", **more
    )
    try:
        page, errors = await new_page(context, _LISTEN)
        made = Inspector(page, expected)
        page.on("console", lambda said: made._hear("pwned" if "PWNED" in said.text else said.type, said.text))
        page.on("request", lambda asked: made.asked.append(asked))  # noqa: PLW0108 - no builtin may listen
        await page.route("https://cdn.example/**", _serve_picture)
        await page.route(FILES, _serve_picture)
        yield made
        for error in errors:
            made._hear("error", error)
        assert not made.complaints, made.complaints
    finally:
        await context.close()


async def _serve_picture(route: Route) -> None:
    """Where results live there is always something to be seen."""
    await route.fulfill(body=PIXEL, content_type="image/png")


def _quoted(text: str) -> str:
    """A string of a CSS selector."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
