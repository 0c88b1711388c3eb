"""What the settings amount to: the values in use, each with the layer it comes from, without secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import SecretStr

from bridge.config.limits import ADDRESS, CALLER, LIMITS
from bridge.config.settings import OutputSettings, Settings, UpstreamSettings, WebhookSettings, dialect_of
from bridge.dialects.dialect import Dialect

LAST_SECONDS = 10
"""What a stop may take beyond the longest submit and `drain_seconds`: the last answers, and the journal."""

LONG_RUNNING_SECONDS = 5.0
"""Providers that recommend such intervals have tasks of minutes."""

PRESET = "preset"
DEFAULT = "default"
IMPLIED = "limits"


class Setting(NamedTuple):
    """One setting in use.

    Args:
        value: Ready for JSON; a secret is `***`.
        source: `command line`, `environment`, `file`, `limits`, `preset` or `default`.
    """

    value: Any
    source: str


def effective(settings: Settings) -> dict[str, Setting]:
    """Every setting in use, by name; in tables as `upstreams.NAME.SETTING`."""
    shown = {
        name: Setting(
            _shown(getattr(settings, name)),
            settings.sources.get(name, IMPLIED if settings.is_exposed(name) else DEFAULT),
        )
        for name in Settings.model_fields
        if name not in {"outputs", "upstreams", "webhooks"}
    }
    if settings.admin_address is not None:
        host, port = settings.admin_address
        shown["admin_host"] = shown["admin_host"]._replace(value=host)
        shown["admin_port"] = shown["admin_port"]._replace(value=port)
    shown |= _outputs(settings)
    for name, endpoint in settings.webhooks.items():
        for setting in WebhookSettings.model_fields:
            key = f"webhooks.{name}.{setting}"
            shown[key] = Setting(_shown(getattr(endpoint, setting)), settings.sources.get(key, DEFAULT))
        key = f"webhooks.{name}.url"
        shown[key] = shown[key]._replace(value=_without_query(endpoint.url))
    for name, upstream in settings.upstreams.items():
        from_preset = preset_values(upstream, dialect_of(name, upstream))
        summary = upstream.model_dump(mode="python")
        for setting in UpstreamSettings.model_fields:
            key = f"upstreams.{name}.{setting}"
            if setting == "preset":
                value, otherwise = upstream.preset or name, DEFAULT
            elif setting in from_preset:
                value, otherwise = from_preset[setting], PRESET
            else:
                value, otherwise = summary[setting], DEFAULT
            if setting == "dialect" and upstream.dialect_file is not None:
                otherwise = settings.sources.get(f"{key}_file", DEFAULT)
            shown[key] = Setting(_shown(value), settings.sources.get(key, otherwise))
    return shown


def _outputs(settings: Settings) -> dict[str, Setting]:
    values = dict(settings.outputs)
    if settings.outputs.store is not None:
        values["links"] = settings.outputs.links_in_use
    names = {name: f"outputs.{name}" for name in OutputSettings.model_fields}
    return {key: Setting(values[name], settings.sources.get(key, DEFAULT)) for name, key in names.items()}


def table(settings: dict[str, Setting]) -> str:
    """The settings as lines of three columns."""
    rows = [("SETTING", "VALUE", "SOURCE")]
    for name, (value, source) in settings.items():
        if value is None:
            text = "-"
        elif isinstance(value, float) and value.is_integer():
            text = str(int(value))
        else:
            text = value if value and isinstance(value, str) else json.dumps(value)
        rows.append((name, text, source))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows)


def preset_values(upstream: UpstreamSettings, dialect: Dialect) -> dict[str, Any]:
    """What the preset (or mapping) says for the settings the operator left out."""
    values: dict[str, Any] = {}
    shortest, longest = poll_interval(upstream, dialect)
    if upstream.base_url is None:
        values["base_url"] = dialect.base_url
    if upstream.poll_min_seconds is None:
        values["poll_min_seconds"] = shortest
    if upstream.poll_max_seconds is None:
        values["poll_max_seconds"] = longest
    if "task_deadline_seconds" not in upstream.model_fields_set and dialect.poll.deadline_seconds is not None:
        values["task_deadline_seconds"] = dialect.poll.deadline_seconds
    return values


def poll_interval(upstream: UpstreamSettings, dialect: Dialect) -> tuple[float, float]:
    """Shortest and longest interval between two polls of a task, in seconds.

    A limit the operator set wins over the preset's other one: the preset never makes the range empty.
    """
    shortest = upstream.poll_min_seconds
    if shortest is None:
        shortest = min(dialect.poll.min_seconds, upstream.poll_max_seconds or dialect.poll.min_seconds)
    return shortest, max(upstream.poll_max_seconds or dialect.poll.max_seconds, shortest)


def longest_submit(settings: Settings) -> float:
    """Seconds that a submit may take at the slowest upstream."""
    return max((upstream.submit_timeout_seconds for upstream in settings.upstreams.values()), default=0.0)


def stop_seconds(settings: Settings) -> float:
    """How long a supervisor has to wait after SIGTERM before it kills the process."""
    return longest_submit(settings) + settings.drain_seconds + LAST_SECONDS


def stop_sentence(settings: Settings) -> str:
    """`stop_seconds`, and what they consist of."""
    parts = (
        f"{longest_submit(settings):g} for the longest submit, {settings.drain_seconds:g} of drain_seconds"
    )
    return f"A stop needs a grace period of {stop_seconds(settings):g} seconds: {parts}, {LAST_SECONDS} more."


def limits_sentence(settings: Settings) -> str | None:
    """Which limits are counted by each process for itself; None if one process is the whole service."""
    if not settings.is_replicated:
        return None
    several = settings.workers if settings.workers > 1 else "N"
    kinds = (f"{row.setting}{suffix}" for row in LIMITS for suffix in ("", CALLER, ADDRESS))
    names = [name for name in kinds if getattr(settings, name, 0) > 0]
    names += ["max_in_flight", "max_submits_in_flight", "max_streams"]  # of each upstream
    where = f"each of the {several} workers" if settings.workers > 1 else "each bridge on the engine"
    if settings.workers > 1 and settings.has_shared_engine:
        where += ", at each bridge on the engine,"
    return (
        f"Counted by {where} for itself, so the service as a whole allows {several} times as much:"
        f" {', '.join(dict.fromkeys(names))}. Over all of them: requests_per_second, max_in_flight_total."
    )


def learned_sentence(settings: Settings) -> str | None:
    """That nothing learned outlives the process, where that costs polls or delay; else None."""
    if settings.journal != "memory" or settings.is_replicated:
        return None
    names = [
        name
        for name, upstream in settings.upstreams.items()
        if upstream.enabled
        and (
            upstream.requests_per_second is not None
            or dialect_of(name, upstream).poll.recommended_seconds >= LONG_RUNNING_SECONDS
        )
    ]
    if not names:
        return None
    return (
        "With the journal in memory, what ended tasks teach about run times is forgotten at each stop: first"
        f" tasks after a start are polled without it ({', '.join(names)}). A journal in a file keeps it."
    )


def task_deadline(upstream: UpstreamSettings, dialect: Dialect) -> float | None:
    """Seconds after which an open task counts as lost; the preset's, unless the operator set them."""
    seconds: float | None = preset_values(upstream, dialect).get(
        "task_deadline_seconds", upstream.task_deadline_seconds
    )
    return seconds


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _without_query(url: str) -> str:
    """A URL without what may be secret in it."""
    path, query, _ = url.partition("?")
    scheme, _, rest = path.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}{'?***' if query else ''}"
