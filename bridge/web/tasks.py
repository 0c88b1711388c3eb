"""Reading one task: its state, by the provider's id or by the client's own."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.delivery.desk import Desk
from bridge.delivery.longpoll import LONGEST_WAIT_SECONDS, etag, read
from bridge.errors import TaskNotFound
from bridge.web import parse
from bridge.web.aliases import find_by_alias
from bridge.web.callers import Callers, TokenScope, answering
from bridge.web.limits import Limits
from bridge.wire.document import Include, document

HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", "Vary": "Prefer, Accept"}


class Tasks:
    """The routes that answer with one state document."""

    def __init__(self, desk: Desk, limits: Limits, callers: Callers) -> None:
        self._desk = desk
        self._limits = limits
        self._callers = callers

    async def state(self, request: Request) -> Response:
        """`GET /v1/tasks/{upstream}/{task_id}`: the state, now or once it differs."""
        caller = await self._callers.who(request)
        key = parse.path_key(self._desk.pool, request, caller.account)
        await self._callers.permit(caller, TokenScope.READ, [key])
        include = parse.include(parse.query(request))
        wait, have = parse.preferred_wait(request.headers), request.headers.get("if-none-match")
        if wait and have is not None:
            self._limits.longpoll(request, caller.name)
        lasting = None if wait is None else self._callers.lasts(caller, wait)
        found = await read(self._desk, key, have=have, wait=lasting)
        headers = HEADERS | {"ETag": etag(found.event)}
        if wait is not None:
            headers["Preference-Applied"] = f"wait={min(int(wait), LONGEST_WAIT_SECONDS)}"
        if not found.modified:
            return Response(status_code=304, headers=headers)
        return state_response(found.event, include, headers, found.observed_at)

    async def by_alias(self, request: Request) -> Response:
        """`GET /v1/aliases/{upstream}/{alias}`: the state of the task the client named itself."""
        caller = await self._callers.who(request)
        caller.permit_search(request.path_params["upstream"])
        upstream = self._desk.pool.upstream(request.path_params["upstream"], caller.account)
        include = parse.include(parse.query(request))
        try:
            with answering(caller):
                key, event = await find_by_alias(self._desk, upstream, request.path_params["alias"])
        except TaskNotFound:
            caller.permit_upstream(TokenScope.READ, upstream.name)  # others' ids are theirs to know of
            raise
        caller.permit(TokenScope.READ, [key])
        where = links(key, parse.mounted_at(request))["self"]
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
