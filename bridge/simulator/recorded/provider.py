"""Serves one preset's calls under `/NAME`: submit, status, cancel, follow-up call for results, stream."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from bridge.simulator.endpoint import ProviderEndpoint, not_found
from bridge.simulator.lifecycle import Media, Stage
from bridge.simulator.recorded import paths
from bridge.simulator.recorded.calls import CallMatch, ProviderRequest
from bridge.simulator.recorded.credentials import key_reader
from bridge.simulator.recorded.many import ManyShape
from bridge.simulator.recorded.preset import Preset
from bridge.simulator.recorded.stream import RecordedStreams
from bridge.simulator.recorded.style import RecordedStyle
from bridge.simulator.replies import Refusal, Reply, json_reply
from bridge.simulator.state import SimulatorState
from bridge.simulator.tasks import Json, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedCall:
    """A matched call; `task_id` is empty for a submit."""

    request: web.Request
    incoming: ProviderRequest
    match: CallMatch
    task_id: str


Serve = Callable[[MatchedCall], Awaitable[web.StreamResponse]]


class RecordedProvider:
    """One preset, simulated from its file and its recordings."""

    def __init__(self, state: SimulatorState, preset: Preset) -> None:
        self.state = state
        self.preset = preset
        self.style = RecordedStyle(preset, state.seed)
        read_key = key_reader(preset.auth_headers, one_account=preset.one_account)
        self.endpoint = ProviderEndpoint(state, self.style, read_key)
        self.streams = RecordedStreams(self.endpoint, self.style)
        self._serve: dict[str, Serve] = {
            "submit": self._submit,
            "status": self._status,
            "alias": self._status,
            "follow_up": self._follow_up,
            "cancel": self._cancel,
            "stream": self._stream,
        }

    def routes(self) -> list[web.RouteDef]:
        return [web.route("*", f"/{self.preset.name}/{{rest:.*}}", self.endpoint.guarded(self.serve))]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve a request: of several matching calls, the most specific one that names a known task."""
        incoming = await self._incoming(request)
        many = self.preset.many
        if many is not None and (ids := many.ids(request, incoming.path)) is not None:
            return await self._status_many(request, many, ids)
        matches = self.preset.matches(incoming)
        if not matches:
            raise Refusal(404, "not_found", "The preset defines no such call")
        key = self.endpoint.key(request)
        known = [(match, named) for match in matches if (named := self._named(match, key)) is not None]
        match, task_id = known[0] if known else (matches[0], self.preset.own_part(matches[0].values))
        call = MatchedCall(request=request, incoming=incoming, match=match, task_id=task_id)
        return await self._serve[match.call](call)

    async def _incoming(self, request: web.Request) -> ProviderRequest:
        path = request.rel_url.raw_path.removeprefix(f"/{self.preset.name}")
        query = dict(parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True))
        return ProviderRequest(method=request.method, path=path, query=query, body=await _body(request))

    async def _submit(self, call: MatchedCall) -> web.StreamResponse:
        submit = await self.endpoint.read_submit(call.request, call.incoming.body)
        self._check_shape(submit.shape)
        faults = self.endpoint.due_faults("submit", "")
        task = self.endpoint.create(submit, self._media(), self.style.new_id)
        task.options = call.match.values
        alias = paths.find(call.incoming.body, self.preset.client_id)
        task.alias = alias if isinstance(alias, str) else None
        for name in self.style.aliases(task):
            self.state.store.name(task, self.preset.name, name)
        self._call_back(task, call.incoming)
        self.state.calls.count(self.preset.name, "submit", task.id)
        view = task.view(self.state.clock.now())
        return await self.endpoint.send(call.request, self.style.submitted(task, view), faults, task)

    async def _status(self, call: MatchedCall) -> web.StreamResponse:
        self.state.calls.count(self.preset.name, "status", call.task_id)
        return await self.endpoint.status(call.request, call.task_id, self.style.answer)

    async def _status_many(self, request: web.Request, many: ManyShape, ids: list[str]) -> web.StreamResponse:
        """Tasks that do not exist are left out."""
        key = self.endpoint.key(request)
        self.state.calls.count(self.preset.name, "status_many", ",".join(ids))
        faults = self.endpoint.due_faults("status_many", "")
        now = self.state.clock.now()
        tasks = [self.state.store.find(self.preset.name, task_id, key) for task_id in ids]
        shown = [task for task in tasks if task is not None and not task.gone]
        body = many.answer([self.style.show(task, task.view(now)) for task in shown], faults)
        return await self.endpoint.send(request, json_reply(body), faults)

    async def _follow_up(self, call: MatchedCall) -> web.StreamResponse:
        self.state.calls.count(self.preset.name, "file", call.task_id)
        task = self.endpoint.find(call.task_id, self.endpoint.key(call.request))
        view = task.view(self.state.clock.now())
        if view.stage is not Stage.COMPLETED:
            raise not_found()
        faults = self.endpoint.due_faults("file", task.id, task)
        return await self.endpoint.send(call.request, self.style.follow_up(task, view), faults, task)

    async def _cancel(self, call: MatchedCall) -> web.StreamResponse:
        """A finished task stays unchanged, but `DELETE` then removes its record (Ark, Runway).

        Where a refusal is recorded, only a queued task can be cancelled: all those providers document it.
        """
        self.state.calls.count(self.preset.name, "cancel", call.task_id)
        task = self.endpoint.find(call.task_id, self.endpoint.key(call.request))
        faults = self.endpoint.due_faults("cancel", call.task_id, task)
        now = self.state.clock.now()
        view, deletes = task.view(now), call.incoming.method == "DELETE"
        refused = self.style.not_cancelled(task, view)
        if refused is not None and view.stage is not Stage.QUEUED and not (deletes and view.stage.final):
            return await self.endpoint.send(call.request, refused, faults, task)
        if not view.stage.final:
            task.cancel(now)
        if deletes:
            task.gone = view.stage.final or Stage.CANCELLED not in self.preset.stages
        reply = self.style.cancelled(task, task.view(now))
        if deletes and self.preset.cancelled is None:
            reply = Reply(body=b"", status=204)
        return await self.endpoint.send(call.request, reply, faults, task)

    async def _stream(self, call: MatchedCall) -> web.StreamResponse:
        self.state.calls.count(self.preset.name, "stream", call.task_id)
        if not self.preset.frames and (self.preset.name, call.task_id) not in self.state.scripts:
            raise not_found()
        return await self.streams.serve(call.request, call.task_id)

    def _named(self, match: CallMatch, key: str) -> str | None:
        """Return the id of the task, submitted or scripted, that one of the call's values names."""
        for value in match.values.values():
            if (self.preset.name, value) in self.state.scripts:
                return value
            store = self.state.store
            task = store.find(self.preset.name, value, key) or store.named(self.preset.name, key, value)
            if task is not None and match.call != "submit":
                return task.id
        return None

    def _call_back(self, task: Task, incoming: ProviderRequest) -> None:
        """Post the status payload once, at the end; what each provider really posts is not recorded."""
        url = paths.find(incoming.body, self.preset.callback_url)
        url = incoming.query.get(self.preset.callback_query or "", url)
        task.callback_url = url if isinstance(url, str) and url else None
        if task.callback_url:
            self.state.callbacks.when_ended(task, self.style.show)

    def _media(self) -> Media:
        kinds = self.preset.stages[Stage.COMPLETED].links.values()
        return next((media for media in Media if media.value in kinds), Media.VIDEO)

    def _check_shape(self, shape: Json) -> None:
        """Reject unknown shapes: a misspelt option that is silently ignored is hard to find.

        Raises:
            Refusal: 400.
        """
        wanted = shape.get("recording", [])
        names = {answer.name for answer in self.preset.answers}
        requested = [wanted] if isinstance(wanted, str) else wanted
        if (
            set(shape) - {"recording"}
            or not isinstance(requested, list)
            or not names.issuperset(map(str, requested))
        ):
            raise Refusal(
                400, "invalid_param", f"sim.shape.recording must be among {', '.join(sorted(names))}"
            )


async def _body(request: web.Request) -> Json:
    """Return the body as an object; an empty one for forms and other content types."""
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}
