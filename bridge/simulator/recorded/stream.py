"""Streams the recorded frames of a preset's own stream, as the clock reaches the task's transitions."""

from aiohttp import web

from bridge.simulator.callbacks import task_views
from bridge.simulator.endpoint import ProviderEndpoint, mark_seen
from bridge.simulator.recorded.style import RecordedStyle
from bridge.simulator.streams import HEADERS, StreamPlayer
from bridge.simulator.tasks import Task


class RecordedStreams(StreamPlayer):
    """Supports the faults and scripts of every stream; the framing is the recorded one."""

    def __init__(self, endpoint: ProviderEndpoint, style: RecordedStyle) -> None:
        super().__init__(endpoint)
        self._endpoint = endpoint
        self._style = style

    async def push(self, request: web.Request, task: Task) -> web.StreamResponse:
        response = web.StreamResponse(headers=HEADERS)
        state = self._endpoint.state
        try:
            await response.prepare(request)
            for frame in self._style.heartbeat_frames(task, task.view(state.clock.now())):
                await response.write(frame)
            async for view in task_views(task, state.waits):
                for frame in self._style.frames(task, view):
                    await response.write(frame)
                mark_seen(task, view, ())
        except ConnectionError:
            return response  # the client has disconnected
        return response
