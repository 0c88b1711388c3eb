"""Simulates qingbo (WaveAPI, QWave API): seeds 000, 001 and 002, and the pages of docs.qingbo.dev."""

from collections.abc import Mapping

from aiohttp import web

from bridge.simulator.endpoint import ProviderEndpoint, SubmitRequest, media_of
from bridge.simulator.files import file_url
from bridge.simulator.lifecycle import Media, Stage, seeded_random
from bridge.simulator.replies import Refusal, Reply, json_reply
from bridge.simulator.state import SimulatorState
from bridge.simulator.tasks import Json, Task, TaskView, digits, ulid

WORDS = {
    Stage.QUEUED: "queued",
    Stage.RUNNING: "processing",
    Stage.COMPLETED: "completed",
    Stage.FAILED: "failed",
    Stage.CANCELLED: "cancelled",
}
PLURALS = {Media.IMAGE: "images", Media.VIDEO: "videos", Media.AUDIO: "audios"}
EXPIRY_SECONDS = 3 * 24 * 3600
REFUNDED_QUOTA = 50000


class QingboStyle:
    """Payloads. `sim.shape`: `url` (string, array), `timestamps` (seconds, milliseconds), `urls` (bool)."""

    name = "qingbo"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def show(self, task: Task, view: TaskView) -> Json:
        """`progress` drops to 0 on failure, `completed_at` only when final (seed 000)."""
        shown: Json = {
            "task_id": task.id,
            "status": view.word or WORDS[view.stage],
            "action": task.action,
            "model": task.model,
            "progress": view.progress,
            "created_at": self._stamp(task, task.created_at),
        }
        if view.stage.final:
            shown["completed_at"] = self._stamp(task, task.ends_at)
        if view.stage is Stage.FAILED:
            shown["error"] = {
                "message": "Generation failed: the model returned no result",
                "code": "task_failed",
            }
        if view.stage is Stage.COMPLETED:
            shown["result"] = self._result(task)
        if task.shape.get("urls", True):
            link = f"{task.origin}/qingbo/v1/tasks/{task.id}"
            shown["urls"] = {"get": link, "cancel": f"{link}/cancel"}
        return shown

    def submitted(self, task: Task) -> Json:
        return {
            "task_id": task.id,
            "model": task.model,
            "action": task.action,
            "status": "queued",
            "created_at": self._stamp(task, task.created_at),
            "progress": 0,
        }

    def refuse(self, refusal: Refusal) -> Reply:
        """Task routes use `error{message,code}` without `type` (submit and status pages)."""
        return json_reply({"error": {"message": refusal.message, "code": refusal.code}}, refusal.status)

    def error_in_200(self, task: Task | None) -> Reply:
        del task
        return json_reply({"error": {"message": "Service is busy", "code": "internal_error"}})

    def headers(self) -> Mapping[str, str]:
        return {}

    def _stamp(self, task: Task, when: float) -> int:
        """The text says milliseconds, every example has ten digits: seconds by default."""
        return int(when * 1000) if task.shape.get("timestamps") == "milliseconds" else int(when)

    def _result(self, task: Task) -> Json:
        """Older pages: `url` is a string, with empty arrays. Newer: an array, only the type produced."""
        url = file_url(task)
        older = task.shape.get("url", self._default_url(task)) == "string"
        expires = self._stamp(task, task.ends_at + EXPIRY_SECONDS)
        item: Json = {"url": url if older else [url], "expires_at": expires}
        others: Json = {plural: [] for plural in PLURALS.values()} if older else {}
        return {**others, PLURALS[task.media]: [item]}

    def _default_url(self, task: Task) -> str:
        return seeded_random(self._seed, self.name, task.number, "url").choice(["string", "array"])


class Qingbo:
    def __init__(self, state: SimulatorState) -> None:
        self.state = state
        self.style = QingboStyle(state.seed)
        self.endpoint = ProviderEndpoint(state, self.style)

    def routes(self) -> list[web.RouteDef]:
        guarded = self.endpoint.guarded
        return [
            web.post("/qingbo/v1/tasks", guarded(self.submit)),
            web.post("/qingbo/v1/tasks/sync", guarded(self.sync)),
            web.get("/qingbo/v1/tasks/{task_id}", guarded(self.status)),
            web.post("/qingbo/v1/tasks/{task_id}/cancel", guarded(self.cancel)),
        ]

    async def submit(self, request: web.Request) -> web.StreamResponse:
        submit = await self.endpoint.read_submit(request)
        faults = self.endpoint.due_faults("submit", "")
        task = self._create(submit)
        self.state.calls.count("qingbo", "submit", task.id)
        return await self.endpoint.send(request, json_reply(self.style.submitted(task)), faults, task)

    async def sync(self, request: web.Request) -> web.StreamResponse:
        """Return the finished task, or after the timeout a relative `poll_url` (sync page)."""
        submit = await self.endpoint.read_submit(request)
        faults = self.endpoint.due_faults("sync", "")
        task = self._create(submit)
        self.state.calls.count("qingbo", "sync", task.id)
        timeout = self.state.clock.now() + self.state.sync_seconds / self.state.speed
        while (now := self.state.clock.now()) < min(timeout, task.ends_at):
            await self.state.waits.until(min(timeout, task.ends_at), task.wakeups)
        view = task.view(now)
        if view.stage.final:
            return await self.endpoint.send(request, json_reply(self.style.show(task, view)), faults, task)
        pending = {
            "task_id": task.id,
            "status": WORDS[view.stage],
            "progress": view.progress,
            "poll_url": f"/v1/tasks/{task.id}",
        }
        return await self.endpoint.send(request, json_reply(pending), faults, task)

    async def status(self, request: web.Request) -> web.StreamResponse:
        task_id = request.match_info["task_id"]
        self.state.calls.count("qingbo", "status", task_id)
        return await self.endpoint.status(request, task_id)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Only queued tasks can be cancelled (seed 001); the body of the refusal is not documented."""
        task_id = request.match_info["task_id"]
        self.state.calls.count("qingbo", "cancel", task_id)
        task = self.endpoint.find(task_id, self.endpoint.key(request))
        faults = self.endpoint.due_faults("cancel", task_id, task)
        now = self.state.clock.now()
        if task.view(now).stage is not Stage.QUEUED:
            raise Refusal(400, "task_not_cancellable", "Only queued tasks can be cancelled")
        task.cancel(now)
        answer = {
            "task_id": task.id,
            "status": "cancelled",
            "refunded": True,
            "refunded_quota": REFUNDED_QUOTA,
        }
        return await self.endpoint.send(request, json_reply(answer), faults, task)

    def _create(self, submit: SubmitRequest) -> Task:
        if not submit.body.get("model"):
            raise Refusal(400, "invalid_request", "model is required")
        action = str(submit.body.get("action") or "generate")
        task = self.endpoint.create(submit, media_of(submit, action, str(submit.body["model"])), self._new_id)
        task.action = action
        if task.callback_url:
            self.state.callbacks.when_ended(task, self.style.show)
        return task

    def _new_id(self, number: int) -> str:
        """Both forms of id that the pages show: `task_` with a ULID, and `task-wave` with digits."""
        rng = seeded_random(self.state.seed, "qingbo", number, "id")
        return rng.choice([f"task_{ulid(rng)}", f"task-wave{digits(rng, 22)}"])
