"""`/v1/webhooks`: the endpoints to which states are delivered, for operators."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.caller import Caller
from bridge.core.suggestion import did_you_mean
from bridge.dialects.hosts import host_of
from bridge.errors import Forbidden, InvalidRequest, LimitExceeded
from bridge.sources.guard import check_url, private_hosts_of
from bridge.web import params
from bridge.web.operators import Operators
from bridge.web.services import Services
from bridge.web.webhook_documents import attempt_fields, delivery_fields, webhook_fields
from bridge.webhooks.endpoint import SUBSCRIBABLE, EventType, Webhook
from bridge.wire.text import dumps

logger = logging.getLogger(__name__)

MAX_ITEMS = 200
MAX_TEXT = 128
MAX_CONCURRENT_ATTEMPTS = 8
"""Deliveries that requests wait for."""

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_FIELDS = ("url", "events", "upstreams", "tags")


class WebhookRoutes:
    """Creating, listing, disabling and deleting endpoints; what was delivered to each, and delivering again.

    Args:
        admin: Whether these are the routes of the admin address.
    """

    def __init__(self, services: Services, *, admin: bool = False) -> None:
        self._webhooks = services.webhooks
        self._ledger = services.ledger
        self._pool = services.pool
        self._clock = services.clock
        self._limits = services.limits
        self._settings = services.settings
        self._operators = Operators(services, "webhooks are", admin=admin)
        self._private_hosts = private_hosts_of(services.settings.private_hosts)
        self._attempts = 0

    async def all(self, request: Request) -> Response:
        """`GET /v1/webhooks`: every endpoint. `POST`: a new one, whose secret is in this response only."""
        caller = await self._authenticate(request)
        if request.method == "POST":
            return await self._create(request, caller)
        return _json({"webhooks": await self._documents(self._webhooks.endpoints())})

    async def one(self, request: Request) -> Response:
        """`GET`, `PATCH` and `DELETE /v1/webhooks/{id}`."""
        caller = await self._authenticate(request)
        webhook = self._webhooks.get(request.path_params["id"])
        if request.method == "DELETE":
            await self._webhooks.delete(webhook.id)
            _log(caller, webhook, "deleted")
            return Response(status_code=204, headers=HEADERS)
        if request.method == "PATCH":
            enabled = _enabled(await self._body(request))
            webhook = await self._webhooks.set_enabled(webhook.id, enabled)
            _log(caller, webhook, "enabled" if enabled else "disabled")
        (document,) = await self._documents([webhook])
        return _json(document)

    async def rotate_secret(self, request: Request) -> Response:
        """`POST /v1/webhooks/{id}/rotate-secret`: a new secret; the one before signs too for 24 hours."""
        caller = await self._authenticate(request)
        await self._body(request, empty=True)
        webhook = await self._webhooks.rotate_secret(request.path_params["id"])
        _log(caller, webhook, "secret rotated")
        (document,) = await self._documents([webhook])
        return _json(document | {"secret": webhook.secret})

    async def test(self, request: Request) -> Response:
        """`POST /v1/webhooks/{id}/test`: delivers a `webhook.test` now; the result of that attempt."""
        await self._authenticate(request)
        await self._body(request, empty=True)
        webhook = self._webhooks.get(request.path_params["id"])
        return await self._attempt(lambda: self._webhooks.test(webhook.id))

    async def deliveries(self, request: Request) -> Response:
        """`GET /v1/webhooks/{id}/deliveries`: the newest ones, each with its attempts."""
        await self._authenticate(request)
        webhook = self._webhooks.get(request.path_params["id"])
        deliveries = await self._webhooks.deliveries(webhook.id)
        return _json({"deliveries": [delivery_fields(delivery) for delivery in deliveries]})

    async def redeliver(self, request: Request) -> Response:
        """`POST /v1/webhooks/{id}/deliveries/{delivery}/redeliver`: again, now; the result of it."""
        await self._authenticate(request)
        await self._body(request, empty=True)
        webhook, delivery = self._webhooks.get(request.path_params["id"]), request.path_params["delivery"]
        return await self._attempt(lambda: self._webhooks.redeliver(webhook.id, delivery))

    async def _authenticate(self, request: Request) -> Caller:
        caller = await self._operators.authenticate(request)
        # What another bridge has just changed counts: the next request of an operator may reach this one.
        await self._webhooks.refresh()
        return caller

    async def _create(self, request: Request, caller: Caller) -> Response:
        body = await self._body(request)
        _check_keys(body, _FIELDS)
        url = self._url(body.get("url"))
        events = _events(body.get("events", [EventType.FINAL.value]))
        upstreams = _upstreams(body.get("upstreams", []), self._pool.upstreams)
        tags = _texts(body.get("tags", []), "tags")
        webhook = await self._webhooks.create(url, events, upstreams, tags)
        _log(caller, webhook, "created")
        location = f"{params.root_path(request)}/v1/webhooks/{webhook.id}"
        (document,) = await self._documents([webhook])
        return _json(document | {"secret": webhook.secret}, status=201, headers={"Location": location})

    def _url(self, value: object) -> str:
        """The address of a receiver, as far as it can be checked without a connection."""
        if not isinstance(value, str):
            raise InvalidRequest("`url` must be a string: the address of the receiver")
        try:
            check_url(value, self._private_hosts)
        except Forbidden as error:
            # The credential is not at fault: an address that is not called cannot be stored.
            raise InvalidRequest(f"`url`: {error}") from error
        return value

    async def _body(self, request: Request, *, empty: bool = False) -> Mapping[str, object]:
        """The JSON object of a request.

        Args:
            empty: Whether it takes none: an empty object, or no body, is accepted.
        """
        body = await self._limits.read_body(request, self._settings.max_body_bytes)
        if empty and not body.strip():
            return {}
        document = params.json_object(body)
        if empty and document:
            raise InvalidRequest("this request takes no body")
        return document

    async def _attempt(self, deliver: Callable[[], Awaitable[Any]]) -> Response:
        if self._attempts >= MAX_CONCURRENT_ATTEMPTS:
            raise LimitExceeded("too many deliveries were requested at once", retry_after=1.0)
        self._attempts += 1
        try:
            return _json(attempt_fields(await deliver()))
        finally:
            self._attempts -= 1

    async def _documents(self, webhooks: Sequence[Webhook]) -> list[dict[str, object]]:
        queues = [webhook.queue for webhook in webhooks]
        waiting = dict(zip(queues, await self._ledger.waiting(queues), strict=True))
        self._webhooks.endpoint_figures.waiting = {**self._webhooks.endpoint_figures.waiting, **waiting}
        kept = "while_key_known" if self._settings.auth == "upstream-key" else "until_final"
        now = self._clock.time()
        return [
            webhook_fields(webhook, now=now) | {"kept": kept} | self._webhooks.figures_of(webhook)
            for webhook in webhooks
        ]


def _log(caller: Caller, webhook: Webhook, change: str) -> None:
    """Log who changed an endpoint; of its URL only the host, as the rest may be a secret."""
    fields = {
        "caller": caller.name,
        "webhook": webhook.id,
        "host": host_of(webhook.url),
        "change": change,
    }
    logger.info("webhook changed", extra=fields)


def _check_keys(body: Mapping[str, object], fields: Collection[str]) -> None:
    unknown = sorted(body.keys() - set(fields))
    if unknown:
        known = f"; known: {', '.join(fields)}"
        raise InvalidRequest(f"no such key: {unknown[0][:80]!r}{did_you_mean(unknown[0], fields, known)}")


def _enabled(body: Mapping[str, object]) -> bool:
    if body.keys() & set(_FIELDS):
        raise InvalidRequest("only `enabled` can be changed; create another webhook, and delete this one")
    _check_keys(body, ("enabled",))
    enabled = body.get("enabled")
    if not isinstance(enabled, bool):
        raise InvalidRequest("`enabled` must be true or false")
    return enabled


def _events(value: object) -> tuple[EventType, ...]:
    """The types of events; all of them for an empty list."""
    words = _texts(value, "events")
    known = {event.value: event for event in SUBSCRIBABLE}
    for word in words:
        if word not in known:
            others = f"; known: {', '.join(known)}"
            raise InvalidRequest(f"no such event: {word[:80]!r}{did_you_mean(word, known, others)}")
    return tuple(known[word] for word in words) or SUBSCRIBABLE


def _upstreams(value: object, configured: Collection[str]) -> tuple[str, ...]:
    names = _texts(value, "upstreams")
    for name in names:
        if name not in configured:
            advice = did_you_mean(name, configured)
            raise InvalidRequest(f"no upstream of this name is configured: {name[:80]!r}{advice}")
    return names


def _texts(value: object, name: str) -> tuple[str, ...]:
    """A list of words without repetitions, in its order."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InvalidRequest(f"`{name}` must be a list of strings")
    texts = tuple(dict.fromkeys(value))
    if len(texts) > MAX_ITEMS:
        raise InvalidRequest(f"`{name}` has more than {MAX_ITEMS} items")
    if not all(0 < len(text) <= MAX_TEXT and text.isprintable() for text in texts):
        raise InvalidRequest(f"`{name}` has an item that is empty, longer than {MAX_TEXT} or not printable")
    return texts


def _json(
    fields: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(dumps(fields), status, {**HEADERS, **(headers or {})}, media_type="application/json")
