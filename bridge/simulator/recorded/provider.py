"""Serves one preset's calls under `/NAME`: submit, status, cancel, the further call for results, stream."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from bridge.simulator.desk import ProviderDesk, not_found
from bridge.simulator.life import Media, Stage
from bridge.simulator.recorded import places
from bridge.simulator.recorded.calls import Incoming, Match
from bridge.simulator.recorded.credentials import key_reader
from bridge.simulator.recorded.preset import Preset
from bridge.simulator.recorded.stream import RecordedStreams
from bridge.simulator.recorded.voice import RecordedVoice
from bridge.simulator.replies import Refusal, Reply
from bridge.simulator.tasks import Json, Task
from bridge.simulator.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingCall:
    """A call that was recognised; `task_id` is empty for a submit."""

    request: web.Request
    incoming: Incoming
    match: Match
    task_id: str


Serve = Callable[[IncomingCall], Awaitable[web.StreamResponse]]


class RecordedProvider:
    """One preset, simulated from its file and its recordings."""

    def __init__(self, world: World, preset: Preset) -> None:
        self.world = world
        self.preset = preset
        self.voice = RecordedVoice(preset, world.seed)
        read_key = key_reader(preset.auth_headers, one_account=preset.one_account)
        self.desk = ProviderDesk(world, self.voice, read_key)
        self.streams = RecordedStreams(self.desk, self.voice)
        self._serve: dict[str, Serve] = {
            "submit": self._submit,
            "status": self._status,
            "alias": self._status,
            "follow_up": self._follow_up,
            "cancel": self._cancel,
            "stream": self._stream,
        }

    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", f"/{self.preset.name}/{{rest:.*}}", self.desk.guarded(self.serve))]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Whichever call this is; of several that it could be, the likeliest that names a task."""
        incoming = await self._incoming(request)
        matches = self.preset.matches(incoming)
        if not matches:
            raise Refusal(404, "not_found", "The preset states no such call")
        key = self.desk.key(request)
        known = [(match, named) for match in matches if (named := self._named(match, key)) is not None]
        match, task_id = known[0] if known else (matches[0], self.preset.own_part(matches[0].values))
        arrival = IncomingCall(request=request, incoming=incoming, match=match, task_id=task_id)
        return await self._serve[match.call](arrival)

    async def _incoming(self, request: web.Request) -> Incoming:
        path = request.rel_url.raw_path.removeprefix(f"/{self.preset.name}")
        query = dict(parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True))
        return Incoming(method=request.method, path=path, query=query, body=await _body(request))

    async def _submit(self, call: IncomingCall) -> web.StreamResponse:
        order = await self.desk.order(call.request, call.incoming.body)
        self._check_shape(order.shape)
        struck = self.desk.strikes("submit", "")
        task = self.desk.create(order, self._media(), self.voice.new_id)
        task.options = call.match.values
        alias = places.find(call.incoming.body, self.preset.client_id)
        task.alias = alias if isinstance(alias, str) else None
        for name in self.voice.aliases(task):
            self.world.store.name(task, self.preset.name, name)
        self._call_back(task, call.incoming)
        self.world.calls.count(self.preset.name, "submit", task.id)
        view = task.view(self.world.clock.now())
        return await self.desk.send(call.request, self.voice.submitted(task, view), struck, task)

    async def _status(self, call: IncomingCall) -> web.StreamResponse:
        self.world.calls.count(self.preset.name, "status", call.task_id)
        return await self.desk.status(call.request, call.task_id, self.voice.answer)

    async def _follow_up(self, call: IncomingCall) -> web.StreamResponse:
        self.world.calls.count(self.preset.name, "file", call.task_id)
        task = self.desk.find(call.task_id, self.desk.key(call.request))
        view = task.view(self.world.clock.now())
        if view.stage is not Stage.COMPLETED:
            raise not_found()
        struck = self.desk.strikes("file", task.id, task)
        return await self.desk.send(call.request, self.voice.follow_up(task, view), struck, task)

    async def _cancel(self, call: IncomingCall) -> web.StreamResponse:
        """A task that has ended stays as it is; but `DELETE` then takes its record away (Ark, Runway).

        Where a refusal is recorded, only a task in the queue can be cancelled: all of them say so.
        """
        self.world.calls.count(self.preset.name, "cancel", call.task_id)
        task = self.desk.find(call.task_id, self.desk.key(call.request))
        struck = self.desk.strikes("cancel", call.task_id, task)
        now = self.world.clock.now()
        view, deletes = task.view(now), call.incoming.method == "DELETE"
        refused = self.voice.not_cancelled(task, view)
        if refused is not None and view.stage is not Stage.QUEUED and not (deletes and view.stage.final):
            return await self.desk.send(call.request, refused, struck, task)
        if not view.stage.final:
            task.cancel(now)
        if deletes:
            task.gone = view.stage.final or Stage.CANCELLED not in self.preset.stages
        reply = self.voice.cancelled(task, task.view(now))
        if deletes and self.preset.cancelled is None:
            reply = Reply(body=b"", status=204)
        return await self.desk.send(call.request, reply, struck, task)

    async def _stream(self, call: IncomingCall) -> web.StreamResponse:
        self.world.calls.count(self.preset.name, "stream", call.task_id)
        if not self.preset.frames and (self.preset.name, call.task_id) not in self.world.scripts:
            raise not_found()
        return await self.streams.serve(call.request, call.task_id)

    def _named(self, match: Match, key: str) -> str | None:
        """The id of the task that one of the call's values names, or of a scripted one."""
        for value in match.values.values():
            if (self.preset.name, value) in self.world.scripts:
                return value
            store = self.world.store
            task = store.find(self.preset.name, value, key) or store.named(self.preset.name, key, value)
            if task is not None and match.call != "submit":
                return task.id
        return None

    def _call_back(self, task: Task, incoming: Incoming) -> None:
        """One POST of the status payload at the end; what each provider really posts is not recorded."""
        asked = places.find(incoming.body, self.preset.callback_url)
        asked = incoming.query.get(self.preset.callback_query or "", asked)
        task.callback_url = asked if isinstance(asked, str) and asked else None
        if task.callback_url:
            self.world.callbacks.at_end(task, self.voice.show)

    def _media(self) -> Media:
        kinds = self.preset.stages[Stage.COMPLETED].links.values()
        return next((media for media in Media if media.value in kinds), Media.VIDEO)

    def _check_shape(self, shape: Json) -> None:
        """Refuses a misspelt wish, which would cost its author an hour.

        Raises:
            Refusal: 400.
        """
        wanted = shape.get("recording", [])
        names = {look.name for look in self.preset.looks}
        asked = [wanted] if isinstance(wanted, str) else wanted
        if set(shape) - {"recording"} or not isinstance(asked, list) or not names.issuperset(map(str, asked)):
            raise Refusal(400, "invalid_param", f"sim.shape.recording is among {', '.join(sorted(names))}")


async def _body(request: web.Request) -> Json:
    """The body as an object; an empty one for forms and whatever else a provider takes."""
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}
