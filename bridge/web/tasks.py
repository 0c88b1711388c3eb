"""Reading one task: its state, by the provider's id or by the client's own."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.authenticator import TICKET, Authenticator, TokenScope, map_credential_errors
from bridge.auth.tickets import MAX_TICKET_SECONDS, Ticket, Tickets
from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.delivery.longpoll import MAX_WAIT_SECONDS, etag, read
from bridge.delivery.subscriptions import Subscriptions
from bridge.errors import Conflict, InvalidRequest, TaskNotFound
from bridge.web import params
from bridge.web.limits.limits import Limits
from bridge.web.proxy.aliases import find_by_alias
from bridge.wire.document import Include, document, timestamp

HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", "Vary": "Prefer, Accept"}


class TaskRoutes:
    """The routes that answer with one state document."""

    def __init__(self, subscriptions: Subscriptions, limits: Limits, authenticator: Authenticator) -> None:
        self._subscriptions = subscriptions
        self._limits = limits
        self._authenticator = authenticator

    async def state(self, request: Request) -> Response:
        """`GET /v1/tasks/{upstream}/{task_id}`: the state, now or once it differs."""
        caller = await self._authenticator.authenticate(request)
        key = params.path_key(self._subscriptions.pool, request, caller.account)
        await self._authenticator.authorize(caller, TokenScope.READ, [key])
        include = params.include(params.query(request))
        wait, have = params.preferred_wait(request.headers), request.headers.get("if-none-match")
        if wait and have is not None:
            self._limits.longpoll(request, caller.name)
        lasting = None if wait is None else self._authenticator.lasts(caller, wait)
        found = await read(self._subscriptions, key, have=have, wait=lasting)
        headers = HEADERS | {"ETag": etag(found.event)}
        if wait is not None:
            headers["Preference-Applied"] = f"wait={min(int(wait), MAX_WAIT_SECONDS)}"
        if not found.modified:
            return Response(status_code=304, headers=headers)
        return state_response(found.event, include, headers, found.observed_at)

    async def by_alias(self, request: Request) -> Response:
        """`GET /v1/aliases/{upstream}/{alias}`: the state of the task the client named itself."""
        caller = await self._authenticator.authenticate(request)
        caller.authorize_search(request.path_params["upstream"])
        upstream = self._subscriptions.pool.upstream(request.path_params["upstream"], caller.account)
        include = params.include(params.query(request))
        try:
            with map_credential_errors(caller):
                key, event = await find_by_alias(self._subscriptions, upstream, request.path_params["alias"])
        except TaskNotFound:
            caller.authorize_upstream(TokenScope.READ, upstream.name)  # others' ids are theirs to know of
            raise
        caller.authorize(TokenScope.READ, [key])
        where = links(key, params.mounted_at(request))["self"]
        headers = HEADERS | {"ETag": etag(event), "Content-Location": where}
        return state_response(event, include, headers, None)


def links(key: TaskKey, under: str) -> dict[str, str]:
    """Where the bridge serves a task, as paths.

    Args:
        under: Where the bridge itself is mounted; nothing where it is the server.
    """
    task_id = quote(key.task_id, safe="")
    path = f"{under}/v1/tasks/{key.upstream}/{task_id}"
    return {
        "self": path,
        "events": f"{path}/events",
        "ws": f"{under}/v1/ws?task={key.upstream}/{task_id}",
        "cancel": f"{path}/cancel",
    }


def state_response(
    event: Event, include: Include, headers: dict[str, str], observed_at: float | None
) -> Response:
    """One state document as an answer."""
    body = document(event, include=include, observed_at=observed_at)
    return Response(body, headers=headers, media_type="application/json")


DEFAULT_TICKET_SECONDS = 300


class TicketRoutes:
    """`POST /v1/tickets`.

    Args:
        tickets: None where the bridge gives out none.
    """

    def __init__(
        self, subscriptions: Subscriptions, authenticator: Authenticator, tickets: Tickets | None
    ) -> None:
        self._subscriptions = subscriptions
        self._authenticator = authenticator
        self._tickets = tickets

    async def issue(self, request: Request) -> Response:
        """A ticket for tasks the caller may read; never with a ticket in place of a credential."""
        caller = await self._authenticator.authenticate(request)
        if self._tickets is None:
            raise Conflict("this bridge has no secret to sign tickets with")
        body = await params.json_object(request, self._subscriptions.settings.max_body_bytes)
        unknown = body.keys() - {"tasks", "seconds"}
        if unknown:
            raise InvalidRequest("a ticket is asked for with `tasks` and `seconds`")
        refs = params.only_texts(body.get("tasks"), "tasks")
        most, seconds = (
            self._subscriptions.settings.max_tasks_per_connection,
            _seconds(body.get("seconds", DEFAULT_TICKET_SECONDS)),
        )
        keys = params.task_keys(self._subscriptions.pool, refs, most, caller.account)
        for error in (await self._authenticator.authorize(caller, TokenScope.READ, keys)).values():
            raise error
        ticket = self._tickets.mint(caller, keys, seconds)
        self._authenticator.hold(caller, seconds)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        document = _document(ticket, keys, params.mounted_at(request))
        return Response(document, 201, headers, media_type="application/json")


def _seconds(value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TICKET_SECONDS:
        raise InvalidRequest(f"`seconds` is a whole number from 1 to {MAX_TICKET_SECONDS}")
    return value


def _document(ticket: Ticket, keys: Sequence[TaskKey], under: str) -> bytes:
    query = urlencode([*(("task", key.ref) for key in keys), (TICKET, ticket.text)], safe="/")
    return orjson.dumps(
        {
            "ticket": ticket.text,
            "expires_at": timestamp(ticket.expires_at),
            "tasks": [key.ref for key in keys],
            "links": {"events": f"{under}/v1/events?{query}", "ws": f"{under}/v1/ws?{query}"},
        }
    )
