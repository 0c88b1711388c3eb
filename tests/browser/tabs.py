"""Tabs in the distribution's Chromium that follow tasks with `/bridge.js`, loaded from the bridge itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import BrowserContext, Page, TimeoutError  # noqa: A004

from tests.browser.chromium import new_page

PAGE = Path(__file__).with_name("tab.html")


@dataclass
class Tab:
    """One tab; every wait is for something that it was told."""

    page: Page
    errors: list[str] = field(default_factory=list)

    async def watch(self, base: str, url: str, **options: Any) -> None:
        """Begin a watch, with the module of the bridge at `base`."""
        await self.page.evaluate("(asked) => begin(...asked)", [base, url, options])

    async def until_status(self, ref: str, status: str) -> None:
        """Wait until the newest state of a task is this one."""
        await self._until("([ref, status]) => newest[ref] === status", [ref, status])

    async def until_notice(self, code: str, number: int = 1) -> None:
        """Wait for a notice to come so often."""
        await self._until("([code, number]) => times(code) >= number", [code, number])

    async def finished(self) -> Any:
        """How the watch ended: its states, or what went wrong."""
        await self._until("() => ending !== null", None)
        return await self.page.evaluate("() => ending")

    async def read(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return await self.page.evaluate(expression)

    async def _until(self, expression: str, argument: Any) -> None:
        try:
            await self.page.wait_for_function(expression, arg=argument, polling=20)
        except TimeoutError:
            heard = await self.page.evaluate("() => heard")
            raise AssertionError(f"not {expression} with {argument} after {heard}") from None


async def opened(context: BrowserContext, url: str) -> Tab:
    """A new tab of a context."""
    page, errors = await new_page(context)
    await page.goto(url)
    return Tab(page, errors)
