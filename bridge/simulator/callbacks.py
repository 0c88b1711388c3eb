"""Posts the callbacks that tasks were submitted with, and remembers what was posted and answered."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict, dataclass
from http import HTTPStatus

import aiohttp
import orjson

from bridge.simulator.clock import Waits
from bridge.simulator.tasks import Json, Task, View

Show = Callable[[Task, View], Json]
Work = Coroutine[None, None, None]

ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """One callback: what was sent where, and what came back (`status` 0 when nothing did)."""

    provider: str
    task_id: str
    url: str
    kind: str
    body: Json
    at: float
    status: int
    answer: str


async def unfold(task: Task, waits: Waits) -> AsyncIterator[View]:
    """The task as it is now, then at each transition as the clock reaches it; ends after the final one."""
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
    """One coroutine per task with a `callback_url`; all of them end with `close`."""

    def __init__(self, waits: Waits, challenge_seconds: float) -> None:
        self._waits = waits
        self._challenge_seconds = challenge_seconds
        self._session: aiohttp.ClientSession | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._news = asyncio.Condition()
        self.posted: list[Posted] = []

    def at_end(self, task: Task, show: Show) -> None:
        """One POST of the query payload at the end (qingbo, ByteSpike; the payload is a guess)."""
        self._start(self._post_end(task, show))

    def at_each_change(self, task: Task, show: Show, challenge: str) -> None:
        """V-API: a challenge to be echoed within 3 s, then the query payload at each change (Hailuo page)."""
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
        async for view in unfold(task, self._waits):
            if view.stage.final:
                await self._post(task, "final", show(task, view), ANSWER_SECONDS)

    async def _post_changes(self, task: Task, show: Show, challenge: str) -> None:
        asked = await self._post(task, "challenge", {"challenge": challenge}, self._challenge_seconds)
        if not echoes(asked, challenge):
            return
        async for view in unfold(task, self._waits):
            await self._post(task, "change", show(task, view), ANSWER_SECONDS)

    async def _post(self, task: Task, kind: str, body: Json, seconds: float) -> Posted:
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
        except (aiohttp.ClientError, TimeoutError, ValueError) as wrong:
            status, answer = 0, f"{type(wrong).__name__}: {wrong}"
        posted = Posted(
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
        """Returns once that many callbacks were posted and answered, or given up."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.report(task_id)) >= count)

    def report(self, task_id: str | None = None) -> list[Json]:
        return [asdict(each) for each in self.posted if task_id in (None, each.task_id)]


def echoes(posted: Posted, challenge: str) -> bool:
    """Whether the answer holds the challenge: as `{"challenge": ...}`, or as the bare text."""
    if posted.status != HTTPStatus.OK:
        return False
    if posted.answer.strip().strip('"') == challenge:
        return True
    try:
        answer = orjson.loads(posted.answer)
    except orjson.JSONDecodeError:
        return False
    return isinstance(answer, dict) and answer.get("challenge") == challenge
