"""A dialect's document compiled into rules, once, when it is loaded.

The models (`schema`) have checked each value on its own; what several values must agree on is checked here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial

from bridge.core.task import Status
from bridge.dialects.answers import AnswerRules
from bridge.dialects.base import PollAdvice
from bridge.dialects.callbacks import CallbackRules, challenge_value
from bridge.dialects.calls import Call, IdShape
from bridge.dialects.hosts import Hosts, host_of, is_host_name
from bridge.dialects.many import IDS, ManyCall
from bridge.dialects.outputs import Content, OutputRule
from bridge.dialects.paths import Field, holds
from bridge.dialects.proxied import ProxyRules, RefusedCall
from bridge.dialects.retry import RetryRules
from bridge.dialects.schema import (
    AnswerTable,
    CallTable,
    Document,
    DocumentError,
    FollowUpTable,
    HeaderSignatureTable,
    HmacSignatureTable,
    OutputTable,
    PublishedSignatureTable,
    StatusManyTable,
    SubmitCallTable,
    SubmittedIdTable,
    parse,
)
from bridge.dialects.signature import Scheme, Signature
from bridge.dialects.state import FieldRules, Guard, StateRules, StatusRule
from bridge.dialects.streams import StreamRules
from bridge.dialects.submit import SubmitRules, SubmittedId, address
from bridge.dialects.templates import Template
from bridge.dialects.times import moments_in
from bridge.dialects.values import identifier, number, pixels, positive, sentence, whole, word
from bridge.dialects.words import NOT_READY_PHRASES, OUTCOMES, STATUS_WORDS, Outcome, WordMap, fold

_GROUP_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_PLACE = re.compile(r"\{([^{}]*)\}")
_SIGNED_HEADER = re.compile(r"header:[A-Za-z0-9-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """When a further call is needed for the result, and how its answer reads.

    Args:
        optional: A result without a link (words, numbers) is a result.
        result_grace_seconds: How long a result that is not found is asked for.
    """

    on: frozenset[Status]
    needs: Mapping[str, Field[str]]
    outputs: tuple[OutputRule, ...]
    answers: AnswerRules
    optional: bool
    result_grace_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A whole dialect, compiled."""

    title: str
    cost_unit: str
    base_url: str
    hosts: Hosts
    docs: tuple[str, ...]
    auth_headers: tuple[tuple[str, Template], ...]
    auth_hook: str | None
    poll: PollAdvice
    ids: IdShape
    calls: Mapping[str, Call]
    status_many: ManyCall | None
    accepted: tuple[tuple[str, Call], ...]
    submit: SubmitRules
    answers: AnswerRules
    state: StateRules
    follow_up: FollowUp | None
    key_paths: tuple[re.Pattern[str], ...]
    file_options: Mapping[str, re.Pattern[str]]
    stream: StreamRules
    callback: CallbackRules
    signature: Signature | None
    proxy: ProxyRules


def compile_document(data: Mapping[str, object]) -> tuple[Rules | None, list[DocumentError]]:
    """The rules of a document and all its errors; the rules of a document with errors must not be used."""
    parsed = parse(data)
    if parsed.document is None:
        return None, parsed.errors
    compiler = _Compiler(parsed.document)
    rules = compiler.rules()
    # A wrong value was replaced by one of ours: an error in that is not the author's.
    own = [
        error
        for error in compiler.errors
        if not any(error.keys[: length + 1] in parsed.repaired for length in range(len(error.keys)))
    ]
    return rules, list(dict.fromkeys([*parsed.errors, *own]))


class _Compiler:
    def __init__(self, document: Document) -> None:
        self.errors: list[DocumentError] = []
        self._document = document
        self._moment = moments_in(document.time_zone)
        pattern = document.task_id.pattern
        self._groups = set(pattern.groupindex) if pattern else set()

    def rules(self) -> Rules:
        document = self._document
        answers = self._answers(document.answer, "answer")
        state = self._state()
        calls = self._calls()
        if not state.status.at and not any(isinstance(outcome, Status) for outcome in answers.http.values()):
            self._error("status", "at", message="missing, and no [answer.http] status takes its place")
        return Rules(
            title=document.title,
            cost_unit=document.cost_unit,
            base_url=self._base_url(),
            hosts=self._hosts(),
            docs=document.docs,
            auth_headers=self._auth_headers(),
            auth_hook=document.auth.hook,
            poll=self._poll(),
            ids=self._ids(),
            calls=calls,
            status_many=self._status_many(document.calls.status_many, state.fields.task_id),
            accepted=self._accepted(calls),
            submit=self._submit(calls.get("submit"), state.fields.task_id),
            answers=answers,
            state=state,
            follow_up=self._follow_up(document.follow_up, answers),
            key_paths=tuple(document.files.key_paths),
            file_options=document.files.options,
            stream=self._stream(state),
            callback=self._callback(),
            signature=self._signature(),
            proxy=self._proxy(),
        )

    def _error(self, *keys: str | int, message: str) -> None:
        self.errors.append(DocumentError(keys, message))

    # The address of the provider, and our credential

    def _base_url(self) -> str:
        url = self._document.base_url
        if host_of(url) is None or set("?#") & set(url):
            self._error("base_url", message="must be an http(s) URL without a query")
        return url.rstrip("/")

    def _hosts(self) -> Hosts:
        """The hosts the document lists, and those of addresses whose host is written out."""
        stated = self._document.hosts
        for name in stated:
            if not is_host_name(name):
                self._error("hosts", message=f"{name!r} is not a host name (api.example.com, *.example.com)")
        names, own = list(stated), host_of(self._document.base_url)
        for name, call in self._document.calls:
            if call is None or call.base_url is None:
                continue
            host = host_of(call.base_url.text)  # None where a place is in it
            names += [host] if host else []
            if host is None and not stated:
                self._error(
                    *("calls", name, "base_url"),
                    message="its host has places: list in `hosts` which hosts may result",
                )
        return Hosts([*names, own] if own else names)

    def _auth_headers(self) -> tuple[tuple[str, Template], ...]:
        auth = self._document.auth
        headers = self._templates(auth.headers, {"api_key"}, "auth", "headers")
        return headers or ((("Authorization", Template("Bearer {api_key}")),) if auth.hook else ())

    def _poll(self) -> PollAdvice:
        poll = self._document.poll
        low, high, best = poll.min_seconds, poll.max_seconds, poll.recommended_seconds
        best = low if best is None else best
        if not 0 < low <= best <= high:
            message = "must lie between min_seconds (above 0) and max_seconds"
            self._error("poll", "recommended_seconds", message=message)
        usual = poll.usual_seconds
        if usual is None:
            usual = math.sqrt(max(best, 0.0) * max(high, 0.0))
        elif not low <= usual <= high:
            message = "must lie between min_seconds and max_seconds"
            self._error("poll", "usual_seconds", message=message)
        return PollAdvice(low, high, best, usual, poll.deadline_seconds)

    # Calls

    def _ids(self) -> IdShape:
        table = self._document.task_id
        self._check_groups(table.pattern, "task_id", "pattern")
        if "task_id" in self._groups:
            message = "'task_id' cannot name a part: it is the whole id"
            self._error("task_id", "pattern", message=message)
        for name in sorted(table.defaults.keys() - self._groups):
            known = ", ".join(sorted(self._groups))
            self._error("task_id", "defaults", name, message=f"unknown key (known here: {known})")
        for key, group in (("model", table.model), ("action", table.action)):
            if group is not None and group not in self._groups:
                message = f"{group!r} is not a named group of the pattern"
                self._error("task_id", key, message=message)
        return IdShape(pattern=table.pattern, defaults=table.defaults, model=table.model, action=table.action)

    def _calls(self) -> dict[str, Call]:
        """Every call."""
        calls, follow_up = self._document.calls, self._document.follow_up
        compiled = {
            name: self._call(call, self._names_for(name), "calls", name)
            for name, call in calls
            if call is not None and not isinstance(call, StatusManyTable)  # it serves no client of /proxy
        }
        if (follow_up is None) != (calls.follow_up is None):
            message = "the call and the [follow_up] table need each other"
            self._error("calls", "follow_up", message=message)
        if calls.sync is not None and calls.submit is None:
            message = "needs [calls.submit]: the bridge submits, and waits itself"
            self._error("calls", "sync", message=message)
        return compiled

    def _status_many(self, table: StatusManyTable | None, usual: Field[str]) -> ManyCall | None:
        if table is None:
            return None
        at = ("calls", "status_many")
        self._call(table, {IDS}, *at)
        self._check_ids(table, *at)
        if not table.id and not self._document.fields.task_id:
            self._error(*at, "id", message="missing: [fields] task_id does not say it either")
        return ManyCall(
            method=table.method,
            path=table.path,
            query=tuple(table.query.items()),
            headers=tuple(table.headers.items()),
            body=table.body,
            base_url=table.base_url.text if table.base_url is not None else None,
            separator=None if table.ids == "list" else table.separator,
            max_ids=table.max_ids,
            at=table.at,
            id=Field(table.id, identifier) if table.id else usual,
            first=next(iter(table.id or self._document.fields.task_id), lambda _: None),
            wrapper=table.wrapper,
        )

    def _check_ids(self, table: StatusManyTable, *at: str) -> None:
        """Check where the ids of a call about many tasks go."""
        alone = f"{{{IDS}}}"
        places: list[tuple[tuple[str, ...], str]] = [(("path",), table.path.text)] if table.path.names else []
        places += [(("query", name), text.text) for name, text in table.query.items() if text.names]
        places += [(("body",), text) for text in table.body.texts(IDS)] if table.body is not None else []
        if not places:
            self._error(*at, message=f"{alone} is neither in its path nor in its query or body")
        for key, text in places:
            if table.ids == "list" and (key == ("path",) or text != alone):
                message = f"{text!r} cannot hold a list: only a query parameter or a string {alone} can"
                self._error(*at, *key, message=message)
            if f"{{{IDS}:path}}" in text:
                self._error(*at, *key, message=f"write {alone}: ids have no slashes to keep here")
        for name in (name for name, template in table.headers.items() if template.names):
            self._error(*at, "headers", name, message=f"{alone} cannot be in a header")

    def _accepted(self, calls: Mapping[str, Call]) -> tuple[tuple[str, Call], ...]:
        """The further forms of calls, in their order."""
        accepted: list[tuple[str, Call]] = []
        for position, table in enumerate(self._document.accepted):
            if table.call not in calls:
                self._error("accepted", position, "call", message=f"needs [calls.{table.call}]")
            call = self._call(table, self._names_for_accepted(table.call), "accepted", position)
            accepted.append((table.call, call))
        return tuple(accepted)

    def _names_for(self, name: str) -> set[str] | None:
        """The values that the templates of a call may name: None for any, as the caller brings them."""
        if name in ("submit", "sync"):
            return None
        if name == "alias":
            return {"alias"}
        follow_up = self._document.follow_up
        needed = follow_up.needs if name == "follow_up" and follow_up else ()
        of_file = ("file_id",) if name == "file" else ()
        return {"task_id", *self._groups, *needed, *of_file}

    def _names_for_accepted(self, name: str) -> set[str] | None:
        # The bridge finds the task by the client's own id, and makes the call with the provider's.
        by_alias = {"alias"} if self._document.calls.alias is not None and name == "cancel" else set[str]()
        return (self._names_for(name) or set()) | by_alias

    def _call(self, table: SubmitCallTable, names: set[str] | None, *at: str | int) -> Call:
        name = at[-1]
        if not table.path.text.startswith("/"):
            self._error(*at, "path", message="must begin with /")
        self._check_names(table.path.names, names, *at, "path")
        if table.base_url is not None:
            # Only what the task id's pattern has matched may choose a host. Values from a provider or client
            # must not: they could send the credential anywhere.
            groups = self._groups if name not in ("alias", "submit", "sync", "status_many") else set()
            self._check_names(table.base_url.names, groups, *at, "base_url")
            filled = table.base_url.fill(dict.fromkeys(table.base_url.names, "1"))  # a host or a port
            if host_of(filled) is None or set("@?#") & set(filled):
                self._error(*at, "base_url", message="must be an http(s) URL without a query")
        body = table.body if isinstance(table, CallTable) else None
        if body is not None:
            self._check_names(body.names, names, *at, "body")
        return Call(
            method=table.method,
            path=table.path,
            query=self._templates(table.query, names, *at, "query"),
            headers=self._templates(table.headers, names, *at, "headers"),
            body=body,
            base_url=table.base_url,
        )

    def _templates(
        self, table: Mapping[str, Template], names: set[str] | None, *keys: str | int
    ) -> tuple[tuple[str, Template], ...]:
        for key, template in table.items():
            self._check_names(template.names, names, *keys, key)
        return tuple(table.items())

    def _check_names(self, used: Iterable[str], names: set[str] | None, *keys: str | int) -> None:
        for name in sorted(set(used) - names) if names is not None else ():
            known = ", ".join(sorted(names or ())) or "nothing is"
            self._error(*keys, message=f"{{{name}}} is not known here ({known})")

    def _check_groups(self, pattern: re.Pattern[str] | None, *keys: str) -> None:
        for name in pattern.groupindex if pattern else ():
            if not _GROUP_NAME.fullmatch(name):
                message = f"{name!r} cannot name a part (lower-case letters, digits and _)"
                self._error(*keys, message=message)

    def _submit(self, call: Call | None, usual: Field[str]) -> SubmitRules:
        table = self._document.submit
        if call is None and "submit" in self._document.model_fields_set:
            self._error("submit", message="needs [calls.submit]")
        for name, pattern in table.options.items():
            self._check_groups(pattern, "submit", "options", name)
        if table.callback_url and table.callback_query:
            message = "the address is in the body or in the query, not in both"
            self._error("submit", "callback_query", message=message)
        needed = call.names if call is not None else frozenset[str]()
        options: dict[str, re.Pattern[str] | None] = {**dict.fromkeys(needed), **table.options}
        return SubmitRules(
            call=call,
            options=options,
            needed=needed,
            client_id=table.client_id,
            callback_url=table.callback_url,
            callback_query=table.callback_query or None,
            task_id=self._submitted_id(table.task_id, options, usual),
        )

    def _submitted_id(
        self, table: SubmittedIdTable | None, options: Iterable[str], usual: Field[str]
    ) -> SubmittedId:
        at = ("submit", "task_id")
        if table is None:
            return SubmittedId(at=usual, needs={})
        if not {"pattern", "needs", "id"} & table.model_fields_set:
            if not table.at:
                self._error(*at, "at", message="missing")
            return SubmittedId(at=Field(table.at, identifier), needs={})
        if bool(table.at) != (table.pattern is not None):
            message = "`at` and `pattern` need each other, unless `at` alone is the id"
            self._error(*at, "pattern", message=message)
        if table.id is None:
            self._error(*at, "id", message="missing")
        self._check_groups(table.pattern, *at, "pattern")
        template = table.id or Template("")
        groups = table.pattern.groupindex if table.pattern else ()
        self._check_names(template.names, {*groups, *table.needs, *options}, *at, "id")
        return SubmittedId(
            at=Field(table.at, address),
            pattern=table.pattern,
            needs={key: Field(paths, identifier) for key, paths in table.needs.items()},
            template=template,
        )

    # Answers

    def _answers(self, table: AnswerTable, *keys: str) -> AnswerRules:
        return AnswerRules(
            code=table.code,
            success=frozenset(fold(code) for code in table.success) or frozenset({"0"}),
            message=Field(table.message, sentence),
            silent=frozenset(fold(text) for text in table.silent),
            http_status=Field(table.http_status, lambda value: value if type(value) is int else None),
            error_code=Field(table.error_code, word),
            error_message=Field(table.error_message, sentence),
            classes=self._meanings(table.classes.items(), *keys, "classes"),
            phrases=tuple(self._meanings(table.phrases.items(), *keys, "phrases").items()),
            http={status: OUTCOMES[outcome] for status, outcome in table.http.items()},
            otherwise=OUTCOMES[table.otherwise],
            list_item=Field(table.list_item, lambda value: value if isinstance(value, dict) else None),
            binary=table.binary,
            retry=RetryRules(
                at=Field(table.retry.at, positive),
                by_code={fold(code): wait for code, wait in table.retry.by_code.items()},
                reset_headers=tuple(name.lower() for name in table.retry.reset_headers),
            ),
        )

    def _meanings(self, table: Iterable[tuple[str, Iterable[str]]], *keys: str) -> dict[str, Outcome]:
        """What each word means, folded, from a table of words by meaning."""
        meanings: dict[str, Outcome] = {}
        for name, words in table:
            for spelled in words:
                if meanings.setdefault(fold(spelled), OUTCOMES[name]) != OUTCOMES[name]:
                    self._error(*keys, name, message=f"{spelled!r} already means something else")
        return meanings

    def _state(self) -> StateRules:
        document = self._document
        status = document.status
        return StateRules(
            status=StatusRule(
                at=status.at,
                types=status.types,
                words=WordMap(
                    self._meanings(status.words.items(), "status", "words"), common=status.common_words
                ),
                unavailable=Field(status.result_unavailable, lambda value: value if holds(value) else None),
                absent=STATUS_WORDS[status.absent] if status.absent else None,
                guards=tuple(
                    Guard(guard.when, guard.condition, STATUS_WORDS[guard.then]) for guard in status.guards
                ),
            ),
            fields=self._fields(),
            outputs=self._outputs(document.outputs),
            unfold=document.unfold,
            hint_headers={name.lower(): unit for name, unit in document.poll.hint_headers.items()},
        )

    def _fields(self) -> FieldRules:
        units = self._document.units
        compiled: dict[str, object] = {}
        for name in (field.name for field in fields(FieldRules)):
            accept = _ACCEPTED.get(name, self._moment)
            unit = getattr(units, name, 1.0)
            if accept is percentage:
                accept = partial(percentage, unit=unit)
            elif unit != 1.0:
                accept = partial(_scaled, unit=unit)
            compiled[name] = Field(getattr(self._document.fields, name), accept)
        return FieldRules(**compiled)  # type: ignore[arg-type]  # _ACCEPTED says which type each field has

    def _outputs(self, tables: Iterable[OutputTable]) -> tuple[OutputRule, ...]:
        return tuple(
            OutputRule(
                at=table.at,
                type=table.type,
                content=Content(table.content),
                url=table.url,
                data=table.data,
                type_at=Field(table.type_at, word),
                media_type=Field(table.media_type, word),
                file_id=Field(table.file_id, identifier),
                expires_at=Field(table.expires_at, self._moment),
                width=Field(table.width, pixels),
                height=Field(table.height, pixels),
                duration_seconds=Field(table.duration_seconds, positive),
            )
            for table in tables
        )

    def _follow_up(self, table: FollowUpTable | None, answers: AnswerRules) -> FollowUp | None:
        if table is None:
            return None
        own = self._answers(table.answer, "follow_up", "answer") if table.answer else answers
        return FollowUp(
            on=table.on,
            needs={key: Field(paths, identifier) for key, paths in table.needs.items()},
            outputs=self._outputs(table.outputs),
            answers=replace(own, phrases=(*own.phrases, *NOT_READY_PHRASES)),
            optional=table.optional,
            result_grace_seconds=table.result_grace_seconds,
        )

    # What the provider sends unprompted

    def _stream(self, state: StateRules) -> StreamRules:
        table = self._document.stream
        events = {**state.status.words.words, **self._meanings(table.events.items(), "stream", "events")}
        return StreamRules(
            wrappers=table.wrappers,
            quiet=frozenset(fold(name) for name in table.quiet),
            errors=frozenset(fold(name) for name in table.errors),
            ends=frozenset({"", *table.ends}),
            events={name: status for name, status in events.items() if isinstance(status, Status)},
            documents=table.documents,
        )

    def _proxy(self) -> ProxyRules:
        table = self._document.proxy
        for position, refused in enumerate(table.refused):
            for name in refused.hosts:
                if not is_host_name(name) or "*" in name:
                    message = f"{name!r} is not a host name (rest.example.com)"
                    self._error("proxy", "refused", position, "hosts", message=message)
        if table.without_details and not table.details:
            self._error("proxy", "without_details", message="needs [proxy.details]")
        events = table.events
        if events is not None and self._document.calls.stream is None:
            self._error("proxy", "events", message="needs [calls.stream]")
        names = {"task_id", *self._groups}
        return ProxyRules(
            host=host_of(self._document.base_url) or "",
            target_header=table.target_header.lower() or None,
            submit_headers=tuple(name.lower() for name in table.submit_headers),
            answer_headers=self._templates(table.answer_headers, names, "proxy", "answer_headers"),
            error_keys=dict(self._templates(table.error, {"message", "code"}, "proxy", "error")),
            details=table.details,
            without_details={
                key: tree.fill({}) for key, tree in table.without_details.items() if not tree.names
            },
            wait_word=table.wait_word or None,
            events=(events.name, events.wrapper, events.number, events.after) if events else None,
            passed=table.passed,
            refused=tuple(
                RefusedCall(
                    methods=frozenset(refused.methods),
                    hosts=frozenset(name.lower() for name in refused.hosts),
                    path=refused.path,
                    condition=refused.condition,
                    message=refused.message,
                )
                for refused in table.refused
            ),
        )

    def _callback(self) -> CallbackRules:
        table = self._document.callback
        task_id = self._document.fields.task_id if table.task_id is None else table.task_id
        return CallbackRules(
            task_id=Field(task_id, identifier),
            challenge=Field(table.challenge, challenge_value),
            echo=table.echo,
            reply=table.reply.encode() or None,
        )

    def _signature(self) -> Signature | None:
        table = self._document.callback.signature
        match table:
            case None:
                return None
            case HeaderSignatureTable():
                return Signature(scheme=Scheme.HEADER, header=table.header.lower())
            case PublishedSignatureTable():
                return Signature(scheme=Scheme(table.scheme), tolerance_seconds=table.tolerance_seconds)
            case HmacSignatureTable():
                self._check_signed(table, "callback", "signature", "content")
                return Signature(
                    scheme=Scheme.HMAC,
                    header=table.header.lower(),
                    algorithm=table.algorithm,
                    encoding=table.encoding,
                    prefix=table.prefix,
                    content=table.content,
                    timestamp_header=table.timestamp_header.lower() or None,
                    tolerance_seconds=table.tolerance_seconds,
                )

    def _check_signed(self, table: HmacSignatureTable, *keys: str) -> None:
        for place in _PLACE.findall(table.content):
            if place not in ("body", "timestamp") and not _SIGNED_HEADER.fullmatch(place):
                known = "{body}, {timestamp}, {header:NAME}"
                self._error(*keys, message=f"{{{place}}} is not known here ({known})")
        if "{timestamp}" in table.content and not table.timestamp_header:
            self._error(*keys, message="{timestamp} needs a timestamp_header")


def percentage(value: object, *, unit: float = 1.0) -> float | None:
    """Progress from 0 to 100; `"45%"` is 45, other numbers are multiplied by the document's unit."""
    if isinstance(value, str) and value.rstrip().endswith("%"):
        amount, unit = number(value.rstrip()[:-1]), 1.0
    else:
        amount = number(value)
    return None if amount is None else min(max(amount * unit, 0.0), 100.0)


def _scaled(value: object, *, unit: float) -> float | None:
    amount = positive(value)
    return None if amount is None else amount * unit


_ACCEPTED: Mapping[str, Callable[[object], object]] = {
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
