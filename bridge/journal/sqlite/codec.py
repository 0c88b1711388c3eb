"""States as bytes: a journal reads exactly what it wrote, to the last field.

Intentional: what orjson cannot write exactly (NaN, numbers over 64 bits, unpaired surrogates) is written by
the standard library's JSON, which reads everything. A journal must not reject a state for its content.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import orjson

from bridge.core.columns import generate
from bridge.core.task import Failure, Output, Source, State, Status, TaskKey
from bridge.errors import JournalError

Value = TypeVar("Value", State, Output, Failure)

LOST_MARK = b'"status":"lost"'
"""In every encoded lost state, and in no other: within a text the quotes are escaped."""

MAX_BYTES = 256 * 1024 * 1024


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes of the values of a field; JSON writes a whole number without its point."""
    if isinstance(hint, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _classes(part))
    return (int, float) if hint is float else (get_origin(hint) or hint,)


_OWN_COLUMN = "raw"  # bytes are not JSON; they have a column of their own
_TYPES = {
    kind: {name: _classes(hint) for name, hint in get_type_hints(kind).items()}
    for kind in (State, Output, Failure)
}
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


def encode(state: State) -> bytes:
    """A state as a JSON document, without `raw`; `result` is text in it.

    Raises:
        JournalError: It is too large, or holds a value that JSON cannot express.
    """
    fields = _of_state(state)
    if state.outputs:
        fields["outputs"] = [_of_output(output) for output in state.outputs]
    else:
        del fields["outputs"]
    if state.error is not None:
        fields["error"] = _of_failure(state.error)
    if state.result is not None:
        fields["result"] = state.result.decode("utf-8", "surrogateescape")
    document = _dump(fields)
    size = len(document) + len(state.raw or b"")
    if size > MAX_BYTES:
        raise JournalError(f"a state of {size} bytes is too large to record")
    return document


def decode(document: bytes, raw: bytes | None) -> State:
    """The state that was encoded.

    Raises:
        JournalError: The document was not written by `encode`.
    """
    try:
        fields = json.loads(document)
        fields["status"] = Status(fields["status"])
        fields["source"] = Source(fields["source"])
        _take_old_estimate(fields)
        if "result" in fields:
            fields["result"] = fields["result"].encode("utf-8", "surrogateescape")
        if "outputs" in fields:
            fields["outputs"] = tuple(_checked(Output(**output)) for output in fields["outputs"])
        if "error" in fields:
            fields["error"] = _checked(Failure(**{"code": None, "message": None} | fields["error"]))
        return _checked(State(**fields, raw=raw))
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise JournalError(f"a recorded state cannot be read: {error}") from error


def encode_text(text: str) -> bytes:
    """Text as UTF-8; a task id with unpaired surrogates, which clients can send, must not fail a lookup."""
    return text.encode("utf-8", "surrogatepass")


def encode_key(key: TaskKey) -> tuple[bytes, bytes, bytes]:
    """A key as its three columns, in the order of the table."""
    return encode_text(key.upstream), encode_text(key.account), encode_text(key.task_id)


def decode_key(upstream: bytes, account: bytes, task_id: bytes) -> TaskKey:
    names = (name.decode("utf-8", "surrogatepass") for name in (upstream, task_id, account))
    return TaskKey(*names)


def _take_old_estimate(fields: dict[str, Any]) -> None:
    """Versions before recorded the time left, counted from the change, instead of a moment.

    Raises:
        TypeError, KeyError: It is not a number, or the time of the change is missing.
    """
    left = fields.pop("eta_seconds", None)
    if left is not None and "eta_at" not in fields:
        fields["eta_at"] = fields["changed_at"] + left


def _checked(value: Value) -> Value:
    for name, classes in _TYPES[type(value)].items():
        if not isinstance(getattr(value, name), classes):
            raise TypeError(f"the field {name} has a wrong type")
    return value


def _dump(fields: dict[str, Any]) -> bytes:
    try:
        document = orjson.dumps(fields)
        # Absent fields are left out, so a null was NaN or infinity, or is in a text.
        if document.find(b"null") < 0:  # half the time of `in`
            return document
    except TypeError:
        pass  # the slower encoder below takes it, or says why not
    try:
        return encode_text(_encoder.encode(fields))
    except (TypeError, ValueError) as error:
        raise JournalError(f"the state cannot be encoded: {error}") from error


def _present(kind: type) -> Callable[[Any], dict[str, Any]]:
    """Generate what gives the fields that are not None; `decode` restores the others as defaults."""
    names = [field.name for field in dataclasses.fields(kind) if field.name != _OWN_COLUMN]
    body = [f'if (value := one.{name}) is not None: fields["{name}"] = value' for name in names]
    present: Callable[[Any], dict[str, Any]] = generate(
        "present(one)", ["fields = {}", *body, "return fields"], {}
    )
    return present


_of_state, _of_output, _of_failure = _present(State), _present(Output), _present(Failure)
