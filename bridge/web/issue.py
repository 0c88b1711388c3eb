"""Where a backend gets tickets for its pages."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

import orjson
from starlette.requests import Request
from starlette.responses import Response

from bridge.core.task import TaskKey
from bridge.delivery.desk import Desk
from bridge.errors import Conflict, InvalidRequest
from bridge.web import parse
from bridge.web.callers import TICKET, Callers, TokenScope
from bridge.web.tickets import LONGEST_SECONDS, Ticket, Tickets
from bridge.wire.document import timestamp

USUAL_SECONDS = 300


class Issue:
    """`POST /v1/tickets`.

    Args:
        tickets: None where the bridge gives out none.
    """

    def __init__(self, desk: Desk, callers: Callers, tickets: Tickets | None) -> None:
        self._desk = desk
        self._callers = callers
        self._tickets = tickets

    async def issue(self, request: Request) -> Response:
        """A ticket for tasks the caller may read; never with a ticket in place of a credential."""
        caller = await self._callers.who(request)
        if self._tickets is None:
            raise Conflict("this bridge has no secret to sign tickets with")
        body = await parse.json_object(request, self._desk.settings.max_body_bytes)
        unknown = body.keys() - {"tasks", "seconds"}
        if unknown:
            raise InvalidRequest("a ticket is asked for with `tasks` and `seconds`")
        refs = parse.only_texts(body.get("tasks"), "tasks")
        most, seconds = (
            self._desk.settings.max_tasks_per_connection,
            _seconds(body.get("seconds", USUAL_SECONDS)),
        )
        keys = parse.task_keys(self._desk.pool, refs, most, caller.account)
        for error in (await self._callers.permit(caller, TokenScope.READ, keys)).values():
            raise error
        ticket = self._tickets.mint(caller, keys, seconds)
        self._callers.hold(caller, seconds)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        document = _document(ticket, keys, parse.mounted_at(request))
        return Response(document, 201, headers, media_type="application/json")


def _seconds(value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LONGEST_SECONDS:
        raise InvalidRequest(f"`seconds` is a whole number from 1 to {LONGEST_SECONDS}")
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
