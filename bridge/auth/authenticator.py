"""Who calls, and what they may do. Every route asks here before it does anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from starlette.requests import HTTPConnection

from bridge.auth.grants import Grant
from bridge.auth.origins import Origins
from bridge.clock import Clock
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.errors import BridgeError, CredentialRefused, Forbidden, Unauthenticated
from bridge.sources.accounts import REFUSED_SENTENCE
from bridge.sources.upstream import VALID_KEY_STATUSES
from bridge.telemetry.request_context import name_caller

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
        account: Whose key looks at the caller's tasks; `-` for the bridge's own.
    """

    name: str
    scopes: frozenset[TokenScope]
    tasks: Grant | None
    expires_at: float | None
    account: str = OWN_ACCOUNT

    def covers(self, key: TaskKey) -> bool:
        """Whether the task is one of the caller's."""
        return key.account == self.account and (self.tasks is None or self.tasks.covers(key))

    def covers_all_of(self, upstream: str) -> bool:
        """Whether every task of the upstream is, also one that comes to be now."""
        return self.tasks is None or upstream in self.tasks.upstreams

    def authorize(self, scope: TokenScope, keys: Sequence[TaskKey] = ()) -> None:
        """Go on, if the caller may do this with all of these tasks.

        Raises:
            Forbidden: The credential does not allow it.
        """
        if scope not in self.scopes:
            raise Forbidden(f"this needs a credential with the scope {scope.value}")
        if not all(self.covers(key) for key in keys):
            raise Forbidden("the credential does not cover every task that was asked for")

    def authorize_upstream(self, scope: TokenScope, upstream: str) -> None:
        """Go on, if the caller may do this with every task of the upstream.

        Raises:
            Forbidden: The credential does not allow it.
        """
        self.authorize(scope)
        if not self.covers_all_of(upstream):
            raise Forbidden("this needs a credential for all tasks of the upstream")

    def authorize_search(self, upstream: str) -> None:
        """Go on, if a search among the tasks of the upstream can find one the caller may read.

        Raises:
            Forbidden: The credential does not allow it.
        """
        self.authorize(TokenScope.READ)
        if self.tasks is not None and not self.tasks.touches(upstream):
            raise Forbidden("the credential covers no task of the upstream")


ANONYMOUS = Caller(name="anonymous", scopes=frozenset(TokenScope), tasks=None, expires_at=None)


class Tokens(Protocol):
    """Who a token speaks for."""

    async def caller(self, token: str) -> Caller:
        """The caller; raises Unauthenticated."""


class Tickets(Protocol):
    """Who a ticket speaks for."""

    def caller(self, ticket: str) -> Caller:
        """The caller; raises Unauthenticated."""


class Keys(Tokens, Protocol):
    """Who a key of a provider speaks for."""

    def read(self, connection: HTTPConnection) -> str | None:
        """The key a request brings; raises Unauthenticated."""

    def admit(self, key: str, connection: HTTPConnection) -> None:
        """Let a request with it in; raises LimitExceeded."""

    def hold(self, account: str, seconds: float) -> None:
        """Keep the key of an account for so long."""


class Proofs(Protocol):
    """Whether the provider shows a task to an account."""

    async def unverified(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, BridgeError]:
        """Those of the tasks that may not be shown, and why; raises Unauthenticated."""


class Authenticator:
    """Finds the credential of a connection and asks what it is worth.

    Args:
        tokens: None where nobody is asked who they are.
        tickets: None where no tickets are given out.
        keys: In place of `tokens`, where callers bring keys of the providers.
        proofs: Asks the provider about each task, where callers bring keys.
    """

    def __init__(
        self,
        origins: Origins,
        clock: Clock,
        tokens: Tokens | None = None,
        tickets: Tickets | None = None,
        *,
        keys: Keys | None = None,
        ownership: Proofs | None = None,
    ) -> None:
        self._origins = origins
        self._clock = clock
        self._tokens = tokens or keys
        self._tickets = tickets
        self._keys = keys
        self._proofs = ownership

    async def authenticate(self, connection: HTTPConnection, *, ticket: bool = False) -> Caller:
        """The caller of a request.

        Args:
            ticket: Whether `?ticket=` is a credential here: on streams, whose clients cannot set headers.

        Raises:
            Unauthenticated: There is no credential, or it is worth nothing.
            Forbidden: A page of a stranger uses somebody's cookie.
        """
        if self._tokens is None:
            return ANONYMOUS
        sent = _bearer(connection) if self._keys is None else self._keys.read(connection)
        if sent is not None:
            return await self._known(self._tokens, sent, connection)
        given = connection.query_params.get(TICKET) if ticket else None
        if given is not None:
            return self._by_ticket(given)
        cookie = connection.cookies.get(COOKIE)
        if not cookie:
            what = "token" if self._keys is None else "key of the provider"
            raise Unauthenticated(f"send a {what} as `Authorization: Bearer`")
        if _changes_something(connection) and not self._origins.own(connection.headers):
            raise Forbidden(
                "with a cookie, only pages of the bridge's own host and allowed origins may do this"
            )
        return await self._known(self._tokens, cookie, connection)

    async def authorize(
        self, caller: Caller, scope: TokenScope, keys: Sequence[TaskKey]
    ) -> Mapping[TaskKey, BridgeError]:
        """Go on, if the caller may do this with these tasks, and the provider shows it one of them.

        Returns:
            Those of the tasks the provider does not show to the caller, and why.

        Raises:
            Forbidden: The credential does not allow it.
            Unauthenticated: The provider does not take the caller's key.
            BridgeError: The provider shows none of the tasks, and why not the first.
        """
        unverified = await self.unverified(caller, scope, keys)
        if unverified and len(unverified) == len(keys):
            raise unverified[keys[0]]
        return unverified

    async def unverified(
        self, caller: Caller, scope: TokenScope, keys: Sequence[TaskKey]
    ) -> Mapping[TaskKey, BridgeError]:
        """The same where a connection stays, whatever the provider does not show.

        Raises:
            Forbidden: The credential does not allow it.
            Unauthenticated: The provider does not take the caller's key.
        """
        caller.authorize(scope, keys)
        if self._proofs is None or not keys:
            return {}
        return await self._proofs.unverified(keys)

    async def denied(
        self, caller: Caller, scope: TokenScope, keys: Sequence[TaskKey]
    ) -> Mapping[TaskKey, BridgeError]:
        """Those of the tasks the caller may not do this with, each with the reason.

        Raises:
            Forbidden: It may do this with no task at all.
            Unauthenticated: The provider does not take the caller's key.
        """
        refused: dict[TaskKey, BridgeError] = {
            key: Forbidden("the credential does not cover this task")
            for key in keys
            if not caller.covers(key)
        }
        covered = [key for key in keys if key not in refused]
        return refused | dict(await self.unverified(caller, scope, covered))

    def hold(self, caller: Caller, seconds: float) -> None:
        """Something that speaks for the caller was given out, and is good for so long."""
        if self._keys is not None:
            self._keys.hold(caller.account, seconds)

    def ends_at(self, caller: Caller) -> float | None:
        """Monotonic seconds when a stream of this caller must end; None for never."""
        if caller.expires_at is None:
            return None
        return self._clock.monotonic() + caller.expires_at - self._clock.time()

    async def _known(self, tokens: Tokens, credential: str, connection: HTTPConnection) -> Caller:
        caller = await tokens.caller(credential)
        name_caller(caller.name)
        if self._keys is not None:
            self._keys.admit(credential, connection)
        return caller

    def lasts(self, caller: Caller, seconds: float) -> float:
        """Of so many seconds from now those the credential is good for."""
        ends_at = self.ends_at(caller)
        return seconds if ends_at is None else max(min(seconds, ends_at - self._clock.monotonic()), 0.0)

    def _by_ticket(self, ticket: str) -> Caller:
        if self._tickets is None:
            raise Unauthenticated("this bridge gives out no tickets")
        caller = self._tickets.caller(ticket)
        name_caller(caller.name)
        return caller


@contextmanager
def map_credential_errors(caller: Caller) -> Iterator[None]:
    """Where the provider refuses the caller's own key, the caller is told so, and not that we are refused.

    Raises:
        Unauthenticated: It did.
    """
    try:
        yield
    except CredentialRefused as error:
        if caller.account == OWN_ACCOUNT or error.provider_status in VALID_KEY_STATUSES:
            raise
        raise Unauthenticated(REFUSED_SENTENCE) from None


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
