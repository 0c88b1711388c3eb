"""Receives the calls of one provider: who asks, for which task, and with what manners it is answered."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson
from aiohttp import web

from bridge.simulator.faults import GONE, Armed, BadFault, Fault, Sighting, parse_faults
from bridge.simulator.life import Life, Media, Stage, Wish, dice, guess_media, plan
from bridge.simulator.replies import Delivery, Refusal, Reply, deliver, json_reply, refusal_of
from bridge.simulator.tasks import Json, Task, View
from bridge.simulator.world import World

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Voice(Protocol):
    """How one provider speaks."""

    name: str

    def show(self, task: Task, view: View) -> Json:
        """The payload of the status call."""

    def refuse(self, refusal: Refusal) -> Reply:
        """The error envelope."""

    def error_in_200(self, task: Task | None) -> Reply:
        """An error that comes with HTTP 200, as all three have or could have."""

    def headers(self) -> Mapping[str, str]:
        """What the provider adds to each answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A submit call, read: what was asked of the provider and what of the simulator."""

    body: Json
    key: str
    origin: str
    wish: Wish
    shape: Json = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


class ProviderDesk:
    """Where the calls of one provider arrive.

    Args:
        read_key: who asks, from the headers; an empty text is nobody. Bearer keys unless stated.
    """

    def __init__(
        self, world: World, voice: Voice, read_key: Callable[[Mapping[str, str]], str] | None = None
    ) -> None:
        self.world = world
        self.voice = voice
        self._read_key = read_key or bearer_key

    def guarded(self, handle: Handler) -> Handler:
        """The handler, with its refusals put into the provider's envelope."""

        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                return await handle(request)
            except Refusal as refusal:
                return self.refuse(refusal).response()

        return answer

    def refuse(self, refusal: Refusal) -> Reply:
        reply = self.voice.refuse(refusal)
        headers = {**self.voice.headers(), **refusal.headers}
        return Reply(body=reply.body, status=reply.status, headers=headers)

    def key(self, request: web.Request) -> str:
        """Who asks. Any key will do, but not one that starts with `bad`.

        Raises:
            Refusal: 401, as seeds 000 and 004 say.
        """
        key = self._read_key(request.headers)
        if not key.strip() or key.startswith("bad"):
            raise Refusal(401, "invalid_api_key", "Missing or invalid API key")
        return key

    async def order(self, request: web.Request, body: Json | None = None) -> Order:
        """The submit call, read; `body` where the provider takes others than JSON objects."""
        key = self.key(request)
        body = await read_json(request) if body is None else body
        wish, shape, faults = read_sim(body)
        origin = f"{request.scheme}://{request.host}"
        return Order(body=body, key=key, origin=origin, wish=wish, shape=shape, faults=faults)

    def create(self, order: Order, media: Media, new_id: Callable[[int], str]) -> Task:
        """A new task, kept; what follows from its number is the same for the same seed."""
        name = self.voice.name
        number = self.world.store.next_number(name)
        life: Life = plan(dice(self.world.seed, name, number, "life"), media, order.wish, self.world.speed)
        callback = order.body.get("callback_url")
        task = Task(
            provider=name,
            number=number,
            id=new_id(number),
            key=order.key,
            origin=order.origin,
            body=order.body,
            media=media,
            life=life,
            created_at=self.world.clock.now(),
            shape=order.shape,
            faults=tuple(Armed(fault) for fault in order.faults),
            callback_url=str(callback) if callback else None,
        )
        self.world.store.add(task)
        return task

    def find(self, task_id: str, key: str) -> Task:
        task = self.world.store.find(self.voice.name, task_id, key)
        if task is None or task.gone:
            raise not_found()
        return task

    def strikes(self, call: str, task_id: str, task: Task | None = None) -> tuple[Fault, ...]:
        """The faults that strike this call; those that make a task vanish do it for good, unless limited.

        Raises:
            Refusal: the fault is one.
        """
        book = self.world.book
        own: tuple[Armed, ...] = () if task is None else task.faults
        if not own and book.quiet(self.voice.name):
            return ()
        struck = book.strikes(self.voice.name, own, self._sighting(call, task_id, task))
        for fault in struck:
            if fault.name in GONE:
                if task is not None and fault.times is None:
                    task.gone = True
                raise not_found()
            if (refusal := refusal_of(fault)) is not None:
                raise refusal
        return struck

    async def status(
        self, request: web.Request, task_id: str, answer: Callable[[Task, View], Reply] | None = None
    ) -> web.StreamResponse:
        """The status call, whatever it is called, for a task known by its own id."""
        key = self.key(request)
        if (scripted := await self.scripted(request, task_id)) is not None:
            return scripted
        task = self.find(task_id, key)
        struck = self.strikes("status", task.id, task)
        view = distorted(task.view(self.world.clock.now()), task, struck)
        reply = (answer or self._shown)(task, view)
        seen(task, view, struck)
        return await self.send(request, reply, struck, task)

    def _shown(self, task: Task, view: View) -> Reply:
        return json_reply(self.voice.show(task, view), headers=self.voice.headers())

    async def scripted(self, request: web.Request, task_id: str) -> web.StreamResponse | None:
        script = self.world.scripts.get((self.voice.name, task_id))
        answer = None if script is None else script.next()
        if answer is None:
            return None
        if answer.delay:
            await self.world.waits.sleep(answer.delay)
        struck = self.strikes("status", task_id)
        if not struck:
            return answer.response()
        reply = Reply(
            body=answer.body,
            status=answer.status,
            headers={name: value for name, value in answer.headers.items() if name != "Content-Type"},
            content_type=answer.headers["Content-Type"],
        )
        return await self.send(request, reply, struck)

    async def send(
        self, request: web.Request, reply: Reply, struck: Sequence[Fault] = (), task: Task | None = None
    ) -> web.StreamResponse:
        if not struck:
            return reply.response()
        delivery = Delivery(
            request=request,
            waits=self.world.waits,
            reply=reply,
            error=lambda: self.voice.error_in_200(task),
        )
        return await deliver(delivery, struck)

    def _sighting(self, call: str, task_id: str, task: Task | None) -> Sighting:
        if task is None:
            return Sighting(call=call, task_id=task_id, shown=1)
        stage = task.view(self.world.clock.now()).stage
        return Sighting(
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


def seen(task: Task, view: View, struck: Sequence[Fault]) -> None:
    """Remembers that the caller could read this view; a spoiled answer shows nothing."""
    if any(fault.ends for fault in struck):
        return
    task.shown += 1
    task.final_shown = task.final_shown or view.stage.final


def not_found() -> Refusal:
    return Refusal(404, "task_not_found", "The task does not exist or belongs to another API key")


def media_of(order: Order, *hints: str) -> Media:
    """The kind of result: what `sim.shape.media` says, or a guess from the action and the model.

    Raises:
        Refusal: 400, no such kind.
    """
    wanted = order.shape.get("media")
    if wanted is None:
        return guess_media(*hints)
    try:
        return Media(str(wanted))
    except ValueError as wrong:
        raise Refusal(400, "invalid_param", f"sim.shape.media is one of {', '.join(Media)}") from wrong


def distorted(view: View, task: Task, struck: Sequence[Fault]) -> View:
    """The view, as the faults that struck want it to be seen."""
    for fault in struck:
        if fault.name == "unknown-word":
            return view.saying(fault.word)
        if fault.name == "regress":
            return View(stage=Stage.RUNNING, progress=50, at=view.at)
        if fault.name == "flap":
            return _flapped(view, task)
    return view


def _flapped(view: View, task: Task) -> View:
    """By turns in the queue again (the only way back where there is no progress) and twenty percent back."""
    if task.shown % 2:
        return View(stage=view.stage, progress=max(0, view.progress - 20), at=view.at)
    return View(stage=Stage.QUEUED, progress=0, at=view.at)


async def read_json(request: web.Request) -> Json:
    """The body, which must be an object.

    Raises:
        Refusal: 400 `invalid_param` (seed 004); the other two document no code for it.
    """
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError as wrong:
        raise Refusal(400, "invalid_param", "The body is not JSON") from wrong
    if not isinstance(body, dict):
        raise Refusal(400, "invalid_param", "The body is not a JSON object")
    return body


def read_sim(body: Json) -> tuple[Wish, Json, tuple[Fault, ...]]:
    """What the caller asks of the simulator: in `sim`, `params.sim` (ByteSpike) or `extra.sim` (qingbo).

    Raises:
        Refusal: 400, with what is wrong in it; a misspelt wish that is ignored would cost its author an hour.
    """
    places = [body, body.get("params"), body.get("extra")]
    sim: object = next((place["sim"] for place in places if isinstance(place, dict) and "sim" in place), {})
    if not isinstance(sim, dict):
        raise Refusal(400, "invalid_param", "sim is an object")
    strange = sorted(set(sim) - {"queue_seconds", "run_seconds", "outcome", "faults", "shape"})
    if strange:
        raise Refusal(400, "invalid_param", f"sim has no field {', '.join(strange)}")
    shape = sim.get("shape", {})
    if not isinstance(shape, dict):
        raise Refusal(400, "invalid_param", "sim.shape is an object")
    try:
        return _wish(sim), shape, parse_faults(sim.get("faults", []))
    except BadFault as wrong:
        raise Refusal(400, "invalid_param", str(wrong)) from wrong


def _wish(sim: Json) -> Wish:
    outcome = sim.get("outcome")
    if outcome not in (None, "completed", "failed"):
        raise Refusal(400, "invalid_param", "sim.outcome is completed or failed")
    for name in ("queue_seconds", "run_seconds"):
        seconds = sim.get(name)
        if seconds is not None and not (isinstance(seconds, int | float) and seconds >= 0):
            raise Refusal(400, "invalid_param", f"sim.{name} is a number of seconds")
    return Wish(
        queue_seconds=sim.get("queue_seconds"),  # type: ignore[arg-type]  # looked at above
        run_seconds=sim.get("run_seconds"),  # type: ignore[arg-type]  # looked at above
        outcome=Stage(str(outcome)) if outcome else None,
    )
