"""The state document: what clients read about a task (docs/endpoints.md)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from bridge.core.event import Event
from bridge.core.task import Output, State


@dataclass(frozen=True, slots=True)
class Include:
    """What the client requested besides the plain document.

    Args:
        raw: The provider's own document, as `raw`.
        data: Base64 results as `data:` URLs.
    """

    raw: bool = False
    data: bool = False


PLAIN = Include()


def document(event: Event, *, include: Include = PLAIN, observed_at: float | None = None) -> bytes:
    """The state of a task as JSON; every key is present, and null if unknown.

    Args:
        observed_at: Unix seconds of a confirmation later than the recorded one.
    """
    return orjson.dumps(_fields(event, include, observed_at))


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


def _fields(event: Event, include: Include, observed_at: float | None) -> dict[str, Any]:
    state: State = event.state
    key = event.key
    changed_at = timestamp(state.changed_at)
    observed = max(observed_at or 0.0, state.observed_at)
    return {
        "task": key.ref,
        "upstream": key.upstream,
        "task_id": key.task_id,
        "alias": state.alias,
        "status": state.status,
        "upstream_status": state.upstream_status,
        "progress": _number(state.progress),
        "eta_seconds": state.eta_seconds,
        "queue_position": state.queue_position,
        "model": state.model,
        "action": state.action,
        "created_at": timestamp(state.created_at),
        "completed_at": timestamp(state.completed_at),
        "outputs": [_output(output, include) for output in state.outputs],
        "error": None if state.error is None else {"code": state.error.code, "message": state.error.message},
        "cost": _cost(state),
        "changed_at": changed_at,
        "observed_at": changed_at if observed == state.changed_at else timestamp(observed),
        "source": state.source,
        "cursor": str(event.cursor),
        # parsed and encoded again: the provider's line breaks would end an SSE field
        "raw": orjson.loads(state.raw) if include.raw and state.raw is not None else None,
    }


def _cost(state: State) -> dict[str, float | None] | None:
    if state.credits_used is None and state.credits_estimated is None:
        return None
    return {"credits_used": state.credits_used, "credits_estimated": state.credits_estimated}


def _output(output: Output, include: Include) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": output.type,
        "url": output.url,
        "expires_at": timestamp(output.expires_at),
        "width": output.width,
        "height": output.height,
        "duration_seconds": output.duration_seconds,
        "file_id": output.file_id,
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
