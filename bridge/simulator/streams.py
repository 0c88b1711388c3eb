"""Pushes the states of one task over `GET /v1/tasks/stream/{task_id}`, as the clock brings them about."""

import asyncio

from aiohttp import web

from bridge.simulator.callbacks import unfold
from bridge.simulator.desk import ProviderDesk, not_found, seen
from bridge.simulator.framing import BadFraming, Framer, parse_framing
from bridge.simulator.replies import Refusal, hang_up, json_reply
from bridge.simulator.script import Script
from bridge.simulator.tasks import Task

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
# Faults that take the place of the stream; those that spoil a body have their likes among the framings.
INSTEAD_OF_STREAM = frozenset({"timeout", "html", "huge", "redirect", "envelope-error"})


class Pen:
    """Writes whole frames; a heartbeat never falls into the middle of one, however it is split."""

    def __init__(self, response: web.StreamResponse, framer: Framer) -> None:
        self._response = response
        self._framer = framer
        self._lock = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        async with self._lock:
            for piece in self._framer.pieces(data):
                await self._response.write(piece)


class StreamPlayer:
    def __init__(self, desk: ProviderDesk) -> None:
        self._desk = desk
        self._world = desk.world

    async def serve(self, request: web.Request, task_id: str) -> web.StreamResponse:
        """The stream; when it ends, or how it breaks, is up to the framing."""
        key = self._desk.key(request)
        script = self._world.scripts.get((self._desk.voice.name, task_id))
        task = None if script is not None else self._desk.find(task_id, key)
        struck = self._desk.strikes("stream", task_id, task)
        refused = next((fault for fault in struck if fault.name == "refuse-stream"), None)
        if refused is not None:
            raise Refusal(refused.status, "stream_unavailable", "No stream is available for this task")
        if any(fault.name in INSTEAD_OF_STREAM for fault in struck):
            return await self._desk.send(request, json_reply({}), struck, task)
        for fault in struck:
            if fault.name == "slow":
                await self._world.waits.sleep(fault.seconds or 0)
        if script is not None:
            return await self._play(request, script)
        assert task is not None
        return await self.push(request, task)

    async def push(self, request: web.Request, task: Task) -> web.StreamResponse:
        """The states of a task that was submitted, as they come about."""
        framer = Framer(self._framing(request, task))
        response = web.StreamResponse(headers={**HEADERS, **self._desk.voice.headers()})
        try:
            await response.prepare(request)
            if "silent" in framer.words:
                await self._world.waits.forever()
            pen = Pen(response, framer)
            await pen.write(framer.opening())
            if await self._updates(request, pen, framer, task):
                await pen.write(framer.closing())
        except ConnectionError:
            return response  # the reader has left
        return response

    async def _updates(self, request: web.Request, pen: Pen, framer: Framer, task: Task) -> bool:
        """Writes each state; false when the connection was cut."""
        beating = asyncio.get_running_loop().create_task(self._beat(pen, framer))
        try:
            async for view in unfold(task, self._world.waits):
                final = view.stage.final
                data = framer.update(self._desk.voice.show(task, view), final=final)
                if framer.cuts(final=final):
                    await pen.write(data[: len(data) // 2])
                    hang_up(request)
                    return False
                await pen.write(data)
                seen(task, view, ())
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
        return True

    async def _beat(self, pen: Pen, framer: Framer) -> None:
        while beat := framer.beat():
            await self._world.waits.sleep(self._world.heartbeat_seconds)
            await pen.write(beat)

    async def _play(self, request: web.Request, script: Script) -> web.StreamResponse:
        """Sends the chunks as they were written; with `hold` it waits for more."""
        if script.stream is None:
            raise not_found()
        response = web.StreamResponse(headers=HEADERS)
        sent = 0
        try:
            await response.prepare(request)
            while True:
                while sent < len(script.stream):
                    sent += 1
                    await response.write(script.stream[sent - 1])
                if not script.hold:
                    return response
                await self._world.waits.until(None, script.wakeups)
        except ConnectionError:
            return response

    def _framing(self, request: web.Request, task: Task) -> frozenset[str]:
        wanted = request.query.get("framing") or task.shape.get("framing") or self._world.framing
        try:
            return parse_framing(str(wanted))
        except BadFraming as wrong:
            raise Refusal(400, "invalid_param", str(wrong)) from wrong
