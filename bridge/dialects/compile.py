"""A dialect's document compiled into rules, once, when it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial

from bridge.core.task import Status
from bridge.dialects.answers import AnswerRules
from bridge.dialects.base import PollAdvice
from bridge.dialects.callbacks import CallbackRules, challenge_value
from bridge.dialects.calls import Call, IdShape
from bridge.dialects.compile_calls import base_url, calls, header_templates, hosts, id_shape
from bridge.dialects.compile_submit import submit_rules
from bridge.dialects.credentials import HOOKS
from bridge.dialects.document import Mistake, Table
from bridge.dialects.hosts import Hosts
from bridge.dialects.outputs import Content, OutputRule
from bridge.dialects.paths import Field, is_plain
from bridge.dialects.retry import RetryRules
from bridge.dialects.signature import Signature, read_signature
from bridge.dialects.state import FieldRules, Guard, StateRules, StatusRule
from bridge.dialects.streams import StreamRules
from bridge.dialects.submit import SubmitRules
from bridge.dialects.templates import Template
from bridge.dialects.times import moments_in, zone_named
from bridge.dialects.values import identifier, number, pixels, positive, sentence, whole, word
from bridge.dialects.words import OUTCOMES, STATUS_WORDS, FailureKind, Outcome, WordMap, fold

_TYPES: Mapping[str, type] = {"string": str, "integer": int, "boolean": bool}
_OUTPUT_TYPES = {name: name for name in ("image", "video", "audio", "file")}
_CONTENTS = {content.value: content for content in Content}
_SILENT = ("success", "succeed", "succeeded", "ok")
_WRAPPERS = ("data", "task", "payload", "event", "result", "run", "detail", "message")
_QUIET = ("ping", "heartbeat", "keepalive", "keep_alive", "connected", "open")

Accept = Callable[[object], object]
Moments = Callable[[object], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """When a further call is needed for the result, and how its answer reads.

    Args:
        optional: A result without a link is one: words, numbers.
    """

    on: frozenset[Status]
    needs: Mapping[str, Field[str]]
    outputs: tuple[OutputRule, ...]
    answers: AnswerRules
    optional: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A whole dialect, compiled."""

    title: str
    base_url: str
    hosts: Hosts
    docs: tuple[str, ...]
    auth_headers: tuple[tuple[str, Template], ...]
    auth_hook: str | None
    poll: PollAdvice
    ids: IdShape
    calls: Mapping[str, Call]
    submit: SubmitRules
    answers: AnswerRules
    state: StateRules
    follow_up: FollowUp | None
    stream: StreamRules
    callback: CallbackRules
    signature: Signature | None


def compile_document(document: Mapping[str, object], mistakes: list[Mistake]) -> Rules:
    """The rules a document states; what is wrong with it is added to `mistakes`."""
    root = Table(document, mistakes)
    ids = id_shape(root.table("task_id"))
    answers = _answers(root.table("answer"))
    poll = root.table("poll")
    moments = _moments(root)
    state = _state(root, moments, poll.table("hint_headers").numbers())
    follow_up = _follow_up(root, answers, moments)
    auth_headers, auth_hook = _auth(root.table("auth"))
    made = calls(root, ids, follow_up.needs if follow_up else None)
    rules = Rules(
        title=root.text("title"),
        base_url=base_url(root),
        hosts=hosts(root),
        docs=root.texts("docs"),
        auth_headers=auth_headers,
        auth_hook=auth_hook,
        poll=_poll(poll),
        ids=ids,
        calls=made,
        submit=submit_rules(root, made.get("submit"), state.fields.task_id),
        answers=answers,
        state=state,
        follow_up=follow_up,
        stream=_stream(root.table("stream"), state),
        callback=_callback(root),
        signature=_signature(root.table("callback")),
    )
    if not rules.state.status.at and not any(isinstance(told, Status) for told in answers.http.values()):
        root.table("status").mistake("at", "missing, and no [answer.http] status stands in for it")
    root.finish()
    return rules


def _auth(table: Table) -> tuple[tuple[tuple[str, Template], ...], str | None]:
    headers = header_templates(table.table("headers"), {"api_key"})
    hook = table.choice("hook", {name: name for name in HOOKS}, None)
    if hook and not headers:
        headers = (("Authorization", Template("Bearer {api_key}")),)
    return headers, hook


def _poll(table: Table) -> PollAdvice:
    low, high = table.number("min_seconds", 2.0), table.number("max_seconds", 15.0)
    best = table.number("recommended_seconds", low)
    if not 0 < low <= best <= high:
        table.mistake("recommended_seconds", "must lie between min_seconds (above 0) and max_seconds")
    return PollAdvice(low, high, best, table.flag("follows_estimate"), table.number("deadline_seconds", None))


def _answers(table: Table) -> AnswerRules:
    retry = table.table("retry")
    classes = table.table("classes").grouped(OUTCOMES)
    phrases = table.table("phrases").grouped(OUTCOMES)
    return AnswerRules(
        code=table.paths("code"),
        success=frozenset(fold(code) for code in table.spelled("success")) or frozenset({"0"}),
        message=table.field("message", sentence),
        silent=frozenset(fold(text) for text in (table.texts("silent") or _SILENT)),
        http_status=table.field("http_status", lambda value: value if type(value) is int else None),
        error_code=table.field("error_code", word),
        error_message=table.field("error_message", sentence),
        classes=classes,
        phrases=tuple(phrases.items()),
        http=table.table("http").numbered(OUTCOMES),
        otherwise=table.choice("otherwise", OUTCOMES, FailureKind.UNAVAILABLE),
        binary=table.choice("binary", _OUTPUT_TYPES, None),
        retry=RetryRules(
            at=retry.field("at", positive),
            by_code={fold(key): wait for key, wait in retry.table("by_code").numbers().items()},
            reset_headers=tuple(name.lower() for name in retry.texts("reset_headers")),
        ),
    )


def _moments(root: Table) -> Moments:
    name = root.text("time_zone", "UTC")
    try:
        return moments_in(zone_named(name))
    except ValueError as error:
        root.mistake("time_zone", str(error))
        return moments_in(zone_named("UTC"))


def _state(root: Table, moments: Moments, hint_headers: Mapping[str, float]) -> StateRules:
    unfold = root.texts("unfold")
    for path in unfold:
        if not is_plain(path):
            root.mistake("unfold", f"{path!r} must be a plain dotted path")
    return StateRules(
        status=_status(root.table("status")),
        fields=_fields(root, moments),
        outputs=_output_rules(root, moments),
        unfold=tuple(tuple(path.split(".")) for path in unfold),
        hint_headers={key.lower(): unit for key, unit in hint_headers.items()},
    )


def _status(table: Table) -> StatusRule:
    types = table.texts("types") or ("string",)
    for name in types:
        if name not in _TYPES:
            table.mistake("types", f"{name!r} is none of {', '.join(_TYPES)}")
    words: Mapping[str, Outcome] = {**STATUS_WORDS, FailureKind.NOT_FOUND.value: FailureKind.NOT_FOUND}
    return StatusRule(
        at=table.paths("at"),
        types=frozenset(_TYPES[name] for name in types if name in _TYPES),
        words=WordMap(table.table("words").grouped(words)),
        absent=table.choice("absent", STATUS_WORDS, None),
        guards=tuple(guard for item in table.tables("guards") if (guard := _guard(item))),
    )


def _guard(table: Table) -> Guard | None:
    conditions = table.paths("if")
    if len(conditions) != 1:
        table.mistake("if", "must be one path")
        return None
    then = table.choice("then", STATUS_WORDS, Status.FAILED)
    return Guard(_statuses(table, "when"), conditions[0], then)


def _statuses(table: Table, key: str) -> frozenset[Status]:
    names = table.texts(key) or (Status.COMPLETED.value,)
    for name in names:
        if name not in STATUS_WORDS:
            table.mistake(key, f"{name!r} is none of {', '.join(STATUS_WORDS)}")
    return frozenset(STATUS_WORDS[name] for name in names if name in STATUS_WORDS)


def percentage(value: object, *, unit: float = 1.0) -> float | None:
    """Progress from 0 to 100; `"45%"` is what it says, other numbers count in the preset's unit."""
    if isinstance(value, str) and value.rstrip().endswith("%"):
        found, unit = number(value.rstrip()[:-1]), 1.0
    else:
        found = number(value)
    return None if found is None else min(max(found * unit, 0.0), 100.0)


def _scaled(value: object, *, accept: Callable[[object], float | None], unit: float) -> float | None:
    found = accept(value)
    return None if found is None else found * unit


def _fields(root: Table, moments: Moments) -> FieldRules:
    table, scales = root.table("fields"), root.table("units")
    units = scales.numbers()
    scales.only(name for name, accept in _ACCEPTED.items() if accept in (percentage, positive))
    compiled: dict[str, object] = {}
    for name in (field.name for field in fields(FieldRules)):
        accept = _ACCEPTED.get(name, moments)
        if accept is percentage:
            accept = partial(percentage, unit=units.get(name, 1.0))
        elif name in units:
            accept = partial(_scaled, accept=positive, unit=units[name])
        compiled[name] = table.field(name, accept)
    return FieldRules(**compiled)  # type: ignore[arg-type]  # the table above says which type each field has


_ACCEPTED: Mapping[str, Accept] = {
    "task_id": identifier,
    "alias": identifier,
    "progress": percentage,
    "estimated_seconds": positive,
    "eta_seconds": positive,
    "queue_position": whole,
    "model": word,
    "action": word,
    "credits_used": positive,
    "credits_estimated": positive,
    "poll_after": positive,
    "error_code": word,
    "error_message": sentence,
}


def _output_rules(table: Table, moments: Moments) -> tuple[OutputRule, ...]:
    return tuple(_output_rule(item, moments) for item in table.tables("outputs"))


def _output_rule(table: Table, moments: Moments) -> OutputRule:
    at = table.paths("at")
    if not at:
        table.mistake("at", "missing")
    return OutputRule(
        at=at,
        type=table.choice("type", _OUTPUT_TYPES, None),
        content=table.choice("content", _CONTENTS, Content.LINK),
        url=table.paths("url"),
        data=table.paths("data"),
        type_at=table.field("type_at", word),
        media_type=table.field("media_type", word),
        file_id=table.field("file_id", identifier),
        expires_at=table.field("expires_at", moments),
        width=table.field("width", pixels),
        height=table.field("height", pixels),
        duration_seconds=table.field("duration_seconds", positive),
    )


def _follow_up(root: Table, answers: AnswerRules, moments: Moments) -> FollowUp | None:
    if "follow_up" not in root:
        return None
    table = root.table("follow_up")
    needs = table.table("needs")
    return FollowUp(
        on=_statuses(table, "on"),
        needs={key: needs.field(key, identifier) for key in needs.names()},
        outputs=_output_rules(table, moments),
        answers=_answers(table.table("answer")) if "answer" in table else answers,
        optional=table.flag("optional"),
    )


def _stream(table: Table, state: StateRules) -> StreamRules:
    own = {name: status for name, status in state.status.words.words.items() if isinstance(status, Status)}
    return StreamRules(
        wrappers=table.texts("wrappers") or _WRAPPERS,
        quiet=frozenset(fold(name) for name in (table.texts("quiet") or _QUIET)),
        errors=frozenset(fold(name) for name in (table.texts("errors") or ("error",))),
        ends=frozenset({"", *(table.texts("ends") or ("[DONE]",))}),
        events={**own, **table.table("events").grouped(STATUS_WORDS)},
        documents=table.flag("documents"),
    )


def _callback(root: Table) -> CallbackRules:
    table = root.table("callback")
    own = "task_id" in table
    reply = table.text("reply")
    return CallbackRules(
        task_id=(table if own else root.table("fields")).field("task_id", identifier),
        challenge=table.field("challenge", challenge_value),
        echo=table.text("echo", "challenge"),
        reply=reply.encode() or None,
    )


def _signature(table: Table) -> Signature | None:
    return read_signature(table.table("signature")) if "signature" in table else None
