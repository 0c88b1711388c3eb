"""Simulates V-API, a relay whose payloads depend on the vendor behind it: seed 002 and related pages."""

from collections.abc import Mapping

from aiohttp import web

from bridge.simulator.endpoint import ProviderEndpoint, SubmitRequest, media_of, not_found
from bridge.simulator.lifecycle import seeded_random
from bridge.simulator.replies import Refusal, Reply, json_reply
from bridge.simulator.state import SimulatorState
from bridge.simulator.tasks import Json, Task, TaskView, digits
from bridge.simulator.vapi_payloads import VENDORS, VendorPayloads

FILE_ID = "file_id"


class VapiStyle:
    """Payloads. `sim.shape.words` = `native`: MiniMax's own status words."""

    name = "vapi"

    def __init__(self, seed: int) -> None:
        self.payloads = VendorPayloads(seed)

    def show(self, task: Task, view: TaskView) -> Json:
        return self.payloads.status(task, view)

    def refuse(self, refusal: Refusal) -> Reply:
        """No page shows an error of the relay itself; the form of the new-api family is a guess."""
        error = {"message": refusal.message, "type": "v_api_error", "code": refusal.code}
        return json_reply({"error": error}, refusal.status)

    def error_in_200(self, task: Task | None) -> Reply:
        return json_reply(self.payloads.error(task.vendor if task is not None else "minimax"))

    def headers(self) -> Mapping[str, str]:
        return {}


class Vapi:
    def __init__(self, state: SimulatorState) -> None:
        self.state = state
        self.style = VapiStyle(state.seed)
        self.endpoint = ProviderEndpoint(state, self.style)

    def routes(self) -> list[web.RouteDef]:
        guarded = self.endpoint.guarded
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
        submit = await self.endpoint.read_submit(request)
        faults = self.endpoint.due_faults("submit", "")
        vendor = request.match_info.get("vendor", "kling")
        task = self._create(submit, vendor, request.match_info.get("action", ""))
        self.state.calls.count("vapi", "submit", task.id)
        return await self.endpoint.send(
            request, json_reply(self.style.payloads.submitted(task)), faults, task
        )

    async def status(self, request: web.Request) -> web.StreamResponse:
        task_id = request.match_info["task_id"]
        self.state.calls.count("vapi", "status", task_id)
        return await self.endpoint.status(request, task_id)

    async def kling_status(self, request: web.Request) -> web.StreamResponse:
        """Kling's own path finds a task only under the action that created it."""
        task_id, action = request.match_info["task_id"], request.match_info["action"]
        self.state.calls.count("vapi", "status", task_id)
        task = self.state.store.find("vapi", task_id, self.endpoint.key(request))
        if task is not None and (task.vendor != "kling" or task.action not in ("", action)):
            raise not_found()
        return await self.endpoint.status(request, task_id)

    async def download(self, request: web.Request) -> web.StreamResponse:
        """Return the URL of a `file_id`; an unknown one is rejected with HTTP 200, as by MiniMax."""
        key, file_id = self.endpoint.key(request), request.query.get(FILE_ID, "")
        self.state.calls.count("vapi", "file", file_id)
        task = self.state.store.named(FILE_ID, key, file_id)
        if task is None or self.state.clock.now() < task.ends_at:
            error = {"status_code": 2013, "status_msg": "invalid params, file_id not found"}
            return json_reply({"base_resp": error}).response()
        faults = self.endpoint.due_faults("file", task.id, task)
        return await self.endpoint.send(request, json_reply(self.style.payloads.download(task)), faults, task)

    def _create(self, submit: SubmitRequest, path_vendor: str, action: str) -> Task:
        vendor = chosen_vendor(submit.body, path_vendor)
        media = media_of(submit, action, str(submit.body.get("model") or submit.body.get("model_name") or ""))
        task = self.endpoint.create(submit, media, self._new_id)
        task.vendor = vendor
        task.action = action
        self.state.store.name(task, FILE_ID, self.style.payloads.file_id(task))
        if task.callback_url:
            rng = seeded_random(self.state.seed, "vapi", task.number, "challenge")
            self.state.callbacks.at_each_change(task, self.style.payloads.callback, digits(rng, 12))
        return task

    def _new_id(self, number: int) -> str:
        """Fifteen digits, such as 106916112212032 on the Hailuo page."""
        return digits(seeded_random(self.state.seed, "vapi", number, "id"))


def chosen_vendor(body: Json, path_vendor: str) -> str:
    """Return the vendor: the body's `vendor`, else the path, else the prefix of the model's name.

    Raises:
        Refusal: the body names an unknown vendor.
    """
    wanted = body.get("vendor")
    if wanted is not None and wanted not in VENDORS:
        raise Refusal(400, "invalid_request", f"vendor must be one of {', '.join(VENDORS)}")
    if wanted is not None or path_vendor in VENDORS:
        return VENDORS[str(wanted or path_vendor)]
    model = str(body.get("model") or body.get("model_name") or "").lower()
    return next((vendor for word, vendor in VENDORS.items() if model.startswith(word)), "minimax")
