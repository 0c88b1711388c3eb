"""Simulates ByteSpike: seeds 003 and 004, and the pages of docs.bytespike.ai."""

import math
from collections.abc import Mapping

from aiohttp import web

from bridge.simulator.endpoint import (
    ProviderEndpoint,
    SubmitRequest,
    bearer_key,
    media_of,
    not_found,
    read_json,
)
from bridge.simulator.files import file_url
from bridge.simulator.lifecycle import Media, Stage, seeded_random
from bridge.simulator.replies import Refusal, Reply, json_reply
from bridge.simulator.state import SimulatorState
from bridge.simulator.streams import StreamPlayer
from bridge.simulator.tasks import Json, Task, TaskView, ulid

WORDS = {
    Stage.QUEUED: "pending",
    Stage.RUNNING: "running",
    Stage.COMPLETED: "completed",
    Stage.FAILED: "failed",
    Stage.CANCELLED: "cancelled",
}
BODY_LIMIT = 1024 * 1024
SPENT_PER_TASK = 0.05
WINDOW_SECONDS = 5 * 3600
OUT_TASK_ID = "out_task_id"


class ByteSpikeStyle:
    """Payloads. `sim.shape.page` = `model`: the different words and results of the per-model pages."""

    name = "bytespike"

    def __init__(self, state: SimulatorState) -> None:
        self._state = state

    def show(self, task: Task, view: TaskView) -> Json:
        """No progress and no timestamps; the estimate is cleared once `credits_used` is set (seed 004)."""
        model_page = task.shape.get("page") == "model"
        word = "queued" if model_page and view.stage is Stage.QUEUED else WORDS[view.stage]
        credits_used, estimate, seconds = self._figures(task)
        shown: Json = {"task_id": task.id, "status": view.word or word}
        if task.body.get(OUT_TASK_ID):
            shown[OUT_TASK_ID] = task.body[OUT_TASK_ID]
        if not view.stage.final:
            return {**shown, "estimated_credits": estimate, "estimated_seconds": seconds}
        if view.stage is Stage.COMPLETED and model_page:
            result = {"video_url": file_url(task), "duration_seconds": 8, "resolution": "720p"}
            return {**shown, "result": result, "credits": credits_used}
        if view.stage is Stage.COMPLETED:
            output: Json = {"type": task.media.value, "url": file_url(task)}
            if task.media is not Media.IMAGE:
                output["duration_seconds"] = 8
            return {**shown, "credits_used": credits_used, "output": [output]}
        if view.stage is Stage.FAILED:
            message = "The model refused the prompt \u2014 nothing was billed"
            return {**shown, "error_code": "generation_failed", "error_message": message}
        return shown

    def refuse(self, refusal: Refusal) -> Reply:
        """The OpenAI envelope (error-handling page)."""
        kind = "rate_limit_error" if refusal.status == web.HTTPTooManyRequests.status_code else "api_error"
        if refusal.status in (400, 404, 409, 413):
            kind = "invalid_request_error"
        error = {"type": kind, "code": refusal.code, "message": refusal.message}
        return json_reply({"error": error}, refusal.status)

    def error_in_200(self, task: Task | None) -> Reply:
        del task
        error = {"type": "api_error", "code": "internal_error", "message": "The gateway is busy"}
        return json_reply({"error": error}, headers=self.headers())

    def headers(self) -> Mapping[str, str]:
        """Limits in US dollars, not in requests (rate-limits page): a small remainder is not a rate limit."""
        spent = SPENT_PER_TASK * self._state.store.last_number(self.name)
        reset = (int(self._state.clock.now()) // WINDOW_SECONDS + 1) * WINDOW_SECONDS
        return {
            "X-RateLimit-Limit": "10.00",
            "X-RateLimit-Remaining": f"{max(0.0, 10.0 - spent):.2f}",
            "X-RateLimit-Reset": str(reset),
            "X-Quota-Remaining-Credits": f"{max(0.0, 1000.0 - spent):.2f}",
        }

    def _figures(self, task: Task) -> tuple[float, float, int]:
        """Return credits used, credits estimated and seconds estimated (within 20 percent)."""
        rng = seeded_random(self._state.seed, self.name, task.number, "figures")
        used = round(rng.uniform(0.2, 2.0), 2)
        estimate = round(used * rng.uniform(1.0, 1.1), 2)
        return used, estimate, max(1, math.ceil(task.lifecycle.seconds * rng.uniform(0.8, 1.2)))


class ByteSpike:
    def __init__(self, state: SimulatorState) -> None:
        self.state = state
        self.style = ByteSpikeStyle(state)
        self.endpoint = ProviderEndpoint(state, self.style, read_key=either_key)
        self.streams = StreamPlayer(self.endpoint)

    def routes(self) -> list[web.RouteDef]:
        guarded, base = self.endpoint.guarded, "/bytespike/v1"
        return [
            web.post(f"{base}/tasks/submit", guarded(self.submit)),
            web.post(f"{base}/tasks/query", guarded(self.query)),
            web.get(f"{base}/tasks/query", guarded(self.query), allow_head=False),
            web.post(f"{base}/tasks/cancel", guarded(self.cancel)),
            web.post(f"{base}/tasks/cancel/{{task_id}}", guarded(self.cancel)),
            web.get(f"{base}/tasks/stream/{{task_id}}", guarded(self.stream), allow_head=False),
            web.post(f"{base}/videos/generations", guarded(self.submit)),
            web.get(f"{base}/videos/tasks/{{task_id}}", guarded(self.query_path)),
            web.route("*", "/bytespike/{rest:.*}", guarded(self.not_found_route)),
        ]

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """The same `out_task_id` gives the same task, or 409 for other parameters (tasks-submit page)."""
        if (request.content_length or 0) > BODY_LIMIT:
            raise Refusal(413, "body_too_large", "The body is over 1 MiB")
        submit = await self.endpoint.read_submit(request)
        faults = self.endpoint.due_faults("submit", "")
        task = self._earlier(submit) or self._create(submit)
        self.state.calls.count("bytespike", "submit", task.id)
        view = task.view(self.state.clock.now())
        return await self.endpoint.send(request, self._reply(task, view), faults, task)

    async def query(self, request: web.Request) -> web.StreamResponse:
        """By `task_id` or by `out_task_id`, never both (seed 004). The sora-2 page uses GET."""
        named: Mapping[str, object] = request.query if request.method == "GET" else await read_json(request)
        task_id = self._resolved(request, named)
        self.state.calls.count("bytespike", "status", task_id)
        return await self.endpoint.status(request, task_id)

    async def query_path(self, request: web.Request) -> web.StreamResponse:
        task_id = request.match_info["task_id"]
        self.state.calls.count("bytespike", "status", task_id)
        return await self.endpoint.status(request, task_id)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """A finished task is returned unchanged with 200; the id in the path wins (tasks-cancel page)."""
        in_path = request.match_info.get("task_id")
        named = {"task_id": in_path} if in_path else await read_json(request)
        task_id = self._resolved(request, named)
        self.state.calls.count("bytespike", "cancel", task_id)
        task = self.endpoint.find(task_id, self.endpoint.key(request))
        faults = self.endpoint.due_faults("cancel", task_id, task)
        now = self.state.clock.now()
        if not task.view(now).stage.final:
            task.cancel(now)
        return await self.endpoint.send(request, self._reply(task, task.view(now)), faults, task)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        task_id = request.match_info["task_id"]
        self.state.calls.count("bytespike", "stream", task_id)
        return await self.streams.serve(request, task_id)

    async def not_found_route(self, request: web.Request) -> web.StreamResponse:
        raise Refusal(404, "not_found", f"No route {request.method} {request.path}")

    def _reply(self, task: Task, view: TaskView) -> Reply:
        return json_reply(self.style.show(task, view), headers=self.style.headers())

    def _resolved(self, request: web.Request, named: Mapping[str, object]) -> str:
        """Return the id of the task the caller names; scripted tasks match either kind of id."""
        task_id, out_task_id = named.get("task_id"), named.get(OUT_TASK_ID)
        if bool(task_id) == bool(out_task_id):
            raise Refusal(400, "invalid_param", "Exactly one of task_id and out_task_id is required")
        if task_id or ("bytespike", str(out_task_id)) in self.state.scripts:
            return str(task_id or out_task_id)
        task = self.state.store.named(OUT_TASK_ID, self.endpoint.key(request), str(out_task_id))
        if task is None:
            raise not_found()
        return task.id

    def _earlier(self, submit: SubmitRequest) -> Task | None:
        out_task_id = submit.body.get(OUT_TASK_ID)
        if not out_task_id:
            return None
        task = self.state.store.named(OUT_TASK_ID, submit.key, str(out_task_id))
        if task is None:
            return None
        if any(task.body.get(part) != submit.body.get(part) for part in ("model", "params")):
            raise Refusal(409, "duplicate_out_task_id", "out_task_id was used with other parameters")
        return task

    def _create(self, submit: SubmitRequest) -> Task:
        if not submit.body.get("model"):
            raise Refusal(400, "invalid_param", "model is required")
        if not isinstance(submit.body.get("params", {}), dict):
            raise Refusal(400, "invalid_param", "params must be an object")
        task = self.endpoint.create(submit, media_of(submit, str(submit.body["model"])), self._new_id)
        if out_task_id := submit.body.get(OUT_TASK_ID):
            self.state.store.name(task, OUT_TASK_ID, str(out_task_id))
        if task.callback_url:
            self.state.callbacks.when_ended(task, self.style.show)
        return task

    def _new_id(self, number: int) -> str:
        return f"task_{ulid(seeded_random(self.state.seed, 'bytespike', number, 'id'))}"


def either_key(headers: Mapping[str, str]) -> str:
    """The overview page allows `Authorization: Bearer` and `x-api-key`."""
    bearer = headers.get("Authorization", "").startswith("Bearer ")
    return bearer_key(headers) if bearer else headers.get("x-api-key", "")
