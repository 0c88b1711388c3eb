"""Speaks like qingbo (WaveAPI, QWave API): seeds 000, 001 and 002, and the pages of docs.qingbo.dev."""

from collections.abc import Mapping

from aiohttp import web

from bridge.simulator.desk import Order, ProviderDesk, media_of
from bridge.simulator.files import file_url
from bridge.simulator.life import Media, Stage, dice
from bridge.simulator.replies import Refusal, Reply, json_reply
from bridge.simulator.tasks import Json, Task, View, digits, ulid
from bridge.simulator.world import World

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


class QingboVoice:
    """The shapes. `sim.shape`: `url` (string, array), `timestamps` (seconds, milliseconds), `urls` (bool)."""

    name = "qingbo"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def show(self, task: Task, view: View) -> Json:
        """`progress` falls back to 0 on failure, `completed_at` only when final (seed 000)."""
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
        """The text says milliseconds, every example has ten digits: seconds unless the shape asks."""
        return int(when * 1000) if task.shape.get("timestamps") == "milliseconds" else int(when)

    def _result(self, task: Task) -> Json:
        """Older pages: `url` a string, and empty arrays present; newer: an array, only the kind there is."""
        url = file_url(task)
        older = task.shape.get("url", self._usual_url(task)) == "string"
        expires = self._stamp(task, task.ends_at + EXPIRY_SECONDS)
        item: Json = {"url": url if older else [url], "expires_at": expires}
        others: Json = {plural: [] for plural in PLURALS.values()} if older else {}
        return {**others, PLURALS[task.media]: [item]}

    def _usual_url(self, task: Task) -> str:
        return dice(self._seed, self.name, task.number, "url").choice(["string", "array"])


class Qingbo:
    def __init__(self, world: World) -> None:
        self.world = world
        self.voice = QingboVoice(world.seed)
        self.desk = ProviderDesk(world, self.voice)

    def routes(self) -> list[web.RouteDef]:
        guarded = self.desk.guarded
        return [
            web.post("/qingbo/v1/tasks", guarded(self.submit)),
            web.post("/qingbo/v1/tasks/sync", guarded(self.sync)),
            web.get("/qingbo/v1/tasks/{task_id}", guarded(self.status)),
            web.post("/qingbo/v1/tasks/{task_id}/cancel", guarded(self.cancel)),
        ]

    async def submit(self, request: web.Request) -> web.StreamResponse:
        order = await self.desk.order(request)
        struck = self.desk.strikes("submit", "")
        task = self._create(order)
        self.world.calls.count("qingbo", "submit", task.id)
        return await self.desk.send(request, json_reply(self.voice.submitted(task)), struck, task)

    async def sync(self, request: web.Request) -> web.StreamResponse:
        """The finished task, or after the timeout a relative `poll_url` (sync page)."""
        order = await self.desk.order(request)
        struck = self.desk.strikes("sync", "")
        task = self._create(order)
        self.world.calls.count("qingbo", "sync", task.id)
        timeout = self.world.clock.now() + self.world.sync_seconds / self.world.speed
        while (now := self.world.clock.now()) < min(timeout, task.ends_at):
            await self.world.waits.until(min(timeout, task.ends_at), task.wakeups)
        view = task.view(now)
        if view.stage.final:
            return await self.desk.send(request, json_reply(self.voice.show(task, view)), struck, task)
        pending = {
            "task_id": task.id,
            "status": WORDS[view.stage],
            "progress": view.progress,
            "poll_url": f"/v1/tasks/{task.id}",
        }
        return await self.desk.send(request, json_reply(pending), struck, task)

    async def status(self, request: web.Request) -> web.StreamResponse:
        task_id = request.match_info["task_id"]
        self.world.calls.count("qingbo", "status", task_id)
        return await self.desk.status(request, task_id)

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Only queued tasks can be cancelled (seed 001); the refusal's own body is not documented."""
        task_id = request.match_info["task_id"]
        self.world.calls.count("qingbo", "cancel", task_id)
        task = self.desk.find(task_id, self.desk.key(request))
        struck = self.desk.strikes("cancel", task_id, task)
        now = self.world.clock.now()
        if task.view(now).stage is not Stage.QUEUED:
            raise Refusal(400, "task_not_cancellable", "Only queued tasks can be cancelled")
        task.cancel(now)
        answer = {
            "task_id": task.id,
            "status": "cancelled",
            "refunded": True,
            "refunded_quota": REFUNDED_QUOTA,
        }
        return await self.desk.send(request, json_reply(answer), struck, task)

    def _create(self, order: Order) -> Task:
        if not order.body.get("model"):
            raise Refusal(400, "invalid_request", "model is required")
        action = str(order.body.get("action") or "generate")
        task = self.desk.create(order, media_of(order, action, str(order.body["model"])), self._new_id)
        task.action = action
        if task.callback_url:
            self.world.callbacks.at_end(task, self.voice.show)
        return task

    def _new_id(self, number: int) -> str:
        """Both kinds of id that the pages show: `task_` with a ULID, and `task-wave` with digits."""
        rolled = dice(self.world.seed, "qingbo", number, "id")
        return rolled.choice([f"task_{ulid(rolled)}", f"task-wave{digits(rolled, 22)}"])
