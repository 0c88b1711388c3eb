"""The limits per caller and per address: defaults, those of `limits = "exposed"`, and what the next one gets.

One table: the settings take their defaults from it, and docs/generate.py the table in docs/operations.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

MEBIBYTE = 1024 * 1024
CALLER = "_per_caller"
ADDRESS = "_per_address"


class Profile(StrEnum):
    """Who reaches the bridge."""

    DEFAULT = "default"
    EXPOSED = "exposed"


class LimitRow(NamedTuple):
    """One kind of limit, counted per caller, per address and, for some kinds, over the whole bridge.

    Args:
        setting: The name of the settings, without `_per_caller` and `_per_address`.
        counts: What is counted, with its unit.
        beyond: What the one above it gets.
        caller: The default per caller; not in force with `auth = "none"`, where all are one caller.
        exposed_caller: The same with `limits = "exposed"`.
        exposed_address: Per address with `limits = "exposed"`; the default per address is 0.
        total: Over the whole bridge, in a setting without a suffix; None where there is none.
        per: `caller` or `address` where only one of the two exists; else empty.
    """

    setting: str
    counts: str
    beyond: str
    caller: int = 0
    exposed_caller: int = 0
    exposed_address: int = 0
    total: int | None = None
    per: str = ""


_TURNED_AWAY = "SSE and NDJSON: 200 and `over_capacity`; WebSocket: 1013; long-poll: 429"

LIMITS = (
    LimitRow(
        "max_connections",
        "open streams, WebSockets and long-polls",
        _TURNED_AWAY,
        caller=10_000,
        exposed_caller=1_000,
        exposed_address=100,
        total=100_000,
    ),
    LimitRow(
        "max_streams_per_second",
        "new streams and WebSockets per second; burst of ten seconds",
        _TURNED_AWAY,
        caller=500,
        exposed_caller=100,
        exposed_address=20,
    ),
    LimitRow(
        "max_watches",
        "tasks followed at once, over all connections",
        "SSE and NDJSON: 200 and `over_capacity`; WebSocket: 1013, or an `error` to the `subscribe`",
        caller=20_000,
        exposed_caller=2_000,
        exposed_address=200,
    ),
    LimitRow(
        "max_subscribes_per_second",
        "tasks subscribed to per second; burst of ten seconds",
        "SSE and NDJSON: 200 and `over_capacity`; WebSocket: 1013, or it is not read on",
        caller=1_000,
        exposed_caller=200,
        exposed_address=20,
    ),
    LimitRow(
        "max_provider_calls_per_second",
        "calls that a request causes at once: submits, cancels, lookups by alias, files, and reads of tasks"
        " that have no watch; burst of ten seconds",
        "429",
        caller=100,
        exposed_caller=50,
        exposed_address=10,
    ),
    LimitRow(
        "max_lingering_watches",
        "watches that continue for `linger_seconds` without a viewer",
        "its oldest one ends early",
        caller=2_000,
        exposed_caller=1_000,
        exposed_address=200,
        total=10_000,
    ),
    LimitRow(
        "max_waiting_bytes",
        "bytes of responses and events that clients have not taken yet",
        "streams: 200 and `over_capacity`, a running one is not written to; documents: 429",
        caller=16 * MEBIBYTE,
        exposed_caller=8 * MEBIBYTE,
        exposed_address=2 * MEBIBYTE,
        total=32 * MEBIBYTE,
    ),
    LimitRow(
        "max_history_bytes_per_second",
        "bytes of `?history=1` per second; burst of ten seconds",
        "the replay waits",
        caller=16 * MEBIBYTE,
        exposed_caller=8 * MEBIBYTE,
        exposed_address=1 * MEBIBYTE,
        total=32 * MEBIBYTE,
    ),
    LimitRow(
        "max_reading_bytes",
        "bytes of request bodies that have not arrived completely",
        "429; over the whole bridge: it is not read on",
        caller=16 * MEBIBYTE,
        exposed_caller=16 * MEBIBYTE,
        exposed_address=4 * MEBIBYTE,
        total=24 * MEBIBYTE,
    ),
    LimitRow(
        "max_submits_in_flight",
        "submits that wait for the provider",
        "429",
        caller=100,
        exposed_caller=50,
        exposed_address=10,
        total=1_000,
    ),
    LimitRow(
        "max_files_in_flight",
        "files of results that are on their way through the bridge",
        "429",
        caller=50,
        exposed_caller=20,
        exposed_address=10,
        total=500,
    ),
    LimitRow(
        "max_submits_per_minute",
        "submits per minute; burst of one minute",
        "429",
        exposed_caller=60,
        per="caller",
    ),
    LimitRow(
        "max_new_keys_per_minute",
        'requests per minute with keys that no provider has accepted yet (`auth = "upstream-key"`)',
        "429",
        exposed_address=60,
        per="address",
    ),
)


def fill(data: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that `limits` and `auth` imply, where the operator did not set them.

    Args:
        data: As the operator wrote it, not validated yet.
    """
    exposed = data.get("limits") == Profile.EXPOSED
    # All callers are one then: its limits would throttle all clients together.
    anonymous = data.get("auth", "none") == "none"
    filled: dict[str, Any] = {}
    for row in LIMITS:
        if row.per != "address" and (anonymous or exposed):
            filled[row.setting + CALLER] = 0 if anonymous else row.exposed_caller
        if row.per != "caller" and exposed:
            filled[row.setting + ADDRESS] = row.exposed_address
    return {name: value for name, value in filled.items() if name not in data}
