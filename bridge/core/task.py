"""What a task is: its key, its status, and every field an observation or a state has.

To add a field: one row here, its reader in the dialects (`FieldRules`), its key in `state.schema.json`.
Merging, comparing and writing follow from the row; tests compare the dialects and the API documents with it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Self, TypeVar, dataclass_transform
from urllib.parse import unquote

from bridge.core.columns import Column, Emit, Merge, Read, Write, column, rows
from bridge.errors import InvalidRequest

UPSTREAM_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
MAX_TASK_ID = 1024  # of LiteLLM 362: base64 of provider, deployment and the vendor's id
OWN_ACCOUNT = "-"
CLIMBS_SENTENCE = "an id must not contain a segment `.` or `..` or a backslash, percent-encoded or not"

_SUSPICIOUS = re.compile(r"[%\\]|(?:^|/)\s*\.")
_DOTS = frozenset({".", ".."})
_PARAMETERS = re.compile("[;?#]")
_DECODINGS = 4  # the path as it is sent, and decoded up to three times
# What some servers take for a dot, a slash or a backslash: too long UTF-8, and the escapes of JavaScript.
_ODD_ESCAPE = re.compile(
    r"%(?:(?P<dot>c0%ae|e0%80%ae|f0%80%80%ae|u002e|uff0e)|(?P<slash>c0%af|e0%80%af|f0%80%80%af|u002f|uff0f)"
    r"|(?:c1%9c|e0%81%9c|f0%80%81%9c|u005c|uff3c))",
    re.IGNORECASE,
)
_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_MAX_UNESCAPED = 2
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Class = TypeVar("Class")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field, column))
def frozen_for_types(cls: type[Class]) -> type[Class]:
    """A keyword-only dataclass with slots that the type checker, and only it, treats as frozen.

    A dataclass frozen at run time assigns each field through `object.__setattr__`: a `State` takes 7 µs to
    create that way, 3 µs this way.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)


class Status(StrEnum):
    """The status values of the API. A final one never changes again, except `lost`.

    Attributes:
        final: Whether the task has ended.
    """

    QUEUED = "queued"
    PROCESSING = "processing"
    INPUT_REQUIRED = "input_required"
    UNKNOWN = "unknown"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    def __init__(self, word: str) -> None:
        # Stored, not a property: read several times for every event.
        self.final = word in {"completed", "failed", "cancelled", "lost"}


class Source(StrEnum):
    """Where an observation came from."""

    POLL = "poll"
    STREAM = "stream"
    CALLBACK = "callback"
    SUBMIT = "submit"


class TaskKey(NamedTuple):
    """Identifies a watch. The account is part of it: two tenants may have the same task id.

    A tuple, because each event is looked up by it several times, and tuples hash in C.

    Args:
        upstream: Name of a configured upstream.
        task_id: The provider's id, 1-1,024 characters without control characters; may contain slashes.
        account: The credential the task is polled with; `-` for the operator's own.
    """

    upstream: str
    task_id: str
    account: str = OWN_ACCOUNT

    @property
    def ref(self) -> str:
        """The task ref clients use, `upstream/task_id`."""
        return f"{self.upstream}/{self.task_id}"

    @classmethod
    def parse(cls, ref: str, account: str = OWN_ACCOUNT) -> Self:
        """Parse a task ref.

        Raises:
            InvalidRequest: The upstream name or the task id is not well-formed.
        """
        upstream, slash, task_id = ref.partition("/")
        if not slash:
            raise InvalidRequest(f"a task ref is upstream/task_id, not {ref[:80]!r}")
        return cls(check_upstream_name(upstream), check_task_id(task_id), account)


def check_upstream_name(name: str) -> str:
    """Return `name` unchanged.

    Raises:
        InvalidRequest: It does not match `[a-z][a-z0-9-]{0,31}`.
    """
    if not UPSTREAM_NAME.fullmatch(name):
        raise InvalidRequest(f"{name[:80]!r} is not an upstream name")
    return name


def check_id(text: str) -> str:
    """Return `text`, an id that is not itself a part of a path (a file's, a client's own), unchanged.

    Raises:
        InvalidRequest: It is empty, longer than 1,024 characters or contains control characters.
    """
    if not text or len(text) > MAX_TASK_ID or _CONTROL.search(text):
        raise InvalidRequest("an id must have 1 to 1,024 characters and no control characters")
    return text


def check_url_part(text: str) -> str:
    """Return `text`, an id that becomes a part of a provider's URL, unchanged.

    Raises:
        InvalidRequest: As `check_id`; or it would name another resource, as a part of a path.
    """
    check_id(text)
    if climbs(text):
        # `x%2F..%2F..%2Faccount` would reach another path of the provider, with the operator's key.
        raise InvalidRequest(CLIMBS_SENTENCE)
    return text


def check_task_id(task_id: str) -> str:
    """Return the id in its canonical form, in which ids that differ only in percent-encoding are one.

    Raises:
        InvalidRequest: It is empty, longer than 1,024 characters, contains control characters, would name
            another resource as a part of a path, or is percent-encoded more than twice.
    """
    check_url_part(task_id)
    if "%" in task_id:
        canonical = canonical_id(task_id)
        task_id = canonical if canonical == task_id else check_url_part(canonical)
    if not task_id.replace("/", "").strip():
        raise InvalidRequest(
            "a task id must not consist of slashes and blanks only"
        )  # names the list of tasks
    return task_id


def canonical_id(task_id: str) -> str:
    """The id with its escapes decoded, except those of `%` and of what is not UTF-8.

    Providers put ids into their documents as they want them in a URL (`projects%2Fp%2Foperations%2Fo`). Their
    SDKs send them like that, others encode them once more: it is the same task.

    Raises:
        InvalidRequest: It is percent-encoded more than twice.
    """
    for _ in range(_MAX_UNESCAPED):
        plain = _ESCAPES.sub(_unescaped, task_id)
        if plain == task_id:
            return task_id
        task_id = plain
    if _ESCAPES.sub(_unescaped, task_id) != task_id:
        raise InvalidRequest("the task id is percent-encoded too often")
    return task_id


def _unescaped(escapes: re.Match[str]) -> str:
    data = bytes.fromhex(escapes[0].replace("%", ""))
    try:
        return data.replace(b"%", b"%25").decode()
    except UnicodeDecodeError:
        return escapes[0].upper()


def climbs(path: str) -> bool:
    """Whether a segment of an encoded path is `.` or `..` or has a backslash: it would name another resource.

    A value in the path is encoded once, and servers and the proxies before them decode once or more: the
    value itself counts, and the value decoded once and twice. Some servers read a backslash as a slash, or
    replace wide characters by their ASCII ones.
    """
    if path.isascii() and not _SUSPICIOUS.search(path):
        return False  # nearly every path; each poll and each proxied request comes through here
    for _ in range(_DECODINGS):
        plain = path if path.isascii() else unicodedata.normalize("NFKC", path)
        if "\\" in plain or any(_names_another(segment.strip()) for segment in plain.split("/")):
            return True
        path = unquote(_ODD_ESCAPE.sub(_usual, path))
    return False


def _names_another(segment: str) -> bool:
    # Java servers leave out `;` and what follows; one that decodes before it splits, also `?` and `#`.
    return segment in _DOTS or _PARAMETERS.split(segment, maxsplit=1)[0].rstrip() == ".."


def _usual(odd: re.Match[str]) -> str:
    return "." if odd["dot"] else "/" if odd["slash"] else "\\"


@frozen_for_types
class Output:
    """One result of a task.

    Args:
        type: `image`, `video`, `audio` or `file`.
        url: The provider's link to it; None when it will not hand the file out, or sent the content inline.
        expires_at: Unix seconds when the link expires.
        file_id: The provider's id of the file, always text: 64-bit numbers lose digits in JavaScript.
        data: The content as base64, where the provider sent it inline.
        stored_url: The bridge's own copy; None without one.
    """

    type: str
    url: str | None = None
    expires_at: float | None = None
    width: int | None = None
    height: int | None = None
    duration_seconds: float | None = None
    file_id: str | None = None
    data: str | None = None
    media_type: str | None = None
    stored_url: str | None = None

    @property
    def fetchable(self) -> bool:
        """Whether there is a link or the content."""
        return self.url is not None or self.data is not None


@dataclass(frozen=True, slots=True)
class Failure:
    """The provider's own error code and message."""

    code: str | None
    message: str | None


@frozen_for_types
class TaskFields:
    """The fields that an observation and a state have in common, in the order of the state document.

    Args:
        alias: The client's own id of the task (`out_task_id`).
        status: `unknown` for a word no mapping knows.
        upstream_status: The provider's own word, verbatim.
        progress: 0-100; None where the provider reports none.
        created_at: Unix seconds, like all times.
        raw: The provider's document, verbatim JSON bytes.
        result: The document of the second call, where the provider has one for the result.
        result_status: Its HTTP status.
    """

    alias: str | None = column(Read.IDENTIFIER, Merge.KEEP_FILLED, Emit.ALWAYS, Write.PLAIN, default=None)
    status: Status = column(Read.STATUS, Merge.REPLACE, Emit.ALWAYS, Write.PLAIN)
    upstream_status: str | None = column(Read.STATUS, Merge.REPLACE, Emit.ALWAYS, Write.PLAIN, default=None)
    progress: float | None = column(Read.PERCENTAGE, Merge.PROGRESS, Emit.ALWAYS, Write.NUMBER, default=None)
    queue_position: int | None = column(Read.COUNT, Merge.REPLACE, Emit.ALWAYS, Write.PLAIN, default=None)
    model: str | None = column(Read.WORD, Merge.KEEP_FILLED, Emit.ALWAYS, Write.PLAIN, default=None)
    action: str | None = column(Read.WORD, Merge.KEEP_FILLED, Emit.ALWAYS, Write.PLAIN, default=None)
    created_at: float | None = column(Read.TIME, Merge.KEEP, Emit.ALWAYS, Write.TIME, default=None)
    completed_at: float | None = column(Read.TIME, Merge.KEEP, Emit.ALWAYS, Write.TIME, default=None)
    outputs: tuple[Output, ...] = column(
        Read.OUTPUTS, Merge.KEEP_FILLED, Emit.UNSIGNED, Write.OUTPUTS, default=()
    )
    error: Failure | None = column(Read.FAILURE, Merge.REPLACE, Emit.ALWAYS, Write.FAILURE, default=None)
    credits_used: float | None = column(Read.NUMBER, Merge.KEEP, Emit.ALWAYS, Write.COST, default=None)
    credits_estimated: float | None = column(Read.NUMBER, Merge.KEEP, Emit.NEVER, Write.COST, default=None)
    raw: bytes | None = column(Read.RAW, Merge.REPLACE, Emit.NEVER, Write.RAW, default=None)
    result: bytes | None = column(Read.RAW, Merge.KEEP, default=None)
    result_status: int | None = column(Read.OURS, Merge.KEEP, default=None)


@frozen_for_types
class Observation(TaskFields):
    """What one poll, frame or submit response says about a task, before it is merged with the known state.

    Args:
        task_id: The provider's id, where the document names one.
        eta_seconds: The provider's estimate of the time left.
        estimated_seconds: The provider's estimate of the whole run.
        changed_at: The provider's own time of the newest change, for the detection latency.
        poll_after: Seconds the provider asks to wait before the next poll.
        result_unavailable: The task is completed, and a result of it cannot be fetched: its field is
            empty, it is in a bucket (`gs://`), or the provider reports that it is gone.
    """

    task_id: str | None = column(Read.IDENTIFIER, default=None)
    eta_seconds: float | None = column(Read.NUMBER, default=None)
    estimated_seconds: float | None = column(Read.NUMBER, default=None)
    changed_at: float | None = column(Read.TIME, default=None)
    poll_after: float | None = column(Read.NUMBER, default=None)
    result_unavailable: bool = column(Read.OURS, default=False)


@frozen_for_types
class State(TaskFields):
    """Everything known about a task at one moment: all its observations, merged.

    Args:
        changed_at: Unix seconds when the bridge first saw this state.
        observed_at: Unix seconds when the upstream last confirmed it.
        source: Which source delivered it first.
        eta_at: When half of such tasks are done, Unix seconds; None if unknown.
        eta_by: When nine of ten are.
    """

    changed_at: float = column(Read.OURS, Merge.NOW, Emit.NEVER, Write.CHANGED)
    observed_at: float = column(Read.OURS, Merge.NOW, Emit.NEVER, Write.OBSERVED)
    source: Source = column(Read.OURS, Merge.SOURCE, Emit.NEVER, Write.PLAIN)
    eta_at: float | None = column(Read.OURS, Merge.ETA_AT, Emit.NEVER, Write.ETA, default=None)
    eta_by: float | None = column(Read.OURS, Merge.ETA_BY, Emit.NEVER, Write.ETA, default=None)


def _document_order() -> tuple[Column, ...]:
    """The shown rows of `State` between those of its key and its cursor; `raw`, the largest, comes last.

    When it will be done follows how far it is; the time left is stored nowhere.
    """
    state = rows(State)
    key = [
        Column(name, Read.KEY, Merge.FIXED, Emit.NEVER, Write.KEY) for name in ("task", "upstream", "task_id")
    ]
    cursor = Column("cursor", Read.KEY, Merge.FIXED, Emit.NEVER, Write.CURSOR)
    left = Column("eta_seconds", Read.OURS, Merge.FIXED, Emit.NEVER, Write.LEFT)
    eta = [row for row in state if row.write is Write.ETA]
    raw = [row for row in state if row.write is Write.RAW]
    omitted = [row for row in state if row.write is Write.OMIT]
    others = [row for row in state if row not in (*eta, *raw, *omitted)]
    place = [row.name for row in others].index("progress") + 1
    return (*key, *others[:place], left, *eta, *others[place:], cursor, *raw)


FIELDS = _document_order()
"""One row per field of the state document, in its order."""
