"""What a worker reports to its supervisor, and asks it: metrics and status of the whole service."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import orjson

from bridge.app import Bridge
from bridge.errors import EngineUnavailable
from bridge.server.workers.control import ControlChannel, Message
from bridge.telemetry.summing import SummedMetrics
from bridge.web.workers import WatchRow

BEAT_SECONDS = 0.25
BEATS_PER_REPORT = 4
ANSWER_SECONDS = 2.0


class WorkerLink:
    """The worker's side. Satisfies `bridge.web.workers.Workers`."""

    def __init__(self, channel: ControlChannel, bridge: Bridge) -> None:
        self._channel = channel
        self._bridge = bridge
        self._numbers = itertools.count(1)
        self._questions: dict[int, asyncio.Future[Message]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def report(self) -> None:
        """Report to the supervisor that this worker runs, and once a second what it counted."""
        for turn in itertools.count():
            if turn % BEATS_PER_REPORT == 0:
                await self._report_metrics()
            else:
                self._channel.send("alive")
            await asyncio.sleep(BEAT_SECONDS)

    async def report_last(self) -> None:
        """Before the end: what was counted stays in the sum."""
        await self._report_metrics()

    async def metrics(self) -> SummedMetrics:
        """The metrics of all workers, and what those have counted that have ended.

        Raises:
            EngineUnavailable: The supervisor does not answer.
        """
        # First our own: what this process shows now stays in the sum, even if it is killed.
        await self._report_metrics()
        answer = await self._ask("metrics")
        total = SummedMetrics()
        ended, *others = orjson.loads(answer.body)
        total.add(ended, ended=True)
        for families in others:
            total.add(families)
            await asyncio.sleep(0)
        saved: dict[str, float] = answer.fields["saved"]
        total.correct_saved(saved)
        self._channel.send("saved", polls=saved)
        return total

    async def statuses(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Of each worker what the supervisor says of it, and what it says of itself; this one's is as of now.

        Raises:
            EngineUnavailable: The supervisor does not answer.
        """
        self._report_status()
        answer = await self._ask("status")
        return list(zip(answer.fields["workers"], orjson.loads(answer.body), strict=True))

    async def watches(self) -> list[WatchRow]:
        """See `Workers`."""
        answer = await self._ask("watches")
        return [tuple(row) for part in orjson.loads(answer.body) for row in part]

    def handle(self, message: Message) -> None:
        """A question of the supervisor, or the answer to one of ours."""
        if message.kind == "answer":
            future = self._questions.pop(message.fields.get("number", 0), None)
            if future is not None and not future.done():
                future.set_result(message)
        elif message.kind == "ask":
            question = message.fields.get("question", 0)
            if message.fields.get("what") == "status":
                self._report_status(question)
                return
            if message.fields.get("what") == "watches":
                self._channel.send("watches", orjson.dumps(self._bridge.watches()), question=question)
                return
            answering = asyncio.ensure_future(self._report_metrics(question))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)

    async def _report_metrics(self, question: int = 0) -> None:
        self._channel.send("metrics", await self._bridge.snapshot(), question=question)

    def _report_status(self, question: int = 0) -> None:
        self._channel.send("status", orjson.dumps(self._bridge.status()), question=question)

    async def _ask(self, what: str) -> Message:
        number = next(self._numbers)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._questions[number] = future
        self._channel.send("ask", what=what, number=number)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await future
        except TimeoutError:
            raise EngineUnavailable("the process that supervises the workers does not answer") from None
        finally:
            self._questions.pop(number, None)
