"""What the supervisor knows of all workers, for the one that is asked.

It hands bytes on: a worker encodes what it counted, and the one that is asked decodes and sums it. Only when
a worker ends, its counters are added to those of the ones before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import orjson
from prometheus_client import CollectorRegistry

from bridge.server.workers.control import Message
from bridge.server.workers.process import WorkerProcess
from bridge.telemetry.process import Process
from bridge.telemetry.summing import SummedMetrics, process_snapshot

ANSWER_SECONDS = 0.5
"""The longest wait for a worker that does not answer; what it said last is used."""

logger = logging.getLogger("bridge")


class _Question:
    """One worker asks about all."""

    def __init__(self, asker: WorkerProcess, number: int, what: str, waits_for: set[WorkerProcess]) -> None:
        self.asker = asker
        self.number = number
        self.what = what
        self.waits_for = waits_for
        self.timer: asyncio.TimerHandle | None = None


class WholeService:
    """Collects what workers report, and answers what one asks about all.

    Args:
        running: All workers that have not ended, as they are at each moment.
    """

    def __init__(self, running: Iterable[WorkerProcess]) -> None:
        self._running = running
        self._ended = b"[]"  # the sum of what workers had counted that have ended
        self._saved: dict[str, float] = {}  # polls saved, as reported last
        self._process = Process(CollectorRegistry())  # this one: it holds what workers share
        self._questions: dict[int, _Question] = {}
        self._last_question = 0

    def handle(self, worker: WorkerProcess, message: Message) -> None:
        """A report, a question, or the answer to one of ours."""
        match message.kind:
            case "status":
                worker.status = message.body
            case "watches":
                worker.watches = message.body
            case "saved":
                self._take_saved(message.fields.get("polls"))
            case "ask":
                self._ask(worker, str(message.fields.get("what")), int(message.fields.get("number", 0)))
                return
        question = self._questions.get(message.fields.get("question", 0))
        if question is not None:
            self._answered(question, worker)

    def ended(self, worker: WorkerProcess) -> None:
        """What a worker has counted stays in the sum."""
        if worker.metrics:
            total = SummedMetrics()
            for encoded in (self._ended, worker.metrics):
                total.add(orjson.loads(encoded), ended=True)
            self._ended = total.encoded()
        for question in list(self._questions.values()):
            self._answered(question, worker)

    def _take_saved(self, polls: object) -> None:
        for upstream, number in polls.items() if isinstance(polls, dict) else ():
            self._saved[upstream] = max(self._saved.get(upstream, 0.0), float(number))

    def _ask(self, asker: WorkerProcess, what: str, number: int) -> None:
        """Ask all others first; a silent one is not waited for."""
        self._last_question = key = self._last_question + 1
        others = {
            worker
            for worker in self._running
            if worker is not asker
            and worker.was_ready
            and not worker.silent
            and worker.send("ask", what=what, question=key)
        }
        question = self._questions[key] = _Question(asker, number, what, others)
        loop = asyncio.get_running_loop()
        question.timer = loop.call_later(ANSWER_SECONDS, self._answer, key)
        if not others:
            self._answer(key)

    def _answered(self, question: _Question, worker: WorkerProcess) -> None:
        question.waits_for.discard(worker)
        if not question.waits_for:
            for key in [key for key, one in self._questions.items() if one is question]:
                self._answer(key)

    def _answer(self, key: int) -> None:
        question = self._questions.pop(key, None)
        if question is None:
            return
        if question.timer is not None:
            question.timer.cancel()
        workers = sorted(self._running, key=lambda worker: (worker.number, worker.pid))
        if question.what == "metrics":
            parts = [
                self._ended,
                process_snapshot(self._process),
                *(worker.metrics for worker in workers if worker.metrics),
            ]
            fields: dict[str, object] = {"saved": self._saved}
        elif question.what == "watches":
            parts = [one.watches for one in workers if one.watches and one is not question.asker]
            fields = {}
        else:
            parts = [worker.status for worker in workers if worker.status]
            fields = {"workers": [self._described(worker, question) for worker in workers if worker.status]}
        question.asker.send("answer", b"[" + b",".join(parts) + b"]", number=question.number, **fields)

    def _described(self, worker: WorkerProcess, question: _Question) -> dict[str, object]:
        return {
            "worker": worker.number,
            "pid": worker.pid,
            "state": worker.state.value,
            "answers": worker not in question.waits_for and not worker.silent,
        }
