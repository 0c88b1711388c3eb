"""Who calls, and what they may do. Every route asks here before it does anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from starlette.requests import HTTPConnection

from bridge.clock import Clock
from bridge.core.task import TaskKey
from bridge.errors import Forbidden, Unauthenticated
from bridge.web.grants import Grant
from bridge.web.origins import Origins

COOKIE = "bridge_token"
TICKET = "ticket"

_BEARER = "bearer"
_READING = frozenset({"GET", "HEAD"})


class TokenScope(StrEnum):
    """What a credential allows."""

    READ = "read"
    SUBMIT = "submit"
    CANCEL = "cancel"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody whose credential was checked.

    Args:
        name: Tells callers apart, for counting; never a credential.
        tasks: Which tasks; None for all.
        expires_at: Unix seconds when the credential is worth nothing any more; None for never.
    """

    name: str
    scopes: frozenset[TokenScope]
    tasks: Grant | None
    expires_at: float | None

    def covers(self, key: TaskKey) -> bool:
        """Whether the task is one of the caller's."""
        return self.tasks is None or self.tasks.covers(key)

    def covers_all_of(self, upstream: str) -> bool:
        """Whether every task of the upstream is, also one that comes to be now."""
        return self.tasks is None or upstream in self.tasks.upstreams

    def permit(self, scope: TokenScope, keys: Sequence[TaskKey] = ()) -> None:
        """Go on, if the caller may do this with all of these tasks.

        Raises:
            Forbidden: The credential does not allow it.
        """
        if scope not in self.scopes:
            raise Forbidden(f"this needs a credential with the scope {scope.value}")
        if not all(self.covers(key) for key in keys):
            raise Forbidden("the credential does not cover every task that was asked for")

    def permit_upstream(self, scope: TokenScope, upstream: str) -> None:
        """Go on, if the caller may do this with every task of the upstream.

        Raises:
            Forbidden: The credential does not allow it.
        """
        self.permit(scope)
        if not self.covers_all_of(upstream):
            raise Forbidden("this needs a credential for all tasks of the upstream")

    def permit_search(self, upstream: str) -> None:
        """Go on, if a search among the tasks of the upstream can find one the caller may read.

        Raises:
            Forbidden: The credential does not allow it.
        """
        self.permit(TokenScope.READ)
        if self.tasks is not None and not self.tasks.touches(upstream):
            raise Forbidden("the credential covers no task of the upstream")


ANYBODY = Caller(name="anonymous", scopes=frozenset(TokenScope), tasks=None, expires_at=None)


class Tokens(Protocol):
    """Who a token speaks for."""

    async def caller(self, token: str) -> Caller:
        """The caller; raises Unauthenticated."""


class Tickets(Protocol):
    """Who a ticket speaks for."""

    def caller(self, ticket: str) -> Caller:
        """The caller; raises Unauthenticated."""


class Callers:
    """Finds the credential of a connection and asks what it is worth.

    Args:
        tokens: None where nobody is asked who they are.
        tickets: None where no tickets are given out.
    """

    def __init__(
        self, origins: Origins, clock: Clock, tokens: Tokens | None = None, tickets: Tickets | None = None
    ) -> None:
        self._origins = origins
        self._clock = clock
        self._tokens = tokens
        self._tickets = tickets

    async def who(self, connection: HTTPConnection, *, ticket: bool = False) -> Caller:
        """The caller of a request.

        Args:
            ticket: Whether `?ticket=` is a credential here: on streams, whose clients cannot set headers.

        Raises:
            Unauthenticated: There is no credential, or it is worth nothing.
            Forbidden: A page of a stranger uses somebody's cookie.
        """
        if self._tokens is None:
            return ANYBODY
        bearer = _bearer(connection)
        if bearer is not None:
            return await self._tokens.caller(bearer)
        given = connection.query_params.get(TICKET) if ticket else None
        if given is not None:
            return self._by_ticket(given)
        cookie = connection.cookies.get(COOKIE)
        if not cookie:
            raise Unauthenticated("send a token as `Authorization: Bearer`")
        if _changes_something(connection) and not self._origins.own(connection.headers):
            raise Forbidden(
                "with a cookie, only pages of the bridge's own host and allowed origins may do this"
            )
        return await self._tokens.caller(cookie)

    def ends_at(self, caller: Caller) -> float | None:
        """Monotonic seconds when a stream of this caller must end; None for never."""
        if caller.expires_at is None:
            return None
        return self._clock.now() + caller.expires_at - self._clock.wall()

    def _by_ticket(self, ticket: str) -> Caller:
        if self._tickets is None:
            raise Unauthenticated("this bridge gives out no tickets")
        return self._tickets.caller(ticket)


def _bearer(connection: HTTPConnection) -> str | None:
    """The bearer token; another scheme may be meant for something in front of us."""
    given = []
    for value in connection.headers.getlist("authorization"):
        scheme, _, text = value.partition(" ")
        if scheme.lower() == _BEARER:
            given.append(text.strip())
    if len(given) > 1:
        raise Unauthenticated("there are two tokens, and it is not clear which one counts")
    return given[0] if given else None


def _changes_something(connection: HTTPConnection) -> bool:
    """By its method. A WebSocket counts: nothing else keeps a stranger's page from reading it."""
    return connection.scope["type"] == "websocket" or connection.scope["method"] not in _READING
