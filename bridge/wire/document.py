"""The state document: what clients read about a task (docs/endpoints.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from bridge.core.columns import Write, generate
from bridge.core.event import Confirmation, Event
from bridge.core.task import FIELDS, Output, State, Status
from bridge.wire.text import escaped, on_one_line


class Include(NamedTuple):
    """What the client requested besides the plain document.

    Args:
        raw: The provider's own document, as `raw`.
        data: Base64 results as `data:` URLs.
    """

    raw: bool = False
    data: bool = False


PLAIN = Include()


def document(
    event: Event, *, now: float, include: Include = PLAIN, confirmation: Confirmation | None = None
) -> bytes:
    """The state of a task as JSON; every key is present, and null if unknown.

    Args:
        now: Unix seconds, for the time left.
        confirmation: The newest one of this state; None for what is recorded with it.
    """
    return encoded(event, include, now, confirmation)[0]


def encoded(
    event: Event, include: Include, now: float, confirmation: Confirmation | None = None
) -> tuple[bytes, bool]:
    """The same, and whether what `include` asks for was left out because it cannot be written."""
    if not (include.raw or include.data):
        return escaped(orjson.dumps(_fields(event, PLAIN, now, confirmation))), False
    try:
        return escaped(orjson.dumps(_fields(event, include, now, confirmation))), False
    except Exception:  # noqa: BLE001 - whatever a provider sent must not cost its viewers the state
        return document(event, now=now, confirmation=confirmation), True


def seconds_left(eta_at: float | None, now: float) -> float | None:
    """Seconds until a task will probably be done; None once that moment has passed."""
    if eta_at is None or eta_at <= now:
        return None
    return round(eta_at - now, 1)


def _raw(state: State) -> orjson.Fragment | None:
    # A result without a link, such as words, is in the document of the second call only.
    words = state.result if state.status is Status.COMPLETED and not state.outputs else None
    raw = state.raw if words is None else words
    return None if raw is None else orjson.Fragment(on_one_line(raw))


def timestamp(seconds: float | None) -> str | None:
    """RFC 3339 in UTC with milliseconds; None for a time outside of the calendar."""
    if seconds is None:
        return None
    try:
        whole, milliseconds = divmod(round(seconds * 1000), 1000)
        return _second(whole) + _MILLISECONDS[milliseconds]
    except (OverflowError, ValueError, OSError):
        return None


_MILLISECONDS = [f".{number:03d}Z" for number in range(1000)]


@lru_cache(1024)
def _second(whole: int) -> str:
    """Cached: most times in a document are those of the previous one, or of the current second."""
    return datetime.fromtimestamp(whole, UTC).isoformat()[:19]


def _output(output: Output, include: Include) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": output.type,
        "url": output.url,
        "expires_at": timestamp(output.expires_at),
        "width": output.width,
        "height": output.height,
        "duration_seconds": output.duration_seconds,
        "file_id": output.file_id,
        "stored_url": output.stored_url,
    }
    if output.data is not None:
        # Three bytes per four characters of base64, without decoding megabytes to count them.
        fields["bytes"] = len(output.data.rstrip("=")) * 3 // 4
        if include.data:
            fields["url"] = f"data:{output.media_type or 'application/octet-stream'};base64,{output.data}"
    return fields


def _number(value: float | None) -> float | int | None:
    """Whole numbers without a trailing .0, as the provider writes them."""
    return int(value) if value is not None and value == int(value) else value


_VALUES = {
    Write.PLAIN: "value",
    Write.NUMBER: "_number(value)",
    Write.TIME: "timestamp(value)",
    Write.ETA: "timestamp(value)",
    Write.CHANGED: "timestamp(value)",
    # mostly the same instant, and a timestamp costs more than all the plain fields together
    Write.OBSERVED: 'fields["changed_at"] if value == state.changed_at else timestamp(value)',
    Write.OUTPUTS: "[_output(output, include) for output in value]",
    Write.FAILURE: '{"code": value.code, "message": value.message}',
}
_OF_CONFIRMATION = (Write.ETA, Write.OBSERVED)
_SET = {
    "task": "key.ref",
    "upstream": "key.upstream",
    "task_id": "key.task_id",
    "cursor": "str(event.cursor)",
}


def _written() -> Iterator[str]:
    """Sets what is known in a copy of `_BLANK`, in the order of the table."""
    cost = [row.name for row in FIELDS if row.write is Write.COST]
    for row in FIELDS:
        key = f'fields["{row.name}"]'
        if row.name in _SET:
            yield f"{key} = {_SET[row.name]}"
        elif row.write is Write.COST:
            if row.name == cost[0]:
                known = ", ".join(f'"{name}": state.{name}' for name in cost)
                yield f"if {' or '.join(f'state.{name} is not None' for name in cost)}:"
                yield f'    fields["cost"] = {{{known}}}'
        elif row.write is Write.LEFT:
            yield f"if eta_at is not None: {key} = seconds_left(eta_at, now)"
        elif row.write is Write.RAW:
            yield f"if include.raw: {key} = _raw(state)"
        elif row.write is Write.OUTPUTS:
            yield f"value = state.{row.name}"
            yield f"{key} = {_VALUES[row.write]} if value else []"
        else:
            yield f"value = {row.name}" if row.write in _OF_CONFIRMATION else f"value = state.{row.name}"
            yield f"if value is not None: {key} = {_VALUES[row.write]}"


def _blank() -> dict[str, Any]:
    """The document of which nothing is known, with its keys in the order of the table."""
    return {"cost" if row.write is Write.COST else row.name: None for row in FIELDS}


# Set in a copy: most fields of most states are unknown, and a display of so many keys is built from two.
_fields: Callable[[Event, Include, float, Confirmation | None], dict[str, Any]] = generate(
    "_fields(event, include, now, confirmation)",
    [
        "state, key, fields = event.state, event.key, _BLANK.copy()",
        "if confirmation is None or state.status.final:",  # a late one says nothing about an end
        "    observed_at, eta_at, eta_by = state.observed_at, state.eta_at, state.eta_by",
        "else:",
        "    observed_at, eta_at, eta_by = confirmation",
        "    observed_at = max(observed_at, state.observed_at)",  # the clock may have been set
        *_written(),
        "return fields",
    ],
    {
        "_BLANK": _blank(),
        "timestamp": timestamp,
        "seconds_left": seconds_left,
        "_number": _number,
        "_output": _output,
        "_raw": _raw,
    },
)
