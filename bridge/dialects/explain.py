"""Why a payload reads as it does: every place that was tried, what stood there, and what came of it.

Nothing here decides: the dialect itself does the reading; what is told beside it comes from the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import orjson

from bridge.core.task import Observation, Status
from bridge.dialects.answers import AnswerRules, body_of, usual
from bridge.dialects.base import HttpResponse, Submission
from bridge.dialects.dialect import Dialect
from bridge.dialects.outputs import OutputRule, gather
from bridge.dialects.paths import Field, holds
from bridge.dialects.state import StateRules
from bridge.dialects.submit import SubmittedId
from bridge.dialects.values import object_from
from bridge.dialects.words import fold, spell
from bridge.errors import UpstreamError

_WIDTH = 20
_SHOWN = 90

T = TypeVar("T")
Told = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What there is to tell of one payload.

    Args:
        trouble: What reading it raised; None when it shows a task.
    """

    lines: tuple[str, ...]
    trouble: UpstreamError | None


def explain(
    dialect: Dialect,
    answer: HttpResponse,
    *,
    submission: Submission | None = None,
    task_id: str | None = None,
) -> Explanation:
    """How a dialect reads an answer, and why.

    Args:
        submission: What was submitted, where it is the answer to that; None for the answer to a look.
        task_id: The id that was asked for.
    """
    rules, document = dialect.rules, object_from(body_of(answer))
    lines = [f"HTTP {answer.status}, {len(answer.body)} bytes, read by {dialect.name} ({dialect.title})"]
    if document is None:
        lines += _section("body", iter([("", "is not a JSON object")]))
    else:
        rules.state.prepare(document)
    shown: dict[str, object] = document or {}
    lines += _section("answer", _answer(rules.answers, answer, shown))
    lines += _section("status", _status(rules.state, shown))
    if submission is not None:
        lines += _section("submit.task_id", _submitted_id(rules.submit.task_id, submission, shown))
    lines += _section("fields", _fields(rules.state, shown))
    lines += _section("outputs", _outputs(rules.state.outputs, shown))
    try:
        lines += _reading(dialect, answer, submission, task_id)
    except UpstreamError as error:
        return Explanation((*lines, *_section("trouble", _trouble(error))), error)
    return Explanation(tuple(lines), None)


def _reading(
    dialect: Dialect, answer: HttpResponse, submission: Submission | None, task_id: str | None
) -> list[str]:
    if submission is not None:
        return _section("reads as", _observation(dialect.read_submitted(answer, submission)))
    look = dialect.read_status(answer, task_id)
    lines = _section("reads as", _observation(look.observation))
    if look.follow is not None:
        lines += _section("next", iter([("follow_up", f"{look.follow.method} {look.follow.path}")]))
    return lines


def _answer(rules: AnswerRules, answer: HttpResponse, document: object) -> Told:
    verdict = rules.http.get(answer.status)
    if verdict is not None:
        yield "http", f"{answer.status} means {verdict}"
    elif not 200 <= answer.status < 300:
        yield (
            "http",
            f"{answer.status} is not stated, and usually means {usual(answer.status, answer.headers)}",
        )
    for find in rules.code:
        value = find(document)
        code = spell(value)
        fine = code is None or code in rules.success or fold(code) in rules.success
        yield "code", _place(find.__name__, value, "says success" if fine else "says trouble")
    yield from _tries("http_status", rules.http_status, document)
    yield from _tries("error_code", rules.error_code, document)
    yield from _tries("error_message", rules.error_message, document)
    complaint = rules.complaint(document)
    if complaint.code is not None:
        known = rules.classes.get(fold(complaint.code))
        yield "classes", f"{_json(complaint.code)} {f'means {known}' if known else 'is not listed'}"
    message = fold(complaint.message or "")
    for phrase, meaning in rules.phrases:
        if phrase in message:
            yield "phrases", f"{_json(phrase)} stands in the message and means {meaning}"


def _status(state: StateRules, document: object) -> Told:
    rule = state.status
    if not rule.at:
        yield "at", "no place is stated"
    for find in rule.at:
        value = find(document)
        if value is not None and (type(value) not in rule.types or spell(value) is None):
            kinds = ", ".join(sorted(kind.__name__ for kind in rule.types))
            yield "at", _place(find.__name__, value, f"is no word here (a word is {kinds})")
            continue
        yield "at", _place(find.__name__, value, "hit")
        if value is not None:
            break
    said, meaning = rule.read(document)
    if said is not None:
        yield "words", f"{_json(said)} {f'means {meaning}' if meaning else 'is not mapped'}"
    elif rule.absent is not None:
        yield "absent", f"no word means {rule.absent}"
    status = meaning if isinstance(meaning, Status) else None if meaning else rule.absent
    yield from _guards(state, status, document)


def _guards(state: StateRules, status: Status | None, document: object) -> Told:
    for number, guard in enumerate(state.status.guards):
        value = guard.condition(document)
        if status not in guard.when:
            outcome = f"not asked for {status or 'a status nobody knows'}"
        elif holds(value):
            outcome = f"holds: {status} becomes {guard.then}"
            status = guard.then
        else:
            outcome = "does not hold"
        yield f"guards[{number}]", _place(guard.condition.__name__, value, outcome)


def _submitted_id(rule: SubmittedId, submission: Submission, document: object) -> Told:
    yield from _tries("at", rule.at, document)
    text = rule.at.read(document) or ""
    if rule.pattern is not None:
        yield "pattern", "matches" if rule.pattern.fullmatch(text) else "does not match"
    for name, field in rule.needs.items():
        yield from _tries(f"needs.{name}", field, document)
    found = rule.read(document, submission.options)
    yield "id", "cannot be put together" if found is None else _json(found)


def _fields(state: StateRules, document: object) -> Told:
    for field in fields(state.fields):
        yield from _tries(field.name, getattr(state.fields, field.name), document)


def _outputs(rules: Sequence[OutputRule], document: dict[str, object]) -> Told:
    for number, rule in enumerate(rules):
        for find in rule.at:
            yield f"outputs[{number}]", _place(find.__name__, find(document), "looked into")
        found = gather((rule,), document)
        for output in found:
            yield "", f"gives {output.type} {_short(output.url or output.file_id or 'inline data')}"
        if not found:
            yield "", "gives nothing"


def _observation(seen: Observation) -> Told:
    for field in fields(seen):
        value = getattr(seen, field.name)
        if field.name == "raw" or value is None or value == ():
            continue
        if field.name == "outputs":
            for output in value:
                yield "output", f"{output.type} {_short(output.url or output.file_id or 'inline data')}"
        else:
            yield field.name, _short(str(value))


def _trouble(error: UpstreamError) -> Told:
    yield "class", type(error).__name__
    yield "code", f"{error.code}, {'worth another look' if error.retryable else 'another look will not help'}"
    yield "message", _printable(str(error))
    if error.provider_code is not None:
        yield "provider_code", _printable(error.provider_code)
    if error.retry_after is not None:
        yield "retry_after", f"{error.retry_after:g} s"


def _tries(name: str, field: Field[T], document: object) -> Told:
    for expression, value, taken in field.tries(document):
        outcome = "not of a kind that is taken" if taken is None else f"hit, taken as {_json(taken)}"
        yield name, _place(expression, value, outcome)


def _place(expression: str, value: object, outcome: str) -> str:
    return f"{expression}: nothing there" if value is None else f"{expression} = {_json(value)}: {outcome}"


def _section(title: str, told: Told) -> list[str]:
    rows = [f"  {label:<{_WIDTH}}{text}".rstrip() for label, text in told]
    return ["", title, *rows] if rows else []


def _json(value: object) -> str:
    try:
        return _short(orjson.dumps(value).decode())
    except (TypeError, ValueError, RecursionError):
        return f"a {type(value).__name__}"  # deeper than can be written, or no JSON at all


def _printable(text: str) -> str:
    """A terminal is no place for whatever a provider sends."""
    return text if text.isprintable() else text.encode("unicode_escape", "replace").decode()


def _short(text: str) -> str:
    if len(text) <= _SHOWN:
        return _printable(text)
    return f"{_printable(text[:_SHOWN])}... ({len(text)} characters)"
