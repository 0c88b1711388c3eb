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
        return f"{_second(whole)}.{milliseconds:03d}Z"
    except (OverflowError, ValueError, OSError):
        return None


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


_EXPRESSIONS = {
    Write.PLAIN: "state.{0}",
    Write.NUMBER: "_number(state.{0})",
    Write.TIME: "timestamp(state.{0})",
    Write.LEFT: "None if eta_at is None else seconds_left(eta_at, now)",
    Write.ETA: "None if {0} is None else timestamp({0})",
    Write.CHANGED: "(changed_at := timestamp(state.{0}))",
    # mostly the same instant, and a timestamp costs more than all the plain fields together
    Write.OBSERVED: "changed_at if observed == state.changed_at else timestamp(observed)",
    Write.OUTPUTS: "[_output(output, include) for output in state.{0}]",
    Write.FAILURE: 'None if state.{0} is None else {{"code": state.{0}.code, "message": state.{0}.message}}',
    Write.CURSOR: "str(event.cursor)",
    Write.RAW: "_raw(state) if include.raw else None",
}
_KEY = {"task": "key.ref", "upstream": "key.upstream", "task_id": "key.task_id"}


def _written() -> Iterator[str]:
    """One line of a dict display per key of the document, in the order of the table."""
    cost = [row.name for row in FIELDS if row.write is Write.COST]
    unknown = " and ".join(f"state.{name} is None" for name in cost)
    known = ", ".join(f'"{name}": state.{name}' for name in cost)
    for row in FIELDS:
        if row.write is Write.COST:
            if row.name == cost[0]:
                yield f'"cost": None if {unknown} else {{{known}}},'
        else:
            value = _KEY[row.name] if row.write is Write.KEY else _EXPRESSIONS[row.write].format(row.name)
            yield f'"{row.name}": {value},'


_fields: Callable[[Event, Include, float, Confirmation | None], dict[str, Any]] = generate(
    "_fields(event, include, now, confirmation)",
    [
        "state, key = event.state, event.key",
        "if confirmation is None or state.status.final:",  # a late one says nothing about an end
        "    observed, eta_at, eta_by = state.observed_at, state.eta_at, state.eta_by",
        "else:",
        "    observed, eta_at, eta_by = confirmation",
        "    observed = max(observed, state.observed_at)",  # the clock may have been set
        "return {",
        *(f"    {line}" for line in _written()),
        "}",
    ],
    {
        "timestamp": timestamp,
        "seconds_left": seconds_left,
        "_number": _number,
        "_output": _output,
        "_raw": _raw,
    },
)
