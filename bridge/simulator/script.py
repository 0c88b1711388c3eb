"""Scripted tasks: every status answer is given in advance, byte for byte."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from aiohttp import web
from multidict import CIMultiDict

from bridge.simulator.clock import wake


class BadScript(ValueError):
    """The script does not have the documented form."""


@dataclass(slots=True, kw_only=True)
class ScriptedAnswer:
    """One answer to a status call, encoded once."""

    status: int
    body: bytes
    headers: CIMultiDict[str]
    delay: float = 0.0

    def response(self) -> web.Response:
        return web.Response(status=self.status, body=self.body, headers=self.headers)


@dataclass(slots=True, kw_only=True)
class Script:
    """A scripted task: visible to every key; its last answer repeats."""

    answers: list[ScriptedAnswer]
    stream: list[bytes] | None = None
    hold: bool = False
    served: int = 0
    wakeups: set[asyncio.Future[None]] = field(default_factory=set)

    def next(self) -> ScriptedAnswer | None:
        if not self.answers:
            return None
        answer = self.answers[min(self.served, len(self.answers) - 1)]
        self.served += 1
        return answer

    def add(self, answers: list[ScriptedAnswer], *, replace: bool) -> None:
        """Append answers; `replace` drops the old ones and starts with the new."""
        if replace:
            self.answers = answers
            self.served = 0
            return
        # Every answer was used, the last one perhaps repeatedly: continue with the first new one.
        self.served = min(self.served, len(self.answers))
        self.answers.extend(answers)

    def push(self, chunk: str | None, *, close: bool) -> None:
        if chunk is not None:
            self.stream = [*(self.stream or []), chunk.encode()]
        if close:
            self.hold = False
        for future in list(self.wakeups):
            wake(future)


def parse_script(raw: Mapping[str, object]) -> Script:
    """Parse the body of `PUT /_sim/{provider}/tasks/{task_id}`.

    Raises:
        BadScript: names the invalid part.
    """
    stream = raw.get("stream")
    if stream is not None and not (
        isinstance(stream, list) and all(isinstance(chunk, str) for chunk in stream)
    ):
        raise BadScript("stream must be a list of strings")
    return Script(
        answers=parse_answers(raw.get("answers", [])),
        stream=None if stream is None else [chunk.encode() for chunk in stream],
        hold=bool(raw.get("hold", False)),
    )


def parse_answers(raw: object) -> list[ScriptedAnswer]:
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise BadScript("answers must be a list")
    return [_parse_answer(answer) for answer in raw]


def _parse_answer(raw: object) -> ScriptedAnswer:
    if not isinstance(raw, Mapping):
        raise BadScript("an answer must be an object with status, headers, body and delay")
    body = raw.get("body", {})
    headers = CIMultiDict({"Content-Type": "application/json"})
    extra = raw.get("headers", {})
    if not isinstance(extra, Mapping):
        raise BadScript("headers must be an object")
    headers.update({str(name): str(value) for name, value in extra.items()})
    status, delay = raw.get("status", 200), raw.get("delay", 0)
    if not isinstance(status, int) or not isinstance(delay, int | float):
        raise BadScript("status and delay must be numbers")
    encoded = body.encode() if isinstance(body, str) else orjson.dumps(body)
    return ScriptedAnswer(status=status, body=encoded, headers=headers, delay=float(delay))
