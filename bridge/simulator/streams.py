"""Streams the states of one task over `GET /v1/tasks/stream/{task_id}`, as the clock reaches them."""

import asyncio

from aiohttp import web

from bridge.simulator.callbacks import task_views
from bridge.simulator.endpoint import ProviderEndpoint, mark_seen, not_found
from bridge.simulator.framing import BadFraming, Framer, parse_framing
from bridge.simulator.replies import Refusal, close_connection, json_reply
from bridge.simulator.script import Script
from bridge.simulator.tasks import Task

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
# Faults that replace the stream; the framings cover those that corrupt a body.
INSTEAD_OF_STREAM = frozenset({"timeout", "html", "huge", "redirect", "envelope-error"})


class FrameWriter:
    """Writes whole frames: a heartbeat never interrupts a frame, even one split into single bytes."""

    def __init__(self, response: web.StreamResponse, framer: Framer) -> None:
        self._response = response
        self._framer = framer
        self._lock = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        async with self._lock:
            for piece in self._framer.pieces(data):
                await self._response.write(piece)


class StreamPlayer:
    def __init__(self, endpoint: ProviderEndpoint) -> None:
        self._endpoint = endpoint
        self._state = endpoint.state

    async def serve(self, request: web.Request, task_id: str) -> web.StreamResponse:
        """Serve the stream; the framing decides when it ends and how it breaks."""
        key = self._endpoint.key(request)
        script = self._state.scripts.get((self._endpoint.style.name, task_id))
        task = None if script is not None else self._endpoint.find(task_id, key)
        faults = self._endpoint.due_faults("stream", task_id, task)
        refused = next((fault for fault in faults if fault.name == "refuse-stream"), None)
        if refused is not None:
            raise Refusal(refused.status, "stream_unavailable", "No stream is available for this task")
        if any(fault.name in INSTEAD_OF_STREAM for fault in faults):
            return await self._endpoint.send(request, json_reply({}), faults, task)
        for fault in faults:
            if fault.name == "slow":
                await self._state.waits.sleep(fault.seconds or 0)
        if script is not None:
            return await self._play(request, script)
        assert task is not None
        return await self.push(request, task)

    async def push(self, request: web.Request, task: Task) -> web.StreamResponse:
        """Stream the states of a submitted task."""
        framer = Framer(self._framing(request, task))
        response = web.StreamResponse(headers={**HEADERS, **self._endpoint.style.headers()})
        try:
            await response.prepare(request)
            if "silent" in framer.words:
                await self._state.waits.forever()
            writer = FrameWriter(response, framer)
            await writer.write(framer.opening())
            if await self._updates(request, writer, framer, task):
                await writer.write(framer.closing())
        except ConnectionError:
            return response  # the client has disconnected
        return response

    async def _updates(self, request: web.Request, writer: FrameWriter, framer: Framer, task: Task) -> bool:
        """Write each state; return False when the framing cut the connection."""
        heartbeat = asyncio.get_running_loop().create_task(self._send_heartbeats(writer, framer))
        try:
            async for view in task_views(task, self._state.waits):
                final = view.stage.final
                data = framer.update(self._endpoint.style.show(task, view), final=final)
                if framer.cuts(final=final):
                    await writer.write(data[: len(data) // 2])
                    close_connection(request)
                    return False
                await writer.write(data)
                mark_seen(task, view, ())
        finally:
            heartbeat.cancel()
            await asyncio.gather(heartbeat, return_exceptions=True)
        return True

    async def _send_heartbeats(self, writer: FrameWriter, framer: Framer) -> None:
        while beat := framer.beat():
            await self._state.waits.sleep(self._state.heartbeat_seconds)
            await writer.write(beat)

    async def _play(self, request: web.Request, script: Script) -> web.StreamResponse:
        """Send the chunks of a script unchanged; with `hold`, wait for more."""
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
                await self._state.waits.until(None, script.wakeups)
        except ConnectionError:
            return response

    def _framing(self, request: web.Request, task: Task) -> frozenset[str]:
        wanted = request.query.get("framing") or task.shape.get("framing") or self._state.framing
        try:
            return parse_framing(str(wanted))
        except BadFraming as error:
            raise Refusal(400, "invalid_param", str(error)) from error
