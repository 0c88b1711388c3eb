"""The TOML document of a dialect as pydantic models: the type, the default and a description of every key.

A model checks each value on its own. What only several values show together, such as a template that
names an unknown value, is checked where they are compiled (`rules`). `taskbridge dialect schema` prints these
models as JSON schema, so that editors complete a provider file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import timezone
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails, core_schema

from bridge.core.task import Status
from bridge.dialects.lines import Keys
from bridge.dialects.paths import Finder, compile_path, is_plain
from bridge.dialects.templates import Body, Template
from bridge.dialects.times import zone_named
from bridge.dialects.words import STATUS_WORDS, spell

_TYPES: Mapping[str, type] = {"string": str, "integer": int, "boolean": bool}


def _texts(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    texts = tuple(item for item in items if isinstance(item, str) and item)
    if len(texts) < len(items):
        raise ValueError("must be a string or a list of strings, none of them empty")
    return texts


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(_NOT_A_STRING)
    return value


def _spelled(value: object) -> tuple[str, ...]:
    words = [spell(item) for item in (value if isinstance(value, list) else [value])]
    if None in words:
        raise ValueError("must be a list of strings, whole numbers or truth values")
    return tuple(word for word in words if word)


def _paths(value: object) -> tuple[Finder, ...]:
    finders, errors = [], []
    for expression in _texts(value):
        try:
            finders.append(compile_path(expression))
        except ValueError as error:
            errors.append(f"{expression!r} is not JMESPath: {error}")
    if errors:
        raise ValueError("; ".join(errors))
    return tuple(finders)


def _some_paths(value: object) -> tuple[Finder, ...]:
    if not (paths := _paths(value)):
        raise ValueError("missing")
    return paths


def _path(value: object) -> Finder:
    paths = _paths(value)
    if len(paths) != 1:
        raise ValueError("must be one path")
    return paths[0]


def _plain_paths(value: object) -> tuple[tuple[str, ...], ...]:
    texts = _texts(value)
    wrong = [repr(text) for text in texts if not is_plain(text)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} must be a plain dotted path")
    return tuple(tuple(text.split(".")) for text in texts)


def _statuses(value: object) -> frozenset[Status]:
    return frozenset(STATUS_WORDS[name] for name in _among(_texts(value), STATUS_WORDS))


def _types(value: object) -> frozenset[type]:
    return frozenset(_TYPES[name] for name in _among(_texts(value), _TYPES))


def _among(names: tuple[str, ...], allowed: Mapping[str, object]) -> tuple[str, ...]:
    for name in names:
        if name not in allowed:
            raise ValueError(f"{name!r} is not one of {', '.join(allowed)}")
    return names


def _pattern(value: object) -> re.Pattern[str]:
    try:
        return re.compile(_text(value))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {error}") from error


def _http_status(value: object) -> int:
    if not isinstance(value, str) or not value.isdecimal() or not 100 <= int(value) < 600:
        raise ValueError("is not an HTTP status")
    return int(value)


_NOT_A_STRING = "must be a string, and not empty"


def _some_ids(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 2 <= value <= _MAX_IDS:
        raise ValueError(f"must be a whole number from 2 to {_MAX_IDS}")
    return value


_MAX_IDS = 1000


class _ReadBy:
    """Annotates a type whose values a function reads; ValueErrors of the function are the author's.

    Written out because pydantic's `PlainValidator` builds a serializer for each use: 40 ms at every start.

    Args:
        schema: JSON schema of what the function takes.
    """

    def __init__(self, read: Callable[[object], object], schema: dict[str, Any]) -> None:
        self._read = read
        self._schema = schema

    def __get_pydantic_core_schema__(self, source: object, handler: object) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, core: object, handler: object) -> dict[str, Any]:
        return deepcopy(self._schema)  # pydantic adds the description to what it gets


def _one_or_more(item: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [item, {"type": "array", "items": item}]}


def _with_default(value: object, description: str) -> Any:
    """A field whose default is written as in a document, and validated like one."""
    return Field(value, validate_default=True, description=description)


_STRING = {"type": "string", "minLength": 1}
_WORD = {"type": ["string", "integer", "boolean"]}

Text = Annotated[str, StringConstraints(min_length=1)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
StatusName = Literal["queued", "processing", "input_required", "completed", "failed", "cancelled"]
FailureName = Literal["not_found", "credential", "busy", "refused", "unavailable"]
OutcomeName = Literal[StatusName, FailureName]
OutputType = Literal["image", "video", "audio", "file"]

Texts = Annotated[tuple[str, ...], _ReadBy(_texts, _one_or_more(_STRING))]
Paths = Annotated[tuple[Finder, ...], _ReadBy(_paths, _one_or_more(_STRING))]
SomePaths = Annotated[tuple[Finder, ...], _ReadBy(_some_paths, _one_or_more(_STRING))]
OnePath = Annotated[Finder, _ReadBy(_path, _STRING)]
PlainPath = Annotated[tuple[str, ...], _ReadBy(lambda value: _plain_paths(_text(value))[0], _STRING)]
PlainPaths = Annotated[tuple[tuple[str, ...], ...], _ReadBy(_plain_paths, _one_or_more(_STRING))]
Words = Annotated[tuple[str, ...], _ReadBy(_spelled, _one_or_more(_WORD))]
Statuses = Annotated[frozenset[Status], _ReadBy(_statuses, _one_or_more({"enum": list(STATUS_WORDS)}))]
Types = Annotated[frozenset[type], _ReadBy(_types, _one_or_more({"enum": list(_TYPES)}))]
Pattern = Annotated[re.Pattern[str], _ReadBy(_pattern, {"type": "string", "format": "regex"})]
TemplateText = Annotated[Template, _ReadBy(lambda value: Template(_text(value)), _STRING)]
BodyTree = Annotated[Body, _ReadBy(Body, {})]
SomeIds = Annotated[int, _ReadBy(_some_ids, {"type": "integer", "minimum": 2, "maximum": _MAX_IDS})]
Zone = Annotated[timezone, _ReadBy(lambda value: zone_named(_text(value)), _STRING)]
HttpStatus = Annotated[int, _ReadBy(_http_status, {"type": "string", "pattern": "^[1-5][0-9]{2}$"})]


class Table(BaseModel):
    """A table of the document; a key that it does not declare is an error."""

    # `defer_build`: only `Document` is ever validated on its own, so only it builds a validator.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


class AuthTable(Table):
    """How a call carries the credential."""

    headers: dict[str, TemplateText] = Field({}, description="Header templates; {api_key} is the credential.")
    hook: Literal["kling-jwt"] | None = Field(
        None, description="Code that makes the credential from the key where a template cannot."
    )


class PollTable(Table):
    """How often the provider wants to be polled, in seconds."""

    min_seconds: Number = Field(2.0, description="Shortest time between two polls of a task.")
    max_seconds: Number = Field(15.0, description="Longest time between two polls of a task.")
    recommended_seconds: Number | None = Field(
        None, description="Time between two polls that the provider recommends (default: the minimum)."
    )
    usual_seconds: Number | None = Field(
        None,
        description="Even interval for tasks whose ends have no pattern (default: the geometric mean of the"
        " recommended and the longest).",
    )
    deadline_seconds: Annotated[Number, Field(gt=0)] | None = Field(
        None, description="After this long the provider itself gives a task up: the default task deadline."
    )
    hint_headers: dict[str, Number] = Field(
        {}, description="Headers that say how long to wait before the next poll, with their unit in seconds."
    )


class TaskIdTable(Table):
    """What a task id consists of, where a call needs more than the provider's id."""

    pattern: Pattern | None = Field(
        None, description="Regular expression the whole id must match; its named groups are template values."
    )
    defaults: dict[str, Text] = Field({}, description="Values of groups that take no part in a match.")
    model: Text | None = Field(
        None, description="Group that names the model, for what is learned where no response names one."
    )
    action: Text | None = Field(None, description="The same for the action.")


class SubmitCallTable(Table):
    """A call that submits: the caller's body is sent unchanged, so it declares none."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field("GET", description="HTTP method.")
    path: TemplateText = Field(
        description="Begins with /. {name} is encoded as one segment, {name:path} keeps its slashes."
    )
    query: dict[str, TemplateText] = Field({}, description="Templates of further query parameters.")
    headers: dict[str, TemplateText] = Field({}, description="Templates of headers.")
    base_url: TemplateText | None = Field(
        None,
        description="Where this call goes, if elsewhere; only groups of the task id's pattern may be in it.",
    )


class CallTable(SubmitCallTable):
    """A call about a task."""

    body: BodyTree | None = Field(None, description="JSON body whose strings are templates.")


class FileCallTable(SubmitCallTable):
    """The call that downloads the file of a result: always a GET."""

    method: Literal["GET"] = Field("GET", description="HTTP method.")


class StatusManyTable(CallTable):
    """The call that shows many tasks, for polls that are due together."""

    ids: Literal["joined", "list"] = Field(
        "joined",
        description="How {task_ids} goes out: joined by the separator, or as a list: a query parameter once"
        " for each id, a JSON array.",
    )
    separator: Text = Field(",", description="Joins the ids.")
    max_ids: SomeIds = Field(description="Ids of one call at most.")
    at: OnePath = Field(
        description="Path of the answers: a list, or an object by id; @ is the whole document."
    )
    id: Paths = Field((), description="Path of the id in a document of the list (default: as in [fields]).")
    wrapper: PlainPath = Field(
        (), description="Where a document is put before it is read, if a single answer has more around it."
    )


class CallsTable(Table):
    """The calls that the provider has."""

    status: CallTable = Field(description="Shows a task.")
    status_many: StatusManyTable | None = Field(None, description="Shows many tasks.")
    alias: CallTable | None = Field(None, description="Finds a task by the client's own id, {alias}.")
    stream: CallTable | None = Field(None, description="Opens the provider's event stream of a task.")
    submit: SubmitCallTable | None = Field(None, description="Creates a task.")
    sync: SubmitCallTable | None = Field(
        None, description="Creates a task and waits for it. The bridge serves it but never makes it."
    )
    cancel: CallTable | None = Field(None, description="Cancels a task.")
    follow_up: CallTable | None = Field(None, description="Fetches the result of a completed task.")
    file: FileCallTable | None = Field(
        None, description="Downloads the file of a result that has no link; it may name {file_id}."
    )


class AcceptedCallTable(CallTable):
    """A further form of a call, which clients use: /proxy serves it, the bridge never makes it."""

    call: Literal["status", "alias", "stream", "cancel", "follow_up"] = Field(description="Which call it is.")


class SubmittedIdTable(Table):
    """How the answer to a submit names the task, where [fields] task_id does not say it."""

    at: Paths = Field((), description="Path of the id; with `pattern`, of the text that is taken apart.")
    pattern: Pattern | None = Field(
        None, description="Regular expression the whole text must match; its groups are values of `id`."
    )
    needs: dict[str, Paths] = Field({}, description="Further values from the answer, all of them required.")
    id: TemplateText | None = Field(
        None, description="Template of the id, from the values above and the caller's options."
    )


class SubmitTable(Table):
    """What a submit takes and returns beyond the call itself."""

    client_id: PlainPath = Field((), description="Path of the caller's own id in the JSON body.")
    callback_url: PlainPath = Field((), description="Path of the callback address in the JSON body.")
    callback_query: Text = Field(
        "", description="The query parameter that holds the callback address instead."
    )
    options: dict[str, Pattern] = Field(
        {}, description="Regular expressions that the caller's options must match whole, by name."
    )
    task_id: SubmittedIdTable | None = Field(None, description="How the answer names the task.")


class RetryTable(Table):
    """Where the provider says how long to wait, besides Retry-After and retry-after-ms."""

    at: Paths = Field((), description="Path of the seconds to wait.")
    by_code: dict[str, Number] = Field({}, description="Seconds to wait by error code.")
    reset_headers: Texts = Field((), description="Headers with the unix second at which the limit is lifted.")


class AnswerTable(Table):
    """Distinguishes a task from an error response."""

    code: Paths = Field((), description="Paths of codes that also report success; any of them can fail it.")
    success: Words = Field(("0",), description="The codes that mean success.")
    message: Paths = Field((), description="Path of the sentence beside the code.")
    silent: Texts = Field(
        ("success", "succeed", "succeeded", "ok"), description="Messages that say nothing and are ignored."
    )
    http_status: Paths = Field((), description="Path of an HTTP status repeated in the body.")
    error_code: Paths = Field((), description="Path of an error's code.")
    error_message: Paths = Field((), description="Path of an error's message.")
    classes: dict[OutcomeName, Words] = Field({}, description="Error codes by what they mean.")
    phrases: dict[OutcomeName, Words] = Field(
        {}, description="Words in the message by what they mean; they beat the code. The first match wins."
    )
    http: dict[HttpStatus, OutcomeName] = Field({}, description="What an HTTP status means at this provider.")
    otherwise: OutcomeName = Field("unavailable", description="What an unlisted error means.")
    list_item: Paths = Field(
        (), description="Path of the task in an answer that is a list (default: by its id, or the only one)."
    )
    binary: OutputType | None = Field(
        None, description="Type of the result when the body itself is the result and `http` gives a status."
    )
    retry: RetryTable = _with_default({}, "How long to wait.")


class GuardTable(Table):
    """A correction of the status by a second condition."""

    when: Statuses = _with_default("completed", "Statuses that are corrected.")
    condition: OnePath = Field(
        alias="if", description="One path; the guard applies where it finds something."
    )
    then: StatusName = Field("failed", description="The status it becomes.")


class StatusTable(Table):
    """Where the status word is and what it means."""

    at: Paths = Field((), description="Path of the status word.")
    types: Types = _with_default("string", "JSON types that count as a status word.")
    absent: StatusName | None = Field(None, description="Status of a document without a status word.")
    words: dict[Literal[StatusName, "not_found"], Words] = Field({}, description="Status words by status.")
    result_unavailable: Paths = Field(
        (), description="Finds something where the result of a completed task is gone."
    )
    common_words: bool = Field(
        default=False, description="Use the common words of gateways for words that `words` does not list."
    )
    guards: list[GuardTable] = Field([], description="Corrections, applied in order.")


class FieldsTable(Table):
    """Paths of the other values of a task."""

    task_id: Paths = Field((), description="The task's id.")
    alias: Paths = Field((), description="The client's own id.")
    progress: Paths = Field((), description="Progress from 0 to 100.")
    estimated_seconds: Paths = Field((), description="Estimated length of the whole run.")
    eta_seconds: Paths = Field((), description="Estimated time that is left.")
    queue_position: Paths = Field((), description="Position in the provider's queue.")
    model: Paths = Field((), description="Model that runs the task.")
    action: Paths = Field((), description="Kind of task.")
    created_at: Paths = Field((), description="When the task was created.")
    completed_at: Paths = Field((), description="When it became final.")
    changed_at: Paths = Field((), description="When it last changed, by the provider's clock.")
    credits_used: Paths = Field((), description="What it cost.")
    credits_estimated: Paths = Field((), description="What it will probably cost.")
    poll_after: Paths = Field((), description="Seconds the provider asks to wait before the next poll.")
    error_code: Paths = Field((), description="Code of a failed task's error.")
    error_message: Paths = Field((), description="Message of a failed task's error.")


class UnitsTable(Table):
    """Factors that turn the provider's amounts into ours."""

    progress: Number = Field(1.0, description="100 for a fraction.")
    estimated_seconds: Number = Field(1.0, description="0.001 for milliseconds.")
    eta_seconds: Number = Field(1.0, description="0.001 for milliseconds.")
    credits_used: Number = Field(1.0, description="Credits per unit.")
    credits_estimated: Number = Field(1.0, description="Credits per unit.")
    poll_after: Number = Field(1.0, description="0.001 for milliseconds.")


class OutputTable(Table):
    """Where results of one kind are; the other paths start at each item found at `at`."""

    at: SomePaths = Field(
        description="Path of a string, an object or a list of them; @ is the whole document."
    )
    type: OutputType | None = Field(None, description="Type of the results where the item does not say it.")
    content: Literal["link", "base64", "search"] = Field(
        "link", description="What strings are; `search` takes every link anywhere below."
    )
    url: Paths = Field((), description="A link or a list of links.")
    data: Paths = Field((), description="Base64 text.")
    type_at: Paths = Field((), description="The type, in the provider's words.")
    media_type: Paths = Field((), description="The media type.")
    file_id: Paths = Field((), description="The provider's id of the file.")
    expires_at: Paths = Field((), description="When the link expires.")
    width: Paths = Field((), description="Width in pixels.")
    height: Paths = Field((), description="Height in pixels.")
    duration_seconds: Paths = Field((), description="Length of a video or of audio.")


class FollowUpTable(Table):
    """A further call for the result, when no output has a link yet."""

    on: Statuses = _with_default("completed", "Statuses that need the call.")
    needs: dict[str, Paths] = Field({}, description="Values from the document, all of them required.")
    outputs: list[OutputTable] = Field([], description="Where the results are in the answer.")
    answer: AnswerTable | None = Field(None, description="As [answer], where this call's answers differ.")
    result_grace_seconds: Number = Field(
        60.0, description="How long a result that the provider does not find (404) is asked for."
    )
    optional: bool = Field(default=False, description="The result may have no link (words, numbers).")


class FilesTable(Table):
    """How the files of results are downloaded."""

    key_paths: list[Pattern] = Field(
        [],
        description="Regular expressions of whole paths at the provider's own hosts: links there are fetched"
        " with the API key, all others without. The path of [calls.file] is always one.",
    )
    options: dict[str, Pattern] = Field(
        {}, description="Query parameters that a client of /proxy may add to [calls.file]."
    )


class StreamTable(Table):
    """How to read the provider's event stream."""

    wrappers: Texts = Field(
        ("data", "task", "payload", "event", "result", "run", "detail", "message"),
        description="Keys that may contain the document, up to three deep.",
    )
    quiet: Texts = Field(
        ("ping", "heartbeat", "keepalive", "keep_alive", "connected", "open"),
        description="Names of events that only keep the connection alive.",
    )
    errors: Texts = Field(("error",), description="Names of events that report an error of the stream.")
    ends: Texts = Field(("[DONE]",), description="Data that ends the stream.")
    events: dict[StatusName, Words] = Field({}, description="Event names by the status they report.")
    documents: bool = Field(
        default=False,
        description="The data are the documents of the status call, so /proxy can serve the stream.",
    )


class RefusedCallTable(Table):
    """A call of the provider's clients that /proxy refuses with a sentence of its own."""

    methods: Texts = Field((), description="HTTP methods (default: any).")
    hosts: Texts = Field((), description="Other hosts of the provider (default: that of `base_url`).")
    path: Pattern = Field(description="Regular expression that the whole path must match.")
    condition: OnePath | None = Field(
        None, alias="if", description="One path in the JSON body; refused only where it finds something."
    )
    message: Text = Field(description="The sentence.")


class EventsTable(Table):
    """The form of the events in which /proxy serves the stream of a task, made of the bridge's polls."""

    name: Text = Field(description="Name and `type`; {status} is the provider's word.")
    wrapper: Text = Field(description="Key of the document.")
    number: Text = Field(description="Key of the event's number.")
    after: Text = Field(description="Query parameter with the last number that the client saw.")


class ProxyTable(Table):
    """What /proxy knows of the provider's own clients."""

    target_header: Text = Field(
        "", description="Header in which a client that is given /proxy/NAME names the address it would call."
    )
    submit_headers: Texts = Field(
        (), description="Headers of a client's submit that are passed on to the provider."
    )
    answer_headers: dict[str, TemplateText] = Field(
        {}, description="Headers of answers about a task; templates of {task_id} and its pattern's groups."
    )
    error: dict[str, TemplateText] = Field(
        {}, description="Further keys of the bridge's errors; templates of {message} and {code}."
    )
    details: dict[str, Text] = Field(
        {}, description="Query of the status call that the bridge sends once a client of the task has."
    )
    without_details: dict[str, BodyTree] = Field(
        {},
        description="Put into documents for such a client until a poll has returned the details.",
    )
    wait_word: Text = Field(
        "",
        description="Word of a task that outlasts `Prefer: wait` at its submit, which the bridge waits for.",
    )
    events: EventsTable | None = Field(None, description="The events in which /proxy serves the stream.")
    passed: Pattern | None = Field(
        None, description="Regular expression of whole paths whose GET is passed on: calls about no task."
    )
    refused: list[RefusedCallTable] = Field([], description="Calls that are refused.")


class HeaderSignatureTable(Table):
    """The secret itself is in a header."""

    scheme: Literal["header"] = Field(description="The scheme.")
    header: Text = Field(description="The header that holds the secret.")


class HmacSignatureTable(Table):
    """A keyed hash is in a header."""

    scheme: Literal["hmac"] = Field(description="The scheme.")
    header: Text = Field(description="The header that holds the hash.")
    algorithm: Literal["sha1", "sha256", "sha512"] = Field("sha256", description="Hash function.")
    encoding: Literal["hex", "base64"] = Field("hex", description="Encoding of the hash.")
    prefix: Text = Field("", description="What precedes the hash in the header.")
    content: Text = Field(
        "{body}", description="What is hashed: text with {body}, {timestamp} and {header:NAME}."
    )
    timestamp_header: Text = Field("", description="The header with the unix second of {timestamp}.")
    tolerance_seconds: Number = Field(300.0, description="How far that second may be from now.")


class PublishedSignatureTable(Table):
    """A scheme that is published with its headers."""

    scheme: Literal["standard-webhooks", "fal"] = Field(description="The scheme.")
    tolerance_seconds: Number = Field(300.0, description="How far the timestamp may be from now.")


class CallbackTable(Table):
    """What a callback of the provider contains."""

    task_id: Paths | None = Field(None, description="Path of the task id (default: as in [fields]).")
    challenge: Paths = Field((), description="Path of the value that a verification call wants back.")
    echo: Text = Field("challenge", description="The key under which it is returned.")
    reply: Text = Field("", description="Body of the response to every other callback.")
    signature: (
        Annotated[
            HeaderSignatureTable | HmacSignatureTable | PublishedSignatureTable, Field(discriminator="scheme")
        ]
        | None
    ) = Field(None, description="How callbacks are signed.")


class Document(Table):
    """A dialect: how one kind of provider speaks."""

    # Both have a default only so that all errors of a document without them are found at once.
    model_config = ConfigDict(title="Dialect", json_schema_extra={"required": ["base_url", "calls"]})

    title: Text = Field("", description="The provider's name.")
    docs: Texts = Field((), description="The pages this was learned from.")
    base_url: Text = Field(description="The provider's address; may have a path, but no query.")
    hosts: Texts = Field(
        (), description="Further hosts of the provider: api.eu.acme.example, *.acme.example."
    )
    time_zone: Zone = _with_default("UTC", "Zone of times written without one: UTC or an offset like +08:00.")
    unfold: PlainPaths = Field((), description="Paths of strings that contain JSON, parsed before reading.")
    auth: AuthTable = _with_default({}, "The credential.")
    poll: PollTable = _with_default({}, "How often to poll.")
    task_id: TaskIdTable = _with_default({}, "What a task id consists of.")
    calls: CallsTable = _with_default({}, "The calls.")
    accepted: list[AcceptedCallTable] = Field([], description="Further forms of the calls, for /proxy.")
    submit: SubmitTable = _with_default({}, "What a submit takes and returns.")
    answer: AnswerTable = _with_default({}, "A task, or an error?")
    status: StatusTable = _with_default({}, "The status word.")
    fields: FieldsTable = _with_default({}, "The other values.")
    units: UnitsTable = _with_default({}, "Factors of amounts.")
    cost_unit: Text = Field(
        "", description="What costs are counted in, after `units`: credits, USD, seconds of video."
    )
    outputs: list[OutputTable] = Field([], description="Where the results are.")
    follow_up: FollowUpTable | None = Field(None, description="A further call for the result.")
    files: FilesTable = _with_default({}, "The files of results.")
    stream: StreamTable = _with_default({}, "The event stream.")
    callback: CallbackTable = _with_default({}, "Callbacks.")
    proxy: ProxyTable = _with_default({}, "The provider's own clients, at /proxy.")


@dataclass(frozen=True, slots=True)
class DocumentError:
    """An error in a document.

    Args:
        keys: Where: keys and positions in lists, from the outside in.
    """

    keys: Keys
    message: str

    def __str__(self) -> str:
        place = ""
        for key in self.keys:
            place += f"[{key}]" if isinstance(key, int) else f".{key}" if place else key
        return f"{place}: {self.message}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document with what the models found wrong with it.

    Args:
        document: None where so much is wrong that nothing more can be checked.
        repaired: The places whose values were replaced, so that the rest could be checked.
    """

    document: Document | None
    errors: list[DocumentError]
    repaired: frozenset[Keys]


def parse(data: Mapping[str, object]) -> Parsed:
    """Validate a document.

    With errors, each wrong value is removed and each missing one invented, and the rest is validated again.
    The compiler can then check what values must agree on, and an author sees all errors at once.
    """
    found: list[DocumentError] = []
    repaired: set[Keys] = set()
    document = _without_dropped(data)
    for _ in range(_MAX_REPAIRS):
        try:
            return Parsed(Document.model_validate(document), found, frozenset(repaired))
        except ValidationError as failed:
            errors = [(_keys(error), error) for error in failed.errors(include_url=False)]
        # A repair may uncover a further error (an empty table lacks its required keys); only those of the
        # first round are the author's.
        found = found or [DocumentError(keys, _message(error)) for keys, error in errors]
        document = deepcopy(document)
        for keys, error in errors:
            _repair(document, keys, error, again=keys in repaired)
            repaired.add(keys)
    return Parsed(None, found, frozenset(repaired))


def _without_dropped(data: Mapping[str, object]) -> dict[str, object]:
    """The document without the key that had no effect, for one release."""
    document = dict(data)
    poll = document.get("poll")
    if isinstance(poll, Mapping):
        document["poll"] = {name: value for name, value in poll.items() if name != "follows_estimate"}
    return document


_MAX_REPAIRS = 8  # each round repairs one level of tables, of which the deepest key is under five

_TABLE_TYPES = ("model_type", "model_attributes_type", "dict_type")
_MESSAGES = {
    "missing": "missing",
    "union_tag_not_found": "missing",
    "string_type": _NOT_A_STRING,
    "string_too_short": _NOT_A_STRING,
    "bool_type": "must be true or false",
    "float_type": "must be a number, not negative",
    "finite_number": "must be a number, not negative",
    "greater_than_equal": "must be a number, not negative",
    "greater_than": "must be a number above 0",
    **dict.fromkeys(_TABLE_TYPES, "must be a table"),
    "list_type": "must be a list of tables",
}


def _message(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key (known here: {', '.join(_known_beside(error))})"
    if kind in ("literal_error", "union_tag_invalid"):
        allowed = context.get("expected") or context.get("expected_tags")
        value = context.get("tag", error["input"])
        return f"{value!r} is not one of {str(allowed).replace(' or ', ', ').replace(chr(39), '')}"
    return str(context["error"]) if kind == "value_error" else _MESSAGES.get(kind, error["msg"])


def _keys(error: ErrorDetails) -> Keys:
    """Where an error is: pydantic's location without its marks for free keys and for kinds of signature."""
    keys = error["loc"][:-1] if error["loc"][-1] == "[key]" else error["loc"]
    if error["type"].startswith("union_tag"):
        return (*keys, "scheme")
    return keys[:2] + keys[3:] if keys[:2] == ("callback", "signature") else keys


def _known_beside(error: ErrorDetails) -> list[str]:
    """The keys of the table that an unknown key was found in."""
    tables: list[type[Table]] = [Document]
    for key in error["loc"][:-1]:
        if len(tables) > 1:  # the kinds of signature: here the location holds the scheme
            tables = [table for table in tables if key in get_args(table.model_fields["scheme"].annotation)]
        elif isinstance(key, str):
            tables = list(_tables_in(tables[0].model_fields[key].annotation))
    return [field.alias or name for name, field in tables[0].model_fields.items()]


def _tables_in(annotation: object) -> Iterator[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables_in(argument)


def _repair(data: dict[str, Any], keys: Keys, error: ErrorDetails, *, again: bool) -> None:
    """Put in the place of a wrong value what lets the rest of the document be validated."""
    parent: Any = data
    kind = error["type"]
    for key in keys[:-1]:
        if isinstance(parent, dict):
            parent = parent.setdefault(key, {})
        elif isinstance(parent, list) and isinstance(key, int):
            parent = parent[key]
    last: Any = keys[-1]
    if kind in _TABLE_TYPES:
        parent[last] = {}
    elif kind == "missing" or (kind in ("value_error", "string_type", "string_too_short") and not again):
        # A valid path, template, pattern or word. Where it is wrong too, the next round removes it or makes
        # it a table; removed at once, it would be missed elsewhere (a value in `needs`, by a template).
        parent[last] = "x"
    elif kind == "list_type":
        parent[last] = []
    elif kind == "literal_error" and again:  # it was missing, and must be one of a few words
        parent[last] = error["ctx"]["expected"].split("'")[1]
    elif kind.startswith("union_tag"):
        parent["scheme"] = "fal"  # the kind of signature that needs no other key
    else:
        parent.pop(last, None)


class _WithoutNull(GenerateJsonSchema):
    """TOML has no null: an optional key is one that is absent."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        return (
            self.generate_inner(schema["schema"])
            if schema.get("default") is None
            else super().default_schema(schema)
        )


def json_schema() -> dict[str, Any]:
    """JSON schema of a dialect's document."""
    return Document.model_json_schema(schema_generator=_WithoutNull)
