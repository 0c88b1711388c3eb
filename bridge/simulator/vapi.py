"""Speaks like V-API, the relay whose answers depend on the vendor behind it: seed 002 and its neighbours."""

from collections.abc import Mapping

from aiohttp import web

from bridge.simulator.desk import Order, ProviderDesk, media_of, not_found
from bridge.simulator.life import dice
from bridge.simulator.replies import Refusal, Reply, json_reply
from bridge.simulator.tasks import Json, Task, View, digits
from bridge.simulator.vapi_shapes import VENDORS, Shapes
from bridge.simulator.world import World

FILE_ID = "file_id"


class VapiVoice:
    """The shapes. `sim.shape.words`: `native` gives MiniMax's own words."""

    name = "vapi"

    def __init__(self, seed: int) -> None:
        self.shapes = Shapes(seed)

    def show(self, task: Task, view: View) -> Json:
        return self.shapes.status(task, view)

    def refuse(self, refusal: Refusal) -> Reply:
        """No page shows an error of the relay itself; this is a guess, the form of the new-api family."""
        error = {"message": refusal.message, "type": "v_api_error", "code": refusal.code}
        return json_reply({"error": error}, refusal.status)

    def error_in_200(self, task: Task | None) -> Reply:
        return json_reply(self.shapes.error(task.vendor if task is not None else "minimax"))

    def headers(self) -> Mapping[str, str]:
        return {}


class Vapi:
    def __init__(self, world: World) -> None:
        self.world = world
        self.voice = VapiVoice(world.seed)
        self.desk = ProviderDesk(world, self.voice)

    def routes(self) -> list[web.RouteDef]:
        guarded = self.desk.guarded
        return [
            web.get("/vapi/task/{task_id}", guarded(self.status)),
            web.post("/vapi/task/{vendor}/{rest:.+}", guarded(self.submit)),
            web.post("/vapi/kling/v1/{kind:videos|images}/{action}", guarded(self.submit)),
            web.get("/vapi/kling/v1/{kind:videos|images}/{action}/{task_id}", guarded(self.kling_status)),
            web.get("/vapi/minimax/v1/files/retrieve", guarded(self.download)),
            web.get("/vapi/v1/files/retrieve", guarded(self.download)),
            web.get("/vapi/files/retrieve", guarded(self.download)),
        ]

    async def submit(self, request: web.Request) -> web.StreamResponse:
        order = await self.desk.order(request)
        struck = self.desk.strikes("submit", "")
        vendor = request.match_info.get("vendor", "kling")
        task = self._create(order, vendor, request.match_info.get("action", ""))
        self.world.calls.count("vapi", "submit", task.id)
        return await self.desk.send(request, json_reply(self.voice.shapes.submitted(task)), struck, task)

    async def status(self, request: web.Request) -> web.StreamResponse:
        task_id = request.match_info["task_id"]
        self.world.calls.count("vapi", "status", task_id)
        return await self.desk.status(request, task_id)

    async def kling_status(self, request: web.Request) -> web.StreamResponse:
        """Kling's own path knows a task only under the action that made it."""
        task_id, action = request.match_info["task_id"], request.match_info["action"]
        self.world.calls.count("vapi", "status", task_id)
        task = self.world.store.find("vapi", task_id, self.desk.key(request))
        if task is not None and (task.vendor != "kling" or task.action not in ("", action)):
            raise not_found()
        return await self.desk.status(request, task_id)

    async def download(self, request: web.Request) -> web.StreamResponse:
        """The call for the URL behind a `file_id`; an unknown one is refused with HTTP 200, as by MiniMax."""
        key, file_id = self.desk.key(request), request.query.get(FILE_ID, "")
        self.world.calls.count("vapi", "file", file_id)
        task = self.world.store.named(FILE_ID, key, file_id)
        if task is None or self.world.clock.now() < task.ends_at:
            error = {"status_code": 2013, "status_msg": "invalid params, file_id not found"}
            return json_reply({"base_resp": error}).response()
        struck = self.desk.strikes("file", task.id, task)
        return await self.desk.send(request, json_reply(self.voice.shapes.download(task)), struck, task)

    def _create(self, order: Order, path_vendor: str, action: str) -> Task:
        vendor = chosen_vendor(order.body, path_vendor)
        media = media_of(order, action, str(order.body.get("model") or order.body.get("model_name") or ""))
        task = self.desk.create(order, media, self._new_id)
        task.vendor = vendor
        task.action = action
        self.world.store.name(task, FILE_ID, self.voice.shapes.file_id(task))
        if task.callback_url:
            rolled = dice(self.world.seed, "vapi", task.number, "challenge")
            self.world.callbacks.at_each_change(task, self.voice.shapes.callback, digits(rolled, 12))
        return task

    def _new_id(self, number: int) -> str:
        """Fifteen digits, as 106916112212032 on the Hailuo page."""
        return digits(dice(self.world.seed, "vapi", number, "id"))


def chosen_vendor(body: Json, path_vendor: str) -> str:
    """Who makes it: the body's `vendor`, else the path, else the beginning of the model's name.

    Raises:
        Refusal: the body names a vendor that is not there.
    """
    wanted = body.get("vendor")
    if wanted is not None and wanted not in VENDORS:
        raise Refusal(400, "invalid_request", f"vendor is one of {', '.join(VENDORS)}")
    if wanted is not None or path_vendor in VENDORS:
        return VENDORS[str(wanted or path_vendor)]
    model = str(body.get("model") or body.get("model_name") or "").lower()
    return next((vendor for word, vendor in VENDORS.items() if model.startswith(word)), "minimax")
