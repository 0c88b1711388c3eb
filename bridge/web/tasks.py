"""Reading one task, by the provider's id or by the client's own, and issuing tickets for reading tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.authenticator import TICKET
from bridge.auth.caller import Caller, TokenScope, map_credential_errors
from bridge.auth.tickets import MAX_TICKET_SECONDS
from bridge.core.details import check_group, check_tag
from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.delivery.longpoll import MAX_WAIT_SECONDS, LongPollRequest, etag
from bridge.errors import Conflict, InvalidRequest
from bridge.web import params
from bridge.web.proxy.aliases import Aliases
from bridge.web.services import Services
from bridge.wire.document import Include, document, timestamp
from bridge.wire.text import dumps

HEADERS = {
    # `no-transform`: a proxy that compresses also changes the entity tag, and a long-poll needs it back.
    "Cache-Control": "no-cache, no-transform",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Prefer, Accept",
}
DEFAULT_TICKET_SECONDS = 300


class NewWatches:
    """Counts the reads that start a watch as calls to the provider; the others cost it nothing."""

    def __init__(self, services: Services) -> None:
        self._pool = services.pool
        self._journal = services.journal
        self._limits = services.limits

    async def count(self, request: Request, caller: Caller, key: TaskKey) -> None:
        """Count a read of `key`.

        Raises:
            LimitExceeded: The caller or its address causes too many calls.
            JournalError: The journal cannot be read.
        """
        if self._pool.watcher(key) is not None:
            return
        (known,) = await self._journal.latest([key])
        if known is None or not known.state.status.final:
            self._limits.check_provider_call(request, caller.name)


class TaskRoutes:
    """The routes that respond with one state document."""

    def __init__(self, services: Services, aliases: Aliases) -> None:
        self._pool = services.pool
        self._longpolls = services.longpolls
        self._limits = services.limits
        self._authenticator = services.authenticator
        self._aliases = aliases
        self._new_watches = NewWatches(services)
        self._documents = StateDocuments(services)

    async def state(self, request: Request) -> Response:
        """`GET /v1/tasks/{upstream}/{task_id}`: the state; with `Prefer: wait` and a cursor, a long-poll."""
        caller = await self._authenticator.authenticate(request)
        key = params.path_key(self._pool, request, caller.account)
        # first: whether a read counts against the limits must not reveal which tasks exist
        await self._authenticator.check(caller, TokenScope.READ, [key])
        await self._new_watches.count(request, caller, key)
        await self._authenticator.verify([key])
        query = params.query(request)
        include = params.include(query)
        wait = params.preferred_wait(request.headers)
        if wait is not None:
            self._limits.open_longpoll(request, caller.name)
        poll = LongPollRequest(
            key,
            reader=(caller.name, self._limits.address_of(request)),
            have=params.known_states(request.headers, query),
            # a long-poll must not outlive the credential it was authorized by
            wait=None if wait is None else self._authenticator.cap_wait(caller, wait),
        )
        result = await self._longpolls.read(poll, request)
        headers = HEADERS | {"ETag": etag(result.event)}
        if wait is not None:
            headers["Preference-Applied"] = f"wait={min(int(wait), MAX_WAIT_SECONDS)}"
        if not result.modified:
            return Response(status_code=304, headers=headers)
        await self._limits.admit_document(request, caller.name, document_bytes(result.event, include))
        return self._documents.response(result.event, include, headers)

    async def by_alias(self, request: Request) -> Response:
        """`GET /v1/aliases/{upstream}/{alias}`: the state of the task with the client's own id."""
        caller = await self._authenticator.authenticate(request)
        caller.authorize_search(request.path_params["upstream"])
        upstream = self._pool.upstream(request.path_params["upstream"], caller.account)
        include = params.include(params.query(request))
        self._limits.check_provider_call(request, caller.name)
        with map_credential_errors(caller):
            key, event = await self._aliases.find(upstream, request.path_params["alias"], caller)
        location = links(key, params.root_path(request))["self"]
        headers = HEADERS | {"ETag": etag(event), "Content-Location": location}
        await self._limits.admit_document(request, caller.name, document_bytes(event, include))
        return self._documents.response(event, include, headers)


class TicketRoutes:
    """`POST /v1/tickets`."""

    def __init__(self, services: Services) -> None:
        self._settings = services.settings
        self._pool = services.pool
        self._limits = services.limits
        self._authenticator = services.authenticator
        self._tickets = services.tickets

    async def issue(self, request: Request) -> Response:
        """Issue a ticket for tasks the caller may read; a ticket cannot be renewed with itself."""
        caller = await self._authenticator.authenticate(request)
        if self._tickets is None:
            raise Conflict("this bridge has no secret to sign tickets with")
        body = params.json_object(await self._limits.read_body(request, self._settings.max_body_bytes))
        if body.keys() - {"tasks", "tags", "groups", "seconds"}:
            raise InvalidRequest("a ticket request takes `tasks`, `tags`, `groups` and `seconds` only")
        tags, groups = _names(body, "tags", check_tag), _names(body, "groups", check_group)
        seconds = _ticket_seconds(body.get("seconds", DEFAULT_TICKET_SECONDS))
        keys: list[TaskKey] = []
        if "tasks" not in body and not (tags or groups):
            raise InvalidRequest("a ticket needs at least one of `tasks`, `tags` and `groups`")
        if "tasks" in body:
            refs = params.only_texts(body.get("tasks"), "tasks")
            keys = params.task_keys(self._pool, refs, self._settings.max_tasks_per_connection, caller.account)
        for error in (await self._authenticator.authorize(caller, TokenScope.READ, keys)).values():
            raise error  # all tasks of a ticket must be visible, not only some as on a stream
        ticket = self._tickets.mint(caller, keys, seconds, tags=tags, groups=groups)
        self._authenticator.retain_key(caller, seconds)
        fields = {
            "ticket": ticket.text,
            "expires_at": timestamp(ticket.expires_at),
            "tasks": [key.ref for key in keys],
            "tags": tags,
            "groups": groups,
            "links": _ticket_links(params.root_path(request), keys, tags, groups, ticket.text),
        }
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return Response(dumps(fields), 201, headers, media_type="application/json")


def links(key: TaskKey, root_path: str) -> dict[str, str]:
    """The paths of a task's routes.

    Args:
        root_path: The path under which the bridge is mounted; often empty.
    """
    task_id = quote(key.task_id, safe="")
    path = f"{root_path}/v1/tasks/{key.upstream}/{task_id}"
    return {
        "self": path,
        "events": f"{path}/events",
        "ws": f"{root_path}/v1/ws?task={key.upstream}/{task_id}",
        "cancel": f"{path}/cancel",
    }


def document_bytes(event: Event, include: Include) -> int:
    """About how many bytes the document of a state has, without encoding it."""
    raw = len(event.state.raw or b"") if include.raw else 0
    return raw + sum(len(output.url or "") for output in event.state.outputs)


class StateDocuments:
    """Copies of states as they are now: with the newest confirmation, and the time that is left."""

    def __init__(self, services: Services) -> None:
        self._journal = services.journal
        self._clock = services.clock

    def write(self, event: Event, include: Include) -> bytes:
        """The state document."""
        confirmation = self._journal.confirmation(event.key)
        return document(event, now=self._clock.time(), include=include, confirmation=confirmation)

    def response(self, event: Event, include: Include, headers: dict[str, str]) -> Response:
        """A response with it."""
        return Response(self.write(event, include), headers=headers, media_type="application/json")


def _ticket_links(
    root_path: str, keys: Sequence[TaskKey], tags: Sequence[str], groups: Sequence[str], ticket: str
) -> dict[str, str | None]:
    """Where a ticket is used. A stream follows tasks, or one tag, or one group: None where it is for more."""
    followed = [*(("tag", tag) for tag in tags), *(("group", group) for group in groups)]
    named = [("task", key.ref) for key in keys]
    events = urlencode([*(named or followed), (TICKET, ticket)], safe="/")
    # a WebSocket follows tags and groups by messages
    ws = urlencode([*named, (TICKET, ticket)], safe="/")
    one_stream = len(followed) == (0 if named else 1)
    return {
        "events": f"{root_path}/v1/events?{events}" if one_stream else None,
        "ws": f"{root_path}/v1/ws?{ws}",
    }


def _names(body: Mapping[str, object], name: str, check: Callable[[str], str]) -> list[str]:
    """The tags or groups of a ticket request, without repeats.

    Raises:
        InvalidRequest: They are not a list of words.
    """
    if name not in body:
        return []
    words = body[name]
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise InvalidRequest(f"`{name}` must be a list of words, at least one")
    return [check(word) for word in dict.fromkeys(words)]


def _ticket_seconds(value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON does not distinguish 60 and 60.0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TICKET_SECONDS:
        raise InvalidRequest(f"`seconds` must be a whole number from 1 to {MAX_TICKET_SECONDS}")
    return value
