"""A page in the distribution's Chromium, and the events its EventSources received."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from playwright.async_api import Page

from tests.browser.chromium import launch_chromium, new_page, one_page, origin
from tests.chaos.judge import Account

PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Heard:
    """One event as the browser handed it over; `id` and `data` are None for `open` and `error`."""

    stream: str
    kind: str
    id: str | None
    data: str | None

    @property
    def fields(self) -> dict[str, Any]:
        """The data, which must be JSON."""
        read = orjson.loads(self.data or "")
        assert isinstance(read, dict), self
        return read


@dataclass
class Viewer:
    """The page; every wait is for something that it was told.

    Attributes:
        errors: What its scripts stumbled over.
    """

    page: Page
    errors: list[str] = field(default_factory=list)

    async def follow(self, name: str, url: str, leave_on: str | None) -> None:
        """Open an EventSource, which the page closes at such an event."""
        await self.page.evaluate("(asked) => follow(...asked)", [name, url, leave_on])

    async def until(self, expression: str, argument: Any = None) -> None:
        """Wait for the page to come to a point."""
        await self.page.wait_for_function(expression, arg=argument, polling=20)

    async def until_times(self, name: str, kind: str, number: int) -> None:
        """Wait for an event to come so often on one of its streams."""
        await self.until("([name, kind, number]) => times(name, kind) >= number", [name, kind, number])

    async def until_known(self, refs: Mapping[str, Iterable[str]], statuses: Mapping[str, str]) -> None:
        """Wait for each stream to hold these statuses."""
        wanted = {name: {ref: statuses[ref] for ref in each} for name, each in refs.items()}
        await self.until(
            "(wanted) => Object.entries(wanted).every(([name, each]) =>"
            " Object.entries(each).every(([task, status]) => newest[name][task] === status))",
            wanted,
        )

    async def until_closed(self) -> None:
        """Wait for every EventSource to be CLOSED, by the page or by the browser."""
        await self.until("() => closed()")

    async def heard(self, name: str) -> list[Heard]:
        """Everything that was told on one stream."""
        return [Heard(*one) for one in await self.page.evaluate("() => heard") if one[0] == name]

    async def account(self, account: Account) -> list[Heard]:
        """Lay before the judge what one stream, of the account's name, told."""
        heard, cursor = await self.heard(account.name), None
        for one in heard:
            if one.kind == "open":
                account.connected(cursor=cursor)
            elif one.kind == "reset":
                account.reset()
            elif one.kind == "state":
                account.state(one.fields, one.id)
            elif one.kind == "done":
                account.done(one.fields["task"], one.fields["status"])
            elif one.kind == "end":
                account.ended("end")
            cursor = one.id or cursor
        return heard


@asynccontextmanager
async def viewer() -> AsyncIterator[Viewer]:
    """A page of an origin of its own, in a browser of its own."""
    async with origin(one_page(PAGE)) as url, launch_chromium() as browser:
        page, errors = await new_page(await browser.new_context())
        await page.goto(url)
        yield Viewer(page, errors)
    assert errors == []
