"""The control routes under `/_sim`: inspect the simulator and control what it does next."""

import re
from dataclasses import dataclass

import orjson
from aiohttp import web

from bridge.simulator.clock import ManualClock
from bridge.simulator.faults import BadFault, parse_faults
from bridge.simulator.replies import json_reply
from bridge.simulator.script import BadScript, Script, parse_answers, parse_script
from bridge.simulator.state import SimulatorState
from bridge.simulator.tasks import Json, Task


@dataclass(frozen=True, slots=True)
class Control:
    state: SimulatorState

    def routes(self) -> list[web.RouteDef]:
        task_route = f"/_sim/{{provider:{'|'.join(map(re.escape, self.state.providers))}}}/tasks/{{task_id}}"
        return [
            web.get("/_sim/calls", self.calls, allow_head=False),
            web.delete("/_sim/calls", self.reset_calls),
            web.get("/_sim/tasks", self.tasks, allow_head=False),
            web.get("/_sim/callbacks", self.callbacks, allow_head=False),
            web.get("/_sim/faults", self.faults, allow_head=False),
            web.put("/_sim/faults", self.set_faults),
            web.get("/_sim/clock", self.clock, allow_head=False),
            web.post("/_sim/clock", self.advance),
            web.put(task_route, self.put_script),
            web.delete(task_route, self.delete_task),
            web.post(f"{task_route}/answers", self.add_answers),
            web.post(f"{task_route}/stream", self.push_chunk),
        ]

    async def calls(self, request: web.Request) -> web.Response:
        return json_reply(self.state.calls.report(request.query.get("task"))).response()

    async def reset_calls(self, request: web.Request) -> web.Response:
        del request
        self.state.calls.reset()
        return web.Response(status=204)

    async def tasks(self, request: web.Request) -> web.Response:
        """List every submitted task with its planned lifecycle, and the ids of scripted tasks."""
        del request
        return json_reply(
            {
                "tasks": [self._description(task) for task in self.state.store.everything()],
                "scripted": [
                    {"provider": provider, "task_id": task_id, "asked": script.served}
                    for (provider, task_id), script in self.state.scripts.items()
                ],
            }
        ).response()

    async def callbacks(self, request: web.Request) -> web.Response:
        """List the callbacks posted and their responses. With `?count=n`, wait until there are n."""
        callbacks, task_id = self.state.callbacks, request.query.get("task")
        if (count := request.query.get("count", "")).isdecimal():
            await callbacks.wait_posted(int(count), task_id)
        return json_reply({"callbacks": callbacks.report(task_id)}).response()

    async def faults(self, request: web.Request) -> web.Response:
        del request
        return json_reply(self.state.faults.listed()).response()

    async def set_faults(self, request: web.Request) -> web.Response:
        """Replace the faults of the providers in the body; the others keep theirs."""
        body = await _body(request)
        if unknown := sorted(set(body) - {"*", *self.state.providers}):
            return _refused(f"unknown provider: {', '.join(unknown)}")
        try:
            self.state.faults.set({provider: parse_faults(raw) for provider, raw in body.items()})
        except BadFault as error:
            return _refused(str(error))
        return json_reply(self.state.faults.listed()).response()

    async def clock(self, request: web.Request) -> web.Response:
        """Return the time. With `?waiting=n`, wait until n coroutines sleep on a manual clock."""
        clock = self.state.clock
        if not isinstance(clock, ManualClock):
            return json_reply({"now": clock.now(), "manual": False}).response()
        if (count := request.query.get("waiting", "")).isdecimal():
            await clock.wait_waiting(int(count))
        return json_reply({"now": clock.now(), "manual": True, "waiting": clock.waiting}).response()

    async def advance(self, request: web.Request) -> web.Response:
        seconds = (await _body(request)).get("advance")
        if not isinstance(self.state.clock, ManualClock):
            return _refused("the clock is real time; start the simulator with --manual-clock", 409)
        if not isinstance(seconds, int | float) or seconds < 0:
            return _refused("advance must be a number of seconds, 0 or more")
        self.state.clock.advance(seconds)
        return json_reply({"now": self.state.clock.now(), "manual": True}).response()

    async def put_script(self, request: web.Request) -> web.Response:
        try:
            script = parse_script(await _body(request))
        except BadScript as error:
            return _refused(str(error))
        earlier = self.state.scripts.pop(_named(request), None)
        self.state.scripts[_named(request)] = script
        if earlier is not None:
            earlier.push(None, close=True)
        return web.Response(status=204)

    async def delete_task(self, request: web.Request) -> web.Response:
        script = self.state.scripts.pop(_named(request), None)
        if script is None:
            return _refused("no such scripted task", 404)
        script.push(None, close=True)
        return web.Response(status=204)

    async def add_answers(self, request: web.Request) -> web.Response:
        body = await _body(request)
        try:
            answers = parse_answers(body.get("answers", []))
        except BadScript as error:
            return _refused(str(error))
        self._script(request).add(answers, replace=bool(body.get("replace", False)))
        return web.Response(status=204)

    async def push_chunk(self, request: web.Request) -> web.Response:
        """Send a chunk to the streams of a scripted task; `{"close": true}` ends streams with `hold`."""
        body = await _body(request)
        chunk = body.get("chunk")
        if chunk is not None and not isinstance(chunk, str):
            return _refused("chunk must be a string")
        self._script(request).push(chunk, close=bool(body.get("close", False)))
        return web.Response(status=204)

    def _script(self, request: web.Request) -> Script:
        """Return the script to change; a new one starts without answers."""
        return self.state.scripts.setdefault(_named(request), Script(answers=[]))

    def _description(self, task: Task) -> Json:
        view = task.view(self.state.clock.now())
        return {
            "provider": task.provider,
            "number": task.number,
            "task_id": task.id,
            "vendor": task.vendor,
            "model": task.model,
            "media": task.media,
            "stage": view.stage,
            "progress": view.progress,
            "created_at": task.created_at,
            "queue_seconds": task.lifecycle.queue_seconds,
            "run_seconds": task.lifecycle.run_seconds,
            "outcome": task.lifecycle.outcome,
            "ends_at": task.ends_at,
            "gone": task.gone,
        }


def _named(request: web.Request) -> tuple[str, str]:
    return request.match_info["provider"], request.match_info["task_id"]


def _refused(message: str, status: int = 400) -> web.Response:
    return json_reply({"error": message}, status).response()


async def _body(request: web.Request) -> Json:
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(
            text='{"error": "the body must be a JSON object"}', content_type="application/json"
        )
    return body
