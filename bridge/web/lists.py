"""`GET /v1/tasks`: the tasks a caller may read, newest first, in pages."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.caller import ANONYMOUS, TokenScope
from bridge.core.cursor import Cursor
from bridge.core.details import check_group, check_tag
from bridge.core.suggestion import did_you_mean
from bridge.core.task import Status
from bridge.errors import Forbidden, InvalidRequest
from bridge.web import params
from bridge.web.services import Services
from bridge.web.task_pages import TaskFilter, TaskPages
from bridge.web.tasks import StateDocuments, document_bytes
from bridge.wire.document import PLAIN
from bridge.wire.text import dumps

MAX_LIMIT = 200
DEFAULT_LIMIT = 50
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_PARAMETERS = ("upstream", "status", "tag", "group", "limit", "before")
_OPEN = frozenset(status for status in Status if not status.final)
_WORDS = {status.value: frozenset({status}) for status in Status} | {
    "open": _OPEN,
    "final": frozenset(Status) - _OPEN,
}
_WRITTEN_PER_TURN = 50  # about 1 ms of the event loop


class ListRoutes:
    """Listing tasks."""

    def __init__(self, services: Services) -> None:
        self._journal = services.journal
        self._pool = services.pool
        self._limits = services.limits
        self._origins = services.origins
        self._authenticator = services.authenticator
        self._documents = StateDocuments(services)
        self._pages = TaskPages(services.journal)

    async def tasks(self, request: Request) -> Response:
        """One page of states, and where the next one begins."""
        caller = await self._authenticator.authenticate(request)
        # Where no credential is needed CORS may let pages read tasks they can name; a list names them all.
        foreign = "origin" in request.headers and not self._origins.passes_csrf_check(request.headers)
        if caller is ANONYMOUS and foreign:
            raise Forbidden("pages of this origin may not list tasks")
        caller.authorize(TokenScope.READ)
        query = _single(params.query(request))
        wanted = TaskFilter(
            self._upstreams(query.get("upstream")),
            _statuses(query.get("status")),
            check_tag(query["tag"]) if "tag" in query else "",
            check_group(query["group"]) if "group" in query else "",
        )
        limit, before = _limit(query.get("limit")), self._before(query.get("before"))
        page = await self._pages.page(
            caller.rights, wanted, limit=limit, before=before, shown=self._authenticator.is_shown
        )
        states = []
        for number, (event, _) in enumerate(page.tasks, start=1):
            states.append(orjson.Fragment(self._documents.write(event, PLAIN)))
            if number % _WRITTEN_PER_TURN == 0:
                await asyncio.sleep(0)
        following = str(Cursor(self._journal.epoch, page.before)) if page.before else None
        body = dumps({"tasks": states, "next": following})
        size = sum(document_bytes(event, PLAIN) for event, _ in page.tasks)
        await self._limits.admit_document(request, caller.name, max(size, len(body)))
        return Response(body, headers=HEADERS, media_type="application/json")

    def _upstreams(self, name: str | None) -> list[str]:
        if name is None:
            return list(self._pool.upstreams)
        return [self._pool.upstream(name).name]

    def _before(self, token: str | None) -> int:
        """Where a page begins.

        A forged token begins elsewhere in what the caller may read, and shows nothing else.
        """
        if token is None:
            return 0
        cursor = Cursor.parse(token)
        if cursor is None or cursor.shown or not cursor.offset:
            raise InvalidRequest("`before` must be what `next` was in an answer")
        if cursor.epoch != self._journal.epoch:
            raise InvalidRequest("`before` is of a history that has ended; begin again without it")
        return cursor.offset


def _single(query: QueryParams) -> dict[str, str]:
    """The parameters, each at most once.

    Raises:
        InvalidRequest: One is repeated or unknown: a filter with a typo would list everything.
    """
    values: dict[str, str] = {}
    for name, value in query.multi_items():
        if name not in _PARAMETERS:
            known = f"; known: {', '.join(_PARAMETERS)}"
            raise InvalidRequest(f"no such parameter: {name[:80]!r}{did_you_mean(name, _PARAMETERS, known)}")
        if name in values:
            raise InvalidRequest(f"the parameter `{name}` is repeated")
        values[name] = value
    return values


def _statuses(text: str | None) -> Collection[Status] | None:
    if text is None:
        return None
    statuses: frozenset[Status] = frozenset()
    for word in text.split(","):
        if word not in _WORDS:
            raise InvalidRequest(f"`status` must be of {', '.join(_WORDS)}, separated by commas")
        statuses |= _WORDS[word]
    return statuses


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= MAX_LIMIT):
        raise InvalidRequest(f"`limit` must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)
