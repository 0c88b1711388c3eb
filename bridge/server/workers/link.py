"""What a worker reports to its supervisor, and asks it: metrics and status of the whole service."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from bridge.app import Bridge
from bridge.server.workers.control import ControlChannel, Message

REPORT_SECONDS = 1.0
ANSWER_SECONDS = 2.0


class WorkerLink:
    """The worker's side."""

    def __init__(self, channel: ControlChannel, bridge: Bridge) -> None:
        self._channel = channel
        self._bridge = bridge
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Message]] = {}

    async def report(self) -> None:
        """Tell the supervisor that this worker turns, and what it counted, once a second."""
        while True:
            self._channel.send("metrics", b"")
            await asyncio.sleep(REPORT_SECONDS)

    async def report_last(self) -> None:
        """Before the end: what was counted stays in the sum."""
        self._channel.send("metrics", b"")

    def handle(self, message: Message) -> None:
        """A question of the supervisor, or the answer to one of ours."""
        number = message.fields.get("number", 0)
        if message.kind == "answer":
            future = self._asked.pop(number, None)
            if future is not None and not future.done():
                future.set_result(message)
        elif message.kind == "ask":
            asyncio.ensure_future(self._answer(str(message.fields.get("what")), number))  # noqa: RUF006

    async def _answer(self, what: str, number: int) -> None:
        if what == "metrics":
            self._channel.send("metrics", b"", number=number)
        else:
            self._channel.send("status", b"{}", number=number)

    async def _ask(self, what: str, body: bytes = b"", **fields: Any) -> Message | None:
        number = next(self._numbers)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self._channel.send("ask", body, what=what, number=number, **fields)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await future
        except TimeoutError:
            return None
        finally:
            self._asked.pop(number, None)
