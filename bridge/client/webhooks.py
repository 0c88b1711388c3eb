"""Webhooks of a bridge: what a receiver gets, and the calls that administer endpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import orjson

from bridge.client.state import TaskState, read_json
from bridge.errors import InvalidRequest, UnreadablePayload

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge.client.transport import HttpTransport

_JSON = {"Accept": "application/json"}
_TIMEOUT = 60.0
_PATH = "/v1/webhooks"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEvent:
    """The body of a delivery, for the receiver. Verify its signature before parsing it.

    Args:
        type: `task.final`, `task.status`, `task.state`, `task.stored`; `webhook.test` of a test.
        timestamp: When the state began, RFC 3339: `changed_at` of the state.
        state: The state of the task; of a test, an example or None.
        document: The complete body.
    """

    type: str
    timestamp: str | None
    state: TaskState | None
    document: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, document: object) -> Self:
        """Parse a body that was read as JSON, such as what `standardwebhooks` returns.

        Raises:
            UnreadablePayload: It is not the body of a delivery.
        """
        if not isinstance(document, dict) or not isinstance(document.get("type"), str):
            raise UnreadablePayload("the body of a delivery must be a JSON object with `type`")
        data = document.get("data")
        is_state = isinstance(data, dict) and "task" in data
        if not is_state and document["type"].startswith("task."):
            raise UnreadablePayload(f"a delivery of type {document['type'][:40]} must have a state as `data`")
        return cls(
            type=document["type"],
            timestamp=_text(document.get("timestamp")),
            state=TaskState.of(data) if is_state else None,
            document=document,
        )

    @classmethod
    def parse(cls, body: bytes | str) -> Self:
        """Parse a body.

        Raises:
            UnreadablePayload: It is not the body of a delivery.
        """
        return cls.of(read_json(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEndpoint:
    """An endpoint to which the bridge delivers states.

    Args:
        id: Of an endpoint in the configuration, its name there.
        events: Of which events: `task.final`, `task.status`, `task.state`, `task.stored`.
        upstreams: Of which upstreams; empty for all.
        tags: Of tasks with one of these tags; empty for all.
        enabled: Whether anything is delivered.
        disabled_reason: `operator`, `gone`, `failing` or `full`; None while it is enabled.
        static: Whether it is in the configuration, which alone can change it.
        secret: Only in the answer that creates or rotates it.
        document: The complete answer of the bridge.
    """

    id: str
    url: str
    events: tuple[str, ...] = ()
    upstreams: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    enabled: bool = True
    disabled_reason: str | None = None
    static: bool = False
    secret: str | None = field(default=None, repr=False)
    document: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, document: object) -> Self:
        """Parse an answer of the bridge.

        Raises:
            UnreadablePayload: It is not an endpoint.
        """
        fields = _object(document, "id", "url")
        return cls(
            id=fields["id"],
            url=fields["url"],
            events=_texts(fields.get("events")),
            upstreams=_texts(fields.get("upstreams")),
            tags=_texts(fields.get("tags")),
            enabled=fields.get("enabled") is not False,
            disabled_reason=_text(fields.get("disabled_reason")),
            static=fields.get("static") is True,
            secret=_text(fields.get("secret")),
            document=fields,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookAttempt:
    """One request to an endpoint, and what came of it.

    Args:
        delivery: The `webhook-id` it had.
        result: `delivered` if the receiver answered 2xx; else `failed`, `expired`, `gone` or `dropped`.
        status: HTTP status of the receiver; None if there was no response.
        seconds: How long it took.
        error: Why it failed.
        at: When it was made, RFC 3339.
    """

    delivery: str | None
    result: str
    type: str | None = None
    status: int | None = None
    seconds: float | None = None
    error: str | None = None
    at: str | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.result == "delivered"

    @classmethod
    def of(cls, document: object) -> Self:
        """Parse an answer of the bridge.

        Raises:
            UnreadablePayload: It is not an attempt.
        """
        fields = _object(document, "result")
        status, seconds = fields.get("status"), fields.get("seconds")
        return cls(
            delivery=_text(fields.get("delivery")),
            result=fields["result"],
            type=_text(fields.get("type")),
            status=status if isinstance(status, int) else None,
            seconds=seconds if isinstance(seconds, int | float) else None,
            error=_text(fields.get("error")),
            at=_text(fields.get("at")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDelivery:
    """One state for one endpoint, with the attempts to deliver it.

    Args:
        id: Its `webhook-id`, the same in every attempt.
        state: `delivered`, `waiting` for the next attempt, `failed`, `gone` or `dropped`.
        task: The ref of the task; None for a test.
        attempts: The newest first.
        next_attempt_at: RFC 3339; None when there is none.
    """

    id: str
    state: str
    type: str | None = None
    task: str | None = None
    attempts: tuple[WebhookAttempt, ...] = ()
    next_attempt_at: str | None = None
    document: dict[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, document: object) -> Self:
        """Parse an answer of the bridge.

        Raises:
            UnreadablePayload: It is not a delivery.
        """
        fields = _object(document, "id", "state")
        attempts = fields.get("attempts")
        return cls(
            id=fields["id"],
            state=fields["state"],
            type=_text(fields.get("type")),
            task=_text(fields.get("task")),
            attempts=tuple(map(WebhookAttempt.of, attempts)) if isinstance(attempts, list) else (),
            next_attempt_at=_text(fields.get("next_attempt_at")),
            document=fields,
        )


class WebhookAdmin:
    """The endpoints of a bridge; as `Bridge.webhooks`. All calls need the scope `admin`; none is retried.

    Raises:
        Forbidden: The token has no scope `admin`.
        UnknownWebhook: Of every method with an `id`: there is no such endpoint.
        BridgeUnreachable: No response.
    """

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def list(self) -> tuple[WebhookEndpoint, ...]:
        """Return all endpoints, those in the configuration included."""
        return tuple(map(WebhookEndpoint.of, _list(await self._call("GET", _PATH), "webhooks")))

    async def get(self, id: str) -> WebhookEndpoint:  # noqa: A002 - the bridge's name for it
        """Return one endpoint."""
        return WebhookEndpoint.of(await self._call("GET", _path(id)))

    async def create(
        self,
        url: str,
        *,
        events: Iterable[str] = ("task.final",),
        upstreams: Iterable[str] = (),
        tags: Iterable[str] = (),
    ) -> WebhookEndpoint:
        """Add an endpoint. Its `secret` is in this answer only.

        Args:
            events: `task.final`, `task.status` (whenever `status` differs), `task.state` (every state),
                `task.stored` (copies of outputs that were added after the end).
            upstreams: Of which upstreams; empty for all.
            tags: Of tasks with one of these tags; empty for all.
        """
        body = {"url": url, "events": [*events], "upstreams": [*upstreams], "tags": [*tags]}
        return WebhookEndpoint.of(await self._call("POST", _PATH, body))

    async def set_enabled(self, id: str, *, enabled: bool) -> WebhookEndpoint:  # noqa: A002 - see `get`
        """Enable or disable an endpoint."""
        return WebhookEndpoint.of(await self._call("PATCH", _path(id), {"enabled": enabled}))

    async def delete(self, id: str) -> None:  # noqa: A002 - see `get`
        """Delete an endpoint, with what still waits for it."""
        await self._transport.call("DELETE", _path(id), headers=_JSON, timeout_seconds=_TIMEOUT)

    async def rotate_secret(self, id: str) -> WebhookEndpoint:  # noqa: A002 - see `get`
        """Give an endpoint a new secret, in this answer only. The old one also signs for 24 h."""
        return WebhookEndpoint.of(await self._call("POST", _path(id, "/rotate-secret"), {}))

    async def test(self, id: str) -> WebhookAttempt:  # noqa: A002 - see `get`
        """Send one `webhook.test`, now; return what came of it."""
        return WebhookAttempt.of(await self._call("POST", _path(id, "/test"), {}))

    async def deliveries(self, id: str) -> tuple[WebhookDelivery, ...]:  # noqa: A002 - see `get`
        """Return the newest deliveries of an endpoint, the newest first."""
        found = _list(await self._call("GET", _path(id, "/deliveries")), "deliveries")
        return tuple(map(WebhookDelivery.of, found))

    async def redeliver(self, id: str, delivery: str) -> WebhookAttempt:  # noqa: A002 - see `get`
        """Send a delivery once more, now, with the same `webhook-id`; return what came of it."""
        path = _path(id, f"/deliveries/{quote(delivery, safe='')}/redeliver")
        return WebhookAttempt.of(await self._call("POST", path, {}))

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> object:
        encoded = None if body is None else orjson.dumps(body)
        _, text = await self._transport.call(
            method, path, headers=_JSON, body=encoded, timeout_seconds=_TIMEOUT
        )
        return read_json(text)


def _path(id: str, rest: str = "") -> str:  # noqa: A002 - the bridge's name for it
    if not id or id in (".", ".."):  # else the address of all endpoints
        raise InvalidRequest("the id of a webhook is needed")
    return f"{_PATH}/{quote(id, safe='')}{rest}"


def _object(document: object, *needed: str) -> dict[str, Any]:
    if not isinstance(document, dict) or not all(isinstance(document.get(name), str) for name in needed):
        raise UnreadablePayload(f"the response must be a JSON object with {' and '.join(needed)}")
    return document


def _list(document: object, name: str) -> list[object]:
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise UnreadablePayload(f"the response must be a JSON object with the list {name}")
    return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()
