"""States as bytes: what a journal writes is what it reads, to the last field.

Intentional: what orjson cannot write exactly (NaN, numbers over 64 bits, half surrogate pairs)
the standard library's JSON writes, and it reads everything. A journal may not judge what a state
holds.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import orjson

from bridge.core.task import Failure, Output, Source, State, Status, TaskKey
from bridge.errors import JournalError

MAX_BYTES = 256 * 1024 * 1024

_BESIDE = "raw"  # bytes are no JSON; they stand in a column of their own
_STATE_FIELDS = [field.name for field in dataclasses.fields(State) if field.name != _BESIDE]
_OUTPUT_FIELDS = [field.name for field in dataclasses.fields(Output)]
_FAILURE_FIELDS = [field.name for field in dataclasses.fields(Failure)]
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


def encode(state: State) -> bytes:
    """A state as a JSON document, without `raw`.

    Raises:
        JournalError: It is too large, or holds what no JSON can say.
    """
    fields = _given(state, _STATE_FIELDS)
    if state.outputs:
        fields["outputs"] = [_given(output, _OUTPUT_FIELDS) for output in state.outputs]
    else:
        del fields["outputs"]
    if state.error is not None:
        fields["error"] = _given(state.error, _FAILURE_FIELDS)
    document = _dump(fields)
    size = len(document) + len(state.raw or b"")
    if size > MAX_BYTES:
        raise JournalError(f"a state of {size} bytes is too large to record")
    return document


def decode(document: bytes, raw: bytes | None) -> State:
    """The state that was encoded.

    Raises:
        JournalError: The document is none of ours.
    """
    try:
        fields = json.loads(document)
        fields["status"] = Status(fields["status"])
        fields["source"] = Source(fields["source"])
        if "outputs" in fields:
            fields["outputs"] = tuple(Output(**output) for output in fields["outputs"])
        if "error" in fields:
            fields["error"] = Failure(**{"code": None, "message": None} | fields["error"])
        return State(**fields, raw=raw)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise JournalError(f"a recorded state cannot be read: {error}") from error


def encode_text(text: str) -> bytes:
    """Any text at all; what cannot be UTF-8 must not make a lookup fail."""
    return text.encode("utf-8", "surrogatepass")


def encode_key(key: TaskKey) -> tuple[bytes, bytes, bytes]:
    """A key as its three columns."""
    return encode_text(key.upstream), encode_text(key.account), encode_text(key.task_id)


def decode_key(upstream: bytes, account: bytes, task_id: bytes) -> TaskKey:
    """The key that was encoded."""
    names = (name.decode("utf-8", "surrogatepass") for name in (upstream, task_id, account))
    return TaskKey(*names)


def _dump(fields: dict[str, Any]) -> bytes:
    try:
        document = orjson.dumps(fields)
        if b"null" not in document:  # we write none: it was NaN or infinity, or the word in a text
            return document
    except TypeError:
        pass  # the slow way can tell what is wrong, if anything is
    try:
        return encode_text(_encoder.encode(fields))
    except (TypeError, ValueError) as error:
        raise JournalError(f"the state cannot be written down: {error}") from error


def _given(value: State | Output | Failure, names: list[str]) -> dict[str, Any]:
    """The fields that say something; the others come back as their defaults."""
    return {name: given for name in names if (given := getattr(value, name)) is not None}
