"""Serves `/_sim`: what happened in the simulator, and what shall happen next."""

import re
from dataclasses import dataclass

import orjson
from aiohttp import web

from bridge.simulator.clock import ManualClock
from bridge.simulator.faults import BadFault, parse_faults
from bridge.simulator.replies import json_reply
from bridge.simulator.script import BadScript, Script, parse_answers, parse_script
from bridge.simulator.tasks import Json, Task
from bridge.simulator.world import World


@dataclass(frozen=True, slots=True)
class Control:
    world: World

    def routes(self) -> list[web.RouteDef]:
        one = f"/_sim/{{provider:{'|'.join(map(re.escape, self.world.providers))}}}/tasks/{{task_id}}"
        return [
            web.get("/_sim/calls", self.calls, allow_head=False),
            web.delete("/_sim/calls", self.reset_calls),
            web.get("/_sim/tasks", self.tasks, allow_head=False),
            web.get("/_sim/callbacks", self.callbacks, allow_head=False),
            web.get("/_sim/faults", self.faults, allow_head=False),
            web.put("/_sim/faults", self.set_faults),
            web.get("/_sim/clock", self.clock, allow_head=False),
            web.post("/_sim/clock", self.advance),
            web.put(one, self.put_script),
            web.delete(one, self.delete_task),
            web.post(f"{one}/answers", self.add_answers),
            web.post(f"{one}/stream", self.push_chunk),
        ]

    async def calls(self, request: web.Request) -> web.Response:
        return json_reply(self.world.calls.report(request.query.get("task"))).response()

    async def reset_calls(self, request: web.Request) -> web.Response:
        del request
        self.world.calls.reset()
        return web.Response(status=204)

    async def tasks(self, request: web.Request) -> web.Response:
        """Every submitted task with its plan, and the names of the scripted ones."""
        del request
        return json_reply(
            {
                "tasks": [self._described(task) for task in self.world.store.everything()],
                "scripted": [
                    {"provider": provider, "task_id": task_id, "asked": script.asked}
                    for (provider, task_id), script in self.world.scripts.items()
                ],
            }
        ).response()

    async def callbacks(self, request: web.Request) -> web.Response:
        """What was posted and answered. With `?count=n` it is told once there are n."""
        callbacks, task_id = self.world.callbacks, request.query.get("task")
        if (count := request.query.get("count", "")).isdecimal():
            await callbacks.wait_posted(int(count), task_id)
        return json_reply({"callbacks": callbacks.report(task_id)}).response()

    async def faults(self, request: web.Request) -> web.Response:
        del request
        return json_reply(self.world.book.listed()).response()

    async def set_faults(self, request: web.Request) -> web.Response:
        """Replaces the faults of the providers named; those not named keep theirs."""
        body = await _body(request)
        if strange := sorted(set(body) - {"*", *self.world.providers}):
            return _refused(f"no provider is called {', '.join(strange)}")
        try:
            self.world.book.set({provider: parse_faults(raw) for provider, raw in body.items()})
        except BadFault as wrong:
            return _refused(str(wrong))
        return json_reply(self.world.book.listed()).response()

    async def clock(self, request: web.Request) -> web.Response:
        """The time. With `?waiting=n` it is told once n things wait for a manual clock."""
        clock = self.world.clock
        if not isinstance(clock, ManualClock):
            return json_reply({"now": clock.now(), "manual": False}).response()
        if (count := request.query.get("waiting", "")).isdecimal():
            await clock.wait_waiting(int(count))
        return json_reply({"now": clock.now(), "manual": True, "waiting": clock.waiting}).response()

    async def advance(self, request: web.Request) -> web.Response:
        seconds = (await _body(request)).get("advance")
        if not isinstance(self.world.clock, ManualClock):
            return _refused("the clock is the machine's; start the simulator with --manual-clock", 409)
        if not isinstance(seconds, int | float) or seconds < 0:
            return _refused("advance is a number of seconds")
        self.world.clock.advance(seconds)
        return json_reply({"now": self.world.clock.now(), "manual": True}).response()

    async def put_script(self, request: web.Request) -> web.Response:
        try:
            script = parse_script(await _body(request))
        except BadScript as wrong:
            return _refused(str(wrong))
        earlier = self.world.scripts.pop(_named(request), None)
        self.world.scripts[_named(request)] = script
        if earlier is not None:
            earlier.push(None, close=True)
        return web.Response(status=204)

    async def delete_task(self, request: web.Request) -> web.Response:
        script = self.world.scripts.pop(_named(request), None)
        if script is None:
            return _refused("no such scripted task", 404)
        script.push(None, close=True)
        return web.Response(status=204)

    async def add_answers(self, request: web.Request) -> web.Response:
        body = await _body(request)
        try:
            answers = parse_answers(body.get("answers", []))
        except BadScript as wrong:
            return _refused(str(wrong))
        self._script(request).add(answers, instead=bool(body.get("replace", False)))
        return web.Response(status=204)

    async def push_chunk(self, request: web.Request) -> web.Response:
        """One more chunk for the streams of a scripted task; `{"close": true}` ends those that are held."""
        body = await _body(request)
        chunk = body.get("chunk")
        if chunk is not None and not isinstance(chunk, str):
            return _refused("chunk is a string")
        self._script(request).push(chunk, close=bool(body.get("close", False)))
        return web.Response(status=204)

    def _script(self, request: web.Request) -> Script:
        """The script to be changed; one that was only ever added to begins empty."""
        return self.world.scripts.setdefault(_named(request), Script(answers=[]))

    def _described(self, task: Task) -> Json:
        view = task.view(self.world.clock.now())
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
            "queue_seconds": task.life.queue_seconds,
            "run_seconds": task.life.run_seconds,
            "outcome": task.life.outcome,
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
            text='{"error": "the body is a JSON object"}', content_type="application/json"
        )
    return body
