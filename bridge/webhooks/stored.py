"""The small document that bridges share about webhooks: the endpoints that were added, and how all are doing.

What is read may be of another version, damaged or made up: what makes no sense is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from bridge.core.webhook_secret import key_of
from bridge.webhooks.endpoint import SUBSCRIBABLE, Disabled, EventType, Webhook

_FORMAT = 1


class EndpointHealth(NamedTuple):
    """How an endpoint is doing.

    Args:
        failing_since: Of the first failure since the last success, Unix seconds; None if it does not fail.
        disabled_at: Unix seconds.
        enabled_at: When an operator enabled it last, Unix seconds; None for never.
        at: Of which URL (`mark_of_url`): at another one an endpoint starts afresh.
    """

    failing_since: float | None = None
    disabled: Disabled | None = None
    disabled_at: float | None = None
    at: str = ""
    enabled_at: float | None = None


@dataclass(slots=True)
class StoredWebhooks:
    """The content of the document.

    Attributes:
        endpoints: By id, without those of the configuration.
        health: By id, of all that are disabled or failing.
    """

    endpoints: dict[str, Webhook] = field(default_factory=dict)
    health: dict[str, EndpointHealth] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As JSON."""
        return orjson.dumps(
            {
                "version": _FORMAT,
                "endpoints": [_fields(endpoint) for endpoint in self.endpoints.values()],
                "health": {
                    name: health._asdict()
                    for name, health in self.health.items()
                    if health != EndpointHealth(at=health.at)
                },
            }
        )


def decode_stored(encoded: bytes | None) -> StoredWebhooks:
    """What `encode` wrote."""
    try:
        fields = orjson.loads(encoded or b"{}")
    except orjson.JSONDecodeError:
        fields = None
    stored = StoredWebhooks()
    if not isinstance(fields, dict):
        return stored
    listed, health = fields.get("endpoints"), fields.get("health")
    for entry in listed if isinstance(listed, list) else ():
        endpoint = _endpoint(entry)
        if endpoint is not None:
            stored.endpoints[endpoint.id] = endpoint
    for name, entry in health.items() if isinstance(health, dict) else ():
        read = _health(entry)
        if read is not None:
            stored.health[name] = read
    return stored


def mark_of_url(url: str) -> str:
    """Names a URL, which may have a secret in it."""
    return blake2b(url.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _fields(endpoint: Webhook) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "events": list(endpoint.events),
        "upstreams": list(endpoint.upstreams),
        "tags": list(endpoint.tags),
        "secret": endpoint.secret,
        "previous_secret": endpoint.previous_secret,
        "previous_until": endpoint.previous_until,
        "created_at": endpoint.created_at,
    }


def _endpoint(entry: object) -> Webhook | None:
    if not isinstance(entry, dict):
        return None
    try:
        events = tuple(EventType(name) for name in entry["events"])
        endpoint = Webhook(
            id=_text(entry["id"]),
            url=_text(entry["url"]),
            events=tuple(kind for kind in events if kind in SUBSCRIBABLE),
            upstreams=tuple(_text(name) for name in entry["upstreams"]),
            tags=tuple(_text(name) for name in entry["tags"]),
            secret=_secret(entry["secret"]),
            previous_secret=None if entry["previous_secret"] is None else _secret(entry["previous_secret"]),
            previous_until=float(entry["previous_until"]),
            created_at=float(entry["created_at"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
    return endpoint if endpoint.events else None


def _health(entry: object) -> EndpointHealth | None:
    if not isinstance(entry, Mapping):
        return None
    try:
        since, disabled, disabled_at, at, enabled_at = (entry.get(name) for name in EndpointHealth._fields)
        return EndpointHealth(
            None if since is None else float(since),
            None if disabled is None else Disabled(disabled),
            None if disabled_at is None else float(disabled_at),
            _text(at),
            None if enabled_at is None else float(enabled_at),
        )
    except (TypeError, ValueError):
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _secret(value: object) -> str:
    secret = _text(value)
    key_of(secret)
    return secret
