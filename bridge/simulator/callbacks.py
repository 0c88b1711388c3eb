"""Posts callbacks for tasks that were submitted with a callback URL, and records the responses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict, dataclass
from http import HTTPStatus

import aiohttp
import orjson

from bridge.simulator.clock import WaitRegistry
from bridge.simulator.tasks import Json, Task, TaskView

Show = Callable[[Task, TaskView], Json]
Work = Coroutine[None, None, None]

ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRecord:
    """One callback request and its response (`status` 0 when there was none)."""

    provider: str
    task_id: str
    url: str
    kind: str
    body: Json
    at: float
    status: int
    answer: str


async def task_views(task: Task, waits: WaitRegistry) -> AsyncIterator[TaskView]:
    """Yield the task as it is now, then at each transition when the clock reaches it, up to the final one."""
    now = waits.clock.now()
    position = task.position(now)
    view = task.view(now)
    yield view
    while not view.stage.final:
        position += 1
        when, _ = task.transitions[position]
        while (now := waits.clock.now()) < when:
            await waits.until(when, task.wakeups)
            when, _ = task.transitions[position]  # a cancel has changed them
        view = task.view(when)
        yield view


class CallbackSender:
    """Runs one coroutine per task with a `callback_url`; `close` ends all of them."""

    def __init__(self, waits: WaitRegistry, challenge_seconds: float) -> None:
        self._waits = waits
        self._challenge_seconds = challenge_seconds
        self._session: aiohttp.ClientSession | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._news = asyncio.Condition()
        self.posted: list[CallbackRecord] = []

    def when_ended(self, task: Task, show: Show) -> None:
        """Post the status payload once, at the end (qingbo, ByteSpike; the payload is a guess)."""
        self._start(self._post_end(task, show))

    def at_each_change(self, task: Task, show: Show, challenge: str) -> None:
        """Post a challenge (V-API: echo within 3 s), then the status payload at each change (Hailuo page)."""
        self._start(self._post_changes(task, show, challenge))

    async def close(self) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _start(self, work: Work) -> None:
        running = asyncio.get_running_loop().create_task(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)

    async def _post_end(self, task: Task, show: Show) -> None:
        async for view in task_views(task, self._waits):
            if view.stage.final:
                await self._post(task, "final", show(task, view), ANSWER_SECONDS)

    async def _post_changes(self, task: Task, show: Show, challenge: str) -> None:
        record = await self._post(task, "challenge", {"challenge": challenge}, self._challenge_seconds)
        if not echoes(record, challenge):
            return
        async for view in task_views(task, self._waits):
            await self._post(task, "change", show(task, view), ANSWER_SECONDS)

    async def _post(self, task: Task, kind: str, body: Json, seconds: float) -> CallbackRecord:
        assert task.callback_url is not None
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"Content-Type": "application/json"})
        try:
            async with self._session.post(
                task.callback_url,
                data=orjson.dumps(body),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as response:
                status, answer = response.status, (await response.content.read(4096)).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            status, answer = 0, f"{type(error).__name__}: {error}"
        posted = CallbackRecord(
            provider=task.provider,
            task_id=task.id,
            url=task.callback_url,
            kind=kind,
            body=body,
            at=self._waits.clock.now(),
            status=status,
            answer=answer,
        )
        async with self._news:
            self.posted.append(posted)
            self._news.notify_all()
        return posted

    async def wait_posted(self, count: int, task_id: str | None = None) -> None:
        """Wait until `count` callbacks have been posted and answered, or have failed."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.report(task_id)) >= count)

    def report(self, task_id: str | None = None) -> list[Json]:
        return [asdict(record) for record in self.posted if task_id in (None, record.task_id)]


def echoes(posted: CallbackRecord, challenge: str) -> bool:
    """Whether the response echoes the challenge, as `{"challenge": ...}` or as plain text."""
    if posted.status != HTTPStatus.OK:
        return False
    if posted.answer.strip().strip('"') == challenge:
        return True
    try:
        answer = orjson.loads(posted.answer)
    except orjson.JSONDecodeError:
        return False
    return isinstance(answer, dict) and answer.get("challenge") == challenge
