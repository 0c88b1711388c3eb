"""All providers in memory: the recorded answers of every preset, with faults of every kind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qsl

import orjson

from bridge.core.loop_time import LoopTime
from bridge.dialects.base import HttpResponse, Request
from bridge.errors import UnreadablePayload, UpstreamTimeout, UpstreamUnavailable, UpstreamUnreachable
from bridge.simulator.lifecycle import Stage
from bridge.simulator.recorded.calls import ProviderRequest
from bridge.simulator.recorded.style import RecordedStyle
from bridge.simulator.replies import Refusal, Reply
from bridge.simulator.tasks import TaskView
from bridge.sources.body_memory import BodyMemory, Share
from bridge.sources.slices import Turns
from tests.fakes.virtual import LoopClock
from tests.truth.plans import ORIGIN, Plan, Trouble

TIMEOUT = 10.0
HTML = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>"
_NOT_READY = "Request is still in progress"
JSON = {"content-type": "application/json"}


class Provider:
    """One preset. Satisfies what the bridge asks of a `Session`."""

    def __init__(self, style: RecordedStyle, clock: LoopClock) -> None:
        self.style = style
        self.clock = clock
        self.plans: dict[str, Plan] = {}
        self.climate: list[Trouble] = []
        self.calls: Counter[str] = Counter()

    def add(self, plan: Plan) -> None:
        """The provider has one more task."""
        for known_as in (plan.task.id, *self.style.aliases(plan.task)):
            self.plans[known_as] = plan

    # The session

    def base_of(self, request: Request) -> str:
        return request.base_url or f"{ORIGIN}/{self.style.name}"

    async def ask(
        self, request: Request, timeout_seconds: float | None = None, *, known: bytes | None = None
    ) -> HttpResponse:
        """Answer one call."""
        await asyncio.sleep(0.02)
        incoming = _incoming(request)
        for match in self.style.preset.matches(incoming):
            if match.call == "submit":
                plan = self._submitted(incoming)
                return self._response(request, self.style.submitted(plan.task, self._view(plan)))
            named = next((self.plans[one] for one in match.values.values() if one in self.plans), None)
            if named is None:
                continue
            self.calls[match.call] += 1
            if match.call == "follow_up":
                return await self._result(request, named)
            return await self._status(request, named)
        return self._response(request, self.style.refuse(Refusal(404, "not_found", "no such task")))

    @asynccontextmanager
    async def listen(self, request: Request) -> AsyncIterator[tuple[HttpResponse, AsyncIterator[bytes]]]:
        """Open the stream of a task."""
        for match in self.style.preset.matches(_incoming(request)):
            named = next((self.plans[one] for one in match.values.values() if one in self.plans), None)
            if named is not None and named.exists and named.stream not in (None, "refused"):
                head = HttpResponse(200, {"content-type": "text/event-stream"}, b"", "", None)
                yield head, self._frames(named)
                return
        reply = self.style.refuse(Refusal(404, "not_found", "no such stream"))
        yield self._response(request, reply), _nothing()

    def hide(self, data: bytes) -> bytes:
        return data

    async def hide_large(self, data: bytes, turns: Turns) -> bytes:
        del turns
        return data

    def turns(self) -> Turns:
        """Turns of a reader, by the virtual clock: nothing takes time."""
        return Turns(LoopTime(), self.clock.monotonic, self.clock.monotonic)

    def event_share(self) -> Share:
        """Memory for an event that has not ended."""
        return BodyMemory().share()

    def acting_as(self, credential: Any, *, secrets: Any = ()) -> Provider:
        del credential, secrets
        return self

    async def close(self) -> None:
        """There is nothing to close."""

    # Answers

    def _submitted(self, incoming: ProviderRequest) -> Plan:
        body: Any = incoming.body
        return self.plans[body["judged"]]

    async def _status(self, request: Request, plan: Plan) -> HttpResponse:
        plan.asked += 1
        now = self.clock.monotonic()
        if not plan.exists or now < plan.born:
            return self._response(request, self.style.refuse(Refusal(404, "not_found", "no such task")))
        for trouble in (*self.climate, *plan.troubles):
            if trouble.at(now):
                return await self._troubled(request, plan, trouble.kind)
        return self._shown(request, plan, self._view(plan))

    async def _result(self, request: Request, plan: Plan) -> HttpResponse:
        now = self.clock.monotonic()
        view = self._view(plan)
        if view.stage is not Stage.COMPLETED:
            return self._response(request, self.style.refuse(Refusal(404, "not_found", "no result yet")))
        for trouble in plan.result:
            if trouble.at(now):
                return await self._troubled(request, plan, trouble.kind, of_result=True)
        return self._response(request, self.style.follow_up(plan.task, view), plan)

    async def _troubled(  # noqa: C901 - one case for each kind of fault
        self, request: Request, plan: Plan, kind: str, *, of_result: bool = False
    ) -> HttpResponse:
        match kind:
            case "refused":
                raise UpstreamUnreachable("the upstream cannot be reached")
            case "reset":
                raise UpstreamUnavailable("the connection to the upstream was lost")
            case "timeout" | "drip":
                await asyncio.sleep(TIMEOUT)
                raise UpstreamTimeout("the upstream did not respond in time")
            case "huge":
                raise UnreadablePayload("the response is larger than 33554432 bytes", provider_status=200)
            case "word":
                view = self._view(plan)
                word = view.with_word("simmering") if not view.stage.final else view
                return self._shown(request, plan, word)
            case "not-ready":
                told = {"detail": _NOT_READY, "base_resp": {"status_code": 2013, "status_msg": _NOT_READY}}
                return HttpResponse(400, JSON, orjson.dumps(told), _url(request), None)
        status, headers, body = _FAULTS.get(kind, (0, {}, b""))
        if kind.endswith("-date"):
            date = self.clock.time()
            headers = {
                "date": formatdate(date, usegmt=True),
                "retry-after": formatdate(date + 7, usegmt=True),
            }
        if kind == "truncated":
            body = self._shown(request, plan, self._view(plan)).body
            body = body[: len(body) // 2]
        if kind in {"401", "404", "429"} and not of_result:
            reply = self.style.refuse(Refusal(int(kind), "refused", "refused"))
            return self._response(request, reply)
        if kind == "202" and of_result:
            return HttpResponse(202, {}, b"", _url(request), None)
        return HttpResponse(status, JSON | headers, body, _url(request), None)

    def _shown(self, request: Request, plan: Plan, view: TaskView) -> HttpResponse:
        # Few values of progress, so that most answers are filled once.
        view = replace(view, progress=view.progress // 20 * 20)
        key = view.stage, view.progress, view.word
        reply = plan.bodies.get(key)
        if reply is None:
            reply = plan.bodies[key] = self.style.answer(plan.task, view)
        return self._response(request, reply, plan)

    def _response(self, request: Request, reply: Reply, plan: Plan | None = None) -> HttpResponse:
        headers = {name.lower(): text for name, text in reply.headers.items()}
        headers["content-type"] = reply.content_type
        body = reply.body
        if plan is not None:
            if plan.hint is not None:
                headers["retry-after"] = str(int(plan.hint))
            if plan.lenient is not None:
                body = _broken(body, plan.lenient, headers)
        return HttpResponse(reply.status, headers, body, _url(request), None)

    def _view(self, plan: Plan) -> TaskView:
        return plan.task.view(self.clock.time())

    async def _frames(self, plan: Plan) -> AsyncIterator[bytes]:
        """The frames of a stream, to the task's end or until it breaks."""
        position = -1
        started = self.clock.monotonic()
        while True:
            await asyncio.sleep(0.5)
            now = self.clock.monotonic()
            view = self._view(plan)
            if plan.stream == "garbage" and now - started > 3:
                started = now
                yield b"data: {broken\n\ndata: NaN\n\nevent: \xff\ndata: []\n\n"
            if plan.stream == "part-failed" and now - started > 3 and not view.stage.final:
                started = now
                yield b'event: error\ndata: {"status": "failed", "error": {"message": "one part failed"}}\n\n'
            if plan.stream == "break" and now - started > 7:
                raise UpstreamUnavailable("the connection to the upstream was lost")
            if plan.stream == "silent":
                continue
            at = plan.task.position(self.clock.time())
            if at == position:
                continue
            position = at
            for frame in self.style.frames(plan.task, view):
                yield frame
            if view.stage.final:
                return


_FAULTS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "404": (404, {}, b'{"detail": "not here"}'),
    # Without a code: where the dialect names the code of a 402, it is the key at once.
    "402": (402, {}, b'{"detail": "payment required"}'),
    "403": (403, {}, b'{"detail": "forbidden"}'),
    "400": (400, {}, b"<html>bad request</html>"),
    "500": (500, {}, b'{"detail": "oops"}'),
    "502": (502, {"content-type": "text/html"}, HTML),
    "503": (503, {}, b""),
    "503-after": (503, {"retry-after": "5"}, b""),
    "503-date": (503, {}, b""),
    "504": (504, {"content-type": "text/html"}, HTML),
    "429": (429, {}, b'{"detail": "slow down"}'),
    "429-after": (429, {"retry-after": "9"}, b""),
    "429-date": (429, {}, b""),
    "html": (200, {"content-type": "text/html"}, HTML),
    "truncated": (200, {}, b""),
    "empty": (200, {}, b""),
    "list": (200, {}, b"[1, 2]"),
    "202": (202, {}, b""),
    "204": (204, {}, b""),
    "empty-link": (200, {}, b'{"images": [{"url": ""}], "file": {"download_url": ""}}'),
}


def _broken(body: bytes, how: str, headers: dict[str, str]) -> bytes:  # noqa: PLR0911 - one for each way
    """The document, written as strict JSON parsers do not take it and others do."""
    if not body.startswith(b"{") or len(body) < 3:
        return body
    if how == "listed":
        return b"[" + body + b"]"
    match how:
        case "bom":
            return b"\xef\xbb\xbf" + body
        case "trailing":
            return body + b"\n<!-- served by edge 7 -->"
        case "nan":
            return b'{"x_loss": NaN, "x_max": Infinity, "x_min": -Infinity, ' + body[1:]
        case "control":
            return b'{"x_log": "a\tb\nc\x01", ' + body[1:]
        case "surrogate":
            return b'{"x_prompt": "\\ud83d cut", ' + body[1:]
        case "bytes":
            return b'{"x_prompt": "caf\xe9 \xff", ' + body[1:]
        case "gbk":
            headers["content-type"] = "application/json; charset=GBK"
            return '{"x_prompt": "一只猫", '.encode("gbk") + body[1:].decode().encode("gbk", "replace")
    return b" \r\n\t" + body + b"  \n"


def _incoming(request: Request) -> ProviderRequest:
    path, _, query = request.path.partition("?")
    body: Any = {}
    if request.body:
        try:
            body = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            body = {}
    values = dict(parse_qsl(query, keep_blank_values=True))
    return ProviderRequest(method=request.method, path=path, query=values, body=body)


def _url(request: Request) -> str:
    return f"{ORIGIN}{request.path}"


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""
