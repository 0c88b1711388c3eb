"""A fake provider that also shows many tasks with one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

import orjson

from bridge.dialects.base import HttpResponse, Request, StatusReading
from bridge.dialects.registry import load_document
from tests.fakes.clock import FakeClock
from tests.fakes.provider import FakeProvider

MANY = {
    "base_url": "http://fake",
    "answer": {"error_code": "code"},
    "fields": {"task_id": "id", "progress": "progress", "poll_after": "poll_after"},
    "status": {"at": "status", "common_words": True},
    "calls": {
        "status": {"path": "/tasks/{task_id}"},
        "status_many": {"path": "/many", "query": {"ids": "{task_ids}"}, "max_ids": 100, "at": "items"},
    },
}


class ManyProvider(FakeProvider):
    """`answer` may replace what a call about many returns."""

    def __init__(self, clock: FakeClock, **many: Any) -> None:
        super().__init__(clock)
        document: Any = MANY | {"calls": dict(MANY["calls"])}  # type: ignore[call-overload]
        document["calls"]["status_many"] = document["calls"]["status_many"] | many
        self._real = load_document(document, "fake")
        self.max_status_ids = self._real.max_status_ids
        self.status_many = self._real.status_many
        self.batches: list[tuple[list[str], float]] = []
        self.answer: Callable[[list[str]], HttpResponse] = self.listed

    def read_status_many(self, answer: HttpResponse, task_ids: Sequence[str]) -> dict[str, bytes]:
        return self._real.read_status_many(answer, task_ids)

    def read_status(self, answer: HttpResponse, task_id: str | None = None) -> StatusReading:
        return self._real.read_status(answer, task_id)

    async def ask(
        self, request: Request, timeout_seconds: float | None = None, *, known: bytes | None = None
    ) -> HttpResponse:
        path, _, query = request.path.partition("?")
        if path != "/many":
            return await super().ask(request, timeout_seconds)
        ids = dict(parse_qsl(query))["ids"].split(",")
        self.batches.append((ids, self.clock.monotonic()))
        with self._counting("many"):
            if self.takes:
                await self.clock.sleep(self.takes)
        return self.answer(ids)

    def listed(self, ids: list[str]) -> HttpResponse:
        """The documents of the tasks that exist."""
        shown = [
            {"id": one} | self.tasks[one] for one in ids if "http" not in self.tasks.get(one, {"http": 0})
        ]
        return HttpResponse(200, {}, orjson.dumps({"items": shown}))
