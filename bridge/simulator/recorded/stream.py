"""Pushes the recorded frames of a preset's own stream, as the clock brings the task's states about."""

from aiohttp import web

from bridge.simulator.callbacks import unfold
from bridge.simulator.desk import ProviderDesk, seen
from bridge.simulator.recorded.voice import RecordedVoice
from bridge.simulator.streams import HEADERS, StreamPlayer
from bridge.simulator.tasks import Task


class RecordedStreams(StreamPlayer):
    """Has the faults and the scripts of every stream; the framing is the recorded one."""

    def __init__(self, desk: ProviderDesk, voice: RecordedVoice) -> None:
        super().__init__(desk)
        self._desk = desk
        self._voice = voice

    async def push(self, request: web.Request, task: Task) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        world = self._desk.world
        try:
            await response.prepare(request)
            for frame in self._voice.quiet_frames(task, task.view(world.clock.now())):
                await response.write(frame)
            async for view in unfold(task, world.waits):
                for frame in self._voice.frames(task, view):
                    await response.write(frame)
                seen(task, view, ())
        except ConnectionError:
            return response  # the reader has left
        return response
