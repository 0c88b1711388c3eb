"""Explains why a payload reads as it does: every path that was tried, what it found, and how that was read.

Nothing is decided here: the dialect itself reads the payload, and the lines beside it come from the same
rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TypeVar

import orjson

from bridge.core.task import Observation, Output, Status
from bridge.dialects.answers import AnswerRules, Document, first, json_of, usual_meaning
from bridge.dialects.base import HttpResponse, Submission
from bridge.dialects.dialect import Dialect
from bridge.dialects.outputs import OutputRule, gather
from bridge.dialects.paths import Field, holds
from bridge.dialects.state import StateRules
from bridge.dialects.submit import SubmittedId
from bridge.dialects.words import fold, spell
from bridge.errors import TaskNotFound, UnreadablePayload, UpstreamError

_LABEL_WIDTH = 20
_MAX_SHOWN = 90

T = TypeVar("T")
Rows = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Explanation:
    """How one payload was read.

    Args:
        error: What reading it raised; None when it shows a task.
    """

    lines: tuple[str, ...]
    error: UpstreamError | None


def explain(
    dialect: Dialect,
    answer: HttpResponse,
    *,
    submission: Submission | None = None,
    task_id: str | None = None,
) -> Explanation:
    """How a dialect reads a response, and why.

    Args:
        submission: What was submitted, where this is the response to it; None for the response to a status
            call.
        task_id: The id that was asked for.
    """
    rules, text = dialect.rules, json_of(answer)
    lines = [f"HTTP {answer.status}, {len(answer.body)} bytes, read by {dialect.name} ({dialect.title})"]
    document: Document = {}
    if text is None:
        lines += _section("body", iter([("", "is not a JSON object")]))
    else:
        choose = dialect.task_among(task_id) if submission is None else first
        with suppress(TaskNotFound, UnreadablePayload):
            document, _ = rules.answers.chosen(answer, text, choose)
        rules.state.unfold_strings(document)
        if text.lenient:
            lines += _section("body", iter([("", "is not strict JSON: read leniently")]))
    lines += _section("answer", _answer(rules.answers, answer, document))
    lines += _section("status", _status(rules.state, document))
    if submission is not None:
        lines += _section("submit.task_id", _submitted_id(rules.submit.task_id, submission, document))
    lines += _section("fields", _fields(rules.state, document))
    lines += _section("outputs", _outputs(rules.state.outputs, document, answer.url))
    try:
        lines += _reading(dialect, answer, submission, task_id)
    except UpstreamError as error:
        return Explanation((*lines, *_section("error", _error(error))), error)
    return Explanation(tuple(lines), None)


def _reading(
    dialect: Dialect, answer: HttpResponse, submission: Submission | None, task_id: str | None
) -> list[str]:
    if submission is not None:
        return _section("reads as", _observation(dialect.read_submitted(answer, submission)))
    reading = dialect.read_status(answer, task_id)
    lines = _section("reads as", _observation(reading.observation))
    if reading.follow is not None:
        lines += _section("next", iter([("follow_up", f"{reading.follow.method} {reading.follow.path}")]))
    return lines


def _answer(rules: AnswerRules, answer: HttpResponse, document: object) -> Rows:
    outcome = rules.http.get(answer.status)
    if outcome is not None:
        yield "http", f"{answer.status} means {outcome}"
    elif not 200 <= answer.status < 300:
        usual = usual_meaning(answer.status, answer.headers)
        yield "http", f"{answer.status} is not listed, and usually means {usual}"
    for find in rules.code:
        value = find(document)
        code = spell(value)
        succeeds = code is None or rules.is_success(code)
        yield "code", _finding(find.__name__, value, "means success" if succeeds else "means an error")
    yield from _tries("http_status", rules.http_status, document)
    yield from _tries("error_code", rules.error_code, document)
    yield from _tries("error_message", rules.error_message, document)
    error = rules.provider_error(document)
    if error.code is not None:
        known = rules.classes.get(fold(error.code))
        yield "classes", f"{_json(error.code)} {f'means {known}' if known else 'is not listed'}"
    message = fold(error.message or "")
    for phrase, meaning in rules.phrases:
        if phrase in message:
            yield "phrases", f"{_json(phrase)} is in the message and means {meaning}"


def _status(state: StateRules, document: object) -> Rows:
    rule = state.status
    if not rule.at:
        yield "at", "no path is stated"
    for find in rule.at:
        value = find(document)
        if value is not None and (type(value) not in rule.types or spell(value) is None):
            types = ", ".join(sorted(kind.__name__ for kind in rule.types))
            yield "at", _finding(find.__name__, value, f"is not a status word (types: {types})")
            continue
        yield "at", _finding(find.__name__, value, "match")
        if value is not None:
            break
    status_word, outcome = rule.read(document)
    if status_word is not None:
        yield "words", f"{_json(status_word)} {f'means {outcome}' if outcome else 'is not mapped'}"
    elif rule.absent is not None:
        yield "absent", f"no status word means {rule.absent}"
    status = outcome if isinstance(outcome, Status) else None if outcome else rule.absent
    for number, guard in enumerate(rule.guards):
        value = guard.condition(document)
        if status not in guard.when:
            result = f"does not apply to {status or 'an unknown status'}"
        elif holds(value):
            result = f"holds: {status} becomes {guard.then}"
            status = guard.then
        else:
            result = "does not hold"
        yield f"guards[{number}]", _finding(guard.condition.__name__, value, result)


def _submitted_id(rule: SubmittedId, submission: Submission, document: object) -> Rows:
    yield from _tries("at", rule.at, document)
    text = rule.at.read(document) or ""
    if rule.pattern is not None:
        yield "pattern", "matches" if rule.pattern.fullmatch(text) else "does not match"
    for name, field in rule.needs.items():
        yield from _tries(f"needs.{name}", field, document)
    task_id = rule.read(document, submission.options)
    yield "id", "is incomplete" if task_id is None else _json(task_id)


def _fields(state: StateRules, document: object) -> Rows:
    for field in fields(state.fields):
        yield from _tries(field.name, getattr(state.fields, field.name), document)


def _outputs(rules: Sequence[OutputRule], document: Document, url: str) -> Rows:
    for number, rule in enumerate(rules):
        for find in rule.at:
            yield f"outputs[{number}]", _finding(find.__name__, find(document), "searched")
        outputs = gather((rule,), document, url)
        for output in outputs:
            yield "", f"gives {_output(output)}"
        if not outputs:
            yield "", "gives nothing"


def _observation(observation: Observation) -> Rows:
    for field in fields(observation):
        value = getattr(observation, field.name)
        if field.name == "raw" or value in (None, (), False):
            continue
        if field.name == "outputs":
            for output in value:
                yield "output", _output(output)
        else:
            yield field.name, _short(str(value))


def _output(output: Output) -> str:
    return f"{output.type} {_short(output.url or output.file_id or 'inline data')}"


def _error(error: UpstreamError) -> Rows:
    yield "class", type(error).__name__
    yield "code", f"{error.code} ({'retryable' if error.retryable else 'not retryable'})"
    yield "message", _printable(str(error))
    if error.provider_code is not None:
        yield "provider_code", _printable(error.provider_code)
    if error.retry_after is not None:
        yield "retry_after", f"{error.retry_after:g} s"


def _tries(name: str, field: Field[T], document: object) -> Rows:
    for expression, value, accepted in field.tries(document):
        result = "not an accepted type" if accepted is None else f"match, read as {_json(accepted)}"
        yield name, _finding(expression, value, result)


def _finding(expression: str, value: object, result: str) -> str:
    return f"{expression}: nothing found" if value is None else f"{expression} = {_json(value)}: {result}"


def _section(title: str, rows: Rows) -> list[str]:
    lines = [f"  {label:<{_LABEL_WIDTH}}{text}".rstrip() for label, text in rows]
    return ["", title, *lines] if lines else []


def _json(value: object) -> str:
    try:
        return _short(orjson.dumps(value).decode())
    except (TypeError, ValueError, RecursionError):
        return f"a {type(value).__name__}"  # nested deeper than can be written, or not JSON at all


def _printable(text: str) -> str:
    # A provider's text must not reach a terminal as control sequences.
    return text if text.isprintable() else text.encode("unicode_escape", "replace").decode()


def _short(text: str) -> str:
    if len(text) <= _MAX_SHOWN:
        return _printable(text)
    return f"{_printable(text[:_MAX_SHOWN])}... ({len(text)} characters)"
