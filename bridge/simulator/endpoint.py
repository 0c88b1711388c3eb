"""Handles the calls of one provider: authenticates them, finds the task, applies faults, sends the reply."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson
from aiohttp import web

from bridge.simulator.faults import GONE, ArmedFault, BadFault, CallContext, Fault, parse_faults
from bridge.simulator.lifecycle import (
    Lifecycle,
    LifecycleOverrides,
    Media,
    Stage,
    guess_media,
    plan_lifecycle,
    seeded_random,
)
from bridge.simulator.replies import Delivery, Refusal, Reply, deliver, json_reply, refusal_of
from bridge.simulator.state import SimulatorState
from bridge.simulator.tasks import Json, Task, TaskView

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PayloadStyle(Protocol):
    """The payloads, error envelope and headers of one provider."""

    name: str

    def show(self, task: Task, view: TaskView) -> Json:
        """Return the payload of the status call."""

    def refuse(self, refusal: Refusal) -> Reply:
        """Put a refusal into the provider's error envelope."""

    def error_in_200(self, task: Task | None) -> Reply:
        """Return an error with HTTP 200, which each of the providers sends or may send."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers the provider adds to each response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """A parsed submit call: the provider's own body and the options for the simulator (`sim`)."""

    body: Json
    key: str
    origin: str
    overrides: LifecycleOverrides
    shape: Json = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


class ProviderEndpoint:
    """What all calls of one provider have in common.

    Args:
        read_key: reads the API key from the headers; an empty string means that there is none. Default:
            `Authorization: Bearer`.
    """

    def __init__(
        self,
        state: SimulatorState,
        style: PayloadStyle,
        read_key: Callable[[Mapping[str, str]], str] | None = None,
    ) -> None:
        self.state = state
        self.style = style
        self._read_key = read_key or bearer_key

    def guarded(self, handle: Handler) -> Handler:
        """Wrap a handler: each `Refusal` becomes an error response in the provider's envelope."""

        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                return await handle(request)
            except Refusal as refusal:
                return self.refuse(refusal).response()

        return answer

    def refuse(self, refusal: Refusal) -> Reply:
        reply = self.style.refuse(refusal)
        headers = {**self.style.headers(), **refusal.headers}
        return Reply(body=reply.body, status=reply.status, headers=headers)

    def key(self, request: web.Request) -> str:
        """Return the API key of a request. Any key is valid unless it starts with `bad`.

        Raises:
            Refusal: 401, as in seeds 000 and 004.
        """
        key = self._read_key(request.headers)
        if not key.strip() or key.startswith("bad"):
            raise Refusal(401, "invalid_api_key", "Missing or invalid API key")
        return key

    async def read_submit(self, request: web.Request, body: Json | None = None) -> SubmitRequest:
        """Parse a submit call. `body` is given where the provider accepts more than JSON objects."""
        key = self.key(request)
        body = await read_json(request) if body is None else body
        overrides, shape, faults = read_sim(body)
        origin = f"{request.scheme}://{request.host}"
        return SubmitRequest(
            body=body, key=key, origin=origin, overrides=overrides, shape=shape, faults=faults
        )

    def create(self, submit: SubmitRequest, media: Media, new_id: Callable[[int], str]) -> Task:
        """Create and store a task. Everything derived from its number is the same for the same seed."""
        name = self.style.name
        number = self.state.store.next_number(name)
        lifecycle: Lifecycle = plan_lifecycle(
            seeded_random(self.state.seed, name, number, "life"), media, submit.overrides, self.state.speed
        )
        callback = submit.body.get("callback_url")
        task = Task(
            provider=name,
            number=number,
            id=new_id(number),
            key=submit.key,
            origin=submit.origin,
            body=submit.body,
            media=media,
            lifecycle=lifecycle,
            created_at=self.state.clock.now(),
            shape=submit.shape,
            faults=tuple(ArmedFault(fault) for fault in submit.faults),
            callback_url=str(callback) if callback else None,
            files_url=self.state.files_url,
        )
        self.state.store.add(task)
        return task

    def find(self, task_id: str, key: str) -> Task:
        task = self.state.store.find(self.style.name, task_id, key)
        if task is None or task.gone:
            raise not_found()
        return task

    def due_faults(self, call: str, task_id: str, task: Task | None = None) -> tuple[Fault, ...]:
        """Return the faults to apply to this call.

        `vanish` and `never` remove the task permanently, unless limited by `times`.

        Raises:
            Refusal: the fault is itself a refusal, such as 429.
        """
        own: tuple[ArmedFault, ...] = () if task is None else task.faults
        if not own and self.state.faults.is_empty(self.style.name):
            return ()
        faults = self.state.faults.due_faults(self.style.name, own, self._context(call, task_id, task))
        for fault in faults:
            if fault.name in GONE:
                if task is not None and fault.times is None:
                    task.gone = True
                raise not_found()
            if (refusal := refusal_of(fault)) is not None:
                raise refusal
        return faults

    async def status(
        self, request: web.Request, task_id: str, answer: Callable[[Task, TaskView], Reply] | None = None
    ) -> web.StreamResponse:
        """Respond to a status call for a task given by its own id."""
        key = self.key(request)
        if (scripted := await self.scripted(request, task_id)) is not None:
            return scripted
        task = self.find(task_id, key)
        faults = self.due_faults("status", task.id, task)
        view = distort(task.view(self.state.clock.now()), task, faults)
        reply = (answer or self._status_reply)(task, view)
        mark_seen(task, view, faults)
        return await self.send(request, reply, faults, task)

    def _status_reply(self, task: Task, view: TaskView) -> Reply:
        return json_reply(self.style.show(task, view), headers=self.style.headers())

    async def scripted(self, request: web.Request, task_id: str) -> web.StreamResponse | None:
        script = self.state.scripts.get((self.style.name, task_id))
        answer = None if script is None else script.next()
        if answer is None:
            return None
        if answer.delay:
            await self.state.waits.sleep(answer.delay)
        faults = self.due_faults("status", task_id)
        if not faults:
            return answer.response()
        reply = Reply(
            body=answer.body,
            status=answer.status,
            headers={name: value for name, value in answer.headers.items() if name != "Content-Type"},
            content_type=answer.headers["Content-Type"],
        )
        return await self.send(request, reply, faults)

    async def send(
        self, request: web.Request, reply: Reply, faults: Sequence[Fault] = (), task: Task | None = None
    ) -> web.StreamResponse:
        if not faults:
            return reply.response()
        delivery = Delivery(
            request=request,
            waits=self.state.waits,
            reply=reply,
            error=lambda: self.style.error_in_200(task),
        )
        return await deliver(delivery, faults)

    def _context(self, call: str, task_id: str, task: Task | None) -> CallContext:
        if task is None:
            return CallContext(call=call, task_id=task_id, shown=1)
        stage = task.view(self.state.clock.now()).stage
        return CallContext(
            call=call,
            task_id=task_id,
            final=stage.final,
            running=stage is Stage.RUNNING,
            shown=task.shown,
            final_shown=task.final_shown,
        )


def bearer_key(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return key if scheme == "Bearer" else ""


def mark_seen(task: Task, view: TaskView, faults: Sequence[Fault]) -> None:
    """Record that the caller received this view; a reply replaced by a fault does not count."""
    if any(fault.ends for fault in faults):
        return
    task.shown += 1
    task.final_shown = task.final_shown or view.stage.final


def not_found() -> Refusal:
    return Refusal(404, "task_not_found", "The task does not exist or belongs to another API key")


def media_of(submit: SubmitRequest, *hints: str) -> Media:
    """Return the type of result: `sim.shape.media`, or a guess from the action and the model.

    Raises:
        Refusal: 400, unknown type.
    """
    wanted = submit.shape.get("media")
    if wanted is None:
        return guess_media(*hints)
    try:
        return Media(str(wanted))
    except ValueError as error:
        raise Refusal(400, "invalid_param", f"sim.shape.media must be one of {', '.join(Media)}") from error


def distort(view: TaskView, task: Task, faults: Sequence[Fault]) -> TaskView:
    """Apply the faults that change what a view shows."""
    for fault in faults:
        if fault.name == "unknown-word":
            return view.with_word(fault.word)
        if fault.name == "regress":
            return TaskView(stage=Stage.RUNNING, progress=50, at=view.at)
        if fault.name == "flap":
            return _flap(view, task)
    return view


def _flap(view: TaskView, task: Task) -> TaskView:
    """Alternate between queued (the only step back where there is no progress) and 20 percent less."""
    if task.shown % 2:
        return TaskView(stage=view.stage, progress=max(0, view.progress - 20), at=view.at)
    return TaskView(stage=Stage.QUEUED, progress=0, at=view.at)


async def read_json(request: web.Request) -> Json:
    """Parse the body, which must be a JSON object.

    Raises:
        Refusal: 400 `invalid_param` (seed 004); the other two document no code for it.
    """
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise Refusal(400, "invalid_param", "The body is not JSON") from error
    if not isinstance(body, dict):
        raise Refusal(400, "invalid_param", "The body is not a JSON object")
    return body


def read_sim(body: Json) -> tuple[LifecycleOverrides, Json, tuple[Fault, ...]]:
    """Read the options for the simulator from `sim`, `params.sim` (ByteSpike) or `extra.sim` (qingbo).

    Raises:
        Refusal: 400 for unknown fields: a misspelt option that is silently ignored is hard to find.
    """
    holders = [body, body.get("params"), body.get("extra")]
    sim: object = next(
        (holder["sim"] for holder in holders if isinstance(holder, dict) and "sim" in holder), {}
    )
    if not isinstance(sim, dict):
        raise Refusal(400, "invalid_param", "sim must be an object")
    unknown = sorted(set(sim) - {"queue_seconds", "run_seconds", "outcome", "faults", "shape"})
    if unknown:
        raise Refusal(400, "invalid_param", f"sim has no field {', '.join(unknown)}")
    shape = sim.get("shape", {})
    if not isinstance(shape, dict):
        raise Refusal(400, "invalid_param", "sim.shape must be an object")
    try:
        return _overrides(sim), shape, parse_faults(sim.get("faults", []))
    except BadFault as error:
        raise Refusal(400, "invalid_param", str(error)) from error


def _overrides(sim: Json) -> LifecycleOverrides:
    outcome = sim.get("outcome")
    if outcome not in (None, "completed", "failed"):
        raise Refusal(400, "invalid_param", "sim.outcome must be completed or failed")
    for name in ("queue_seconds", "run_seconds"):
        seconds = sim.get(name)
        if seconds is not None and not (isinstance(seconds, int | float) and seconds >= 0):
            raise Refusal(400, "invalid_param", f"sim.{name} must be a number of seconds, 0 or more")
    return LifecycleOverrides(
        queue_seconds=sim.get("queue_seconds"),  # type: ignore[arg-type]  # checked above
        run_seconds=sim.get("run_seconds"),  # type: ignore[arg-type]  # checked above
        outcome=Stage(str(outcome)) if outcome else None,
    )
