"""Authentication: every route resolves its caller through one `Authenticator` before it does anything else.

`auth = "none"` is `NoAuth`, `"token"` is `TokenAuth`, `"upstream-key"` is `provider_keys.ProviderKeyAuth`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from starlette.requests import HTTPConnection

from bridge.auth.caller import ANONYMOUS, NOT_COVERED_SENTENCE, Caller, TokenScope
from bridge.auth.origins import Origins
from bridge.auth.tickets import Tickets
from bridge.auth.tokens import Tokens
from bridge.clock import Clock
from bridge.core.details import TaskDetails
from bridge.core.task import TaskKey
from bridge.errors import BridgeError, Forbidden, Unauthenticated
from bridge.telemetry.request_context import name_caller

COOKIE = "bridge_token"
TICKET = "ticket"

_BEARER = "bearer"
# The word before the key at fal, and at others: their libraries send it before every key.
_KEY_WORDS = frozenset({"key", "token"})
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_SAFE_METHODS = frozenset({"GET", "HEAD"})


class KnownDetails(Protocol):
    """Knows by what names tasks are found; the journal does."""

    async def details_of(self, keys: Sequence[TaskKey]) -> list[TaskDetails]:
        """What each task was submitted or registered with; `NO_DETAILS` of unknown ones.

        Raises:
            JournalError: It cannot be read.
        """


class Authenticator(ABC):
    """Identifies the caller of a request and checks which tasks it may use.

    A new auth mode implements `authenticate`, and overrides `verify_ownership` where the credential alone
    does not decide which tasks the caller may read.

    Args:
        details: What tasks are known by; None where no credential names tags or groups.
    """

    def __init__(self, clock: Clock, details: KnownDetails | None = None) -> None:
        self._clock = clock
        self._details = details

    @abstractmethod
    async def authenticate(self, connection: HTTPConnection, *, ticket: bool = False) -> Caller:
        """The caller of a request.

        Args:
            ticket: Whether the route accepts `?ticket=`: streams do, as their clients cannot set headers.

        Raises:
            Unauthenticated: No credential was sent, or it is not valid.
            Forbidden: A page of another origin made a request that carries the caller's cookie.
            LimitExceeded: The client's address sends too many unverified keys.
        """

    async def verify_ownership(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, BridgeError]:
        """The tasks that are not shown to their account, each with the reason; none by default.

        Raises:
            Unauthenticated: The provider rejects the account's key.
        """
        del keys
        return {}

    def is_shown(self, key: TaskKey) -> bool:
        """Whether the account of a task may be shown it now, without a request to the provider."""
        del key
        return True

    def retain_key(self, caller: Caller, seconds: float) -> None:  # noqa: B027 - most modes hold no keys
        """Keep what the caller's tickets need for at least `seconds`; nothing by default."""

    async def covered(self, caller: Caller, keys: Sequence[TaskKey]) -> frozenset[TaskKey]:
        """Those of the tasks that the credential covers, by their ref or by what they are known by now.

        Reads the journal only for callers with tags, for what the claims alone do not cover: also for tasks
        that do not exist.

        Raises:
            JournalError: The journal cannot be read.
        """
        rights = caller.rights
        covered = frozenset(key for key in keys if rights.shows(key))
        if len(covered) == len(keys) or self._details is None or not rights.by_names:
            return covered
        others = [key for key in dict.fromkeys(keys) if key not in covered]
        known = zip(others, await self._details.details_of(others), strict=True)
        return covered | {key for key, details in known if rights.shows(key, details)}

    async def covers(self, caller: Caller, key: TaskKey) -> bool:
        """Whether the credential covers one task, likewise.

        Raises:
            JournalError: The journal cannot be read.
        """
        return caller.covers(key) or bool(await self.covered(caller, [key]))

    async def check(self, caller: Caller, scope: TokenScope, keys: Sequence[TaskKey]) -> None:
        """Check the scope and that every task is covered. Asks no provider: `verify` does, after it.

        Raises:
            Forbidden: The credential does not allow it.
            JournalError: The journal cannot be read.
        """
        caller.authorize(scope)
        covered = await self.covered(caller, keys)
        if not all(key in covered for key in keys):
            raise Forbidden(NOT_COVERED_SENTENCE)

    async def verify(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, BridgeError]:
        """Check that the provider shows at least one of the tasks to their account.

        Returns:
            The tasks it does not show, each with the reason.

        Raises:
            Unauthenticated: The provider rejects the caller's key.
            BridgeError: None of the tasks is visible; the error of the first.
        """
        unverified = await self.verify_ownership(keys) if keys else {}
        if unverified and len(unverified) == len(keys):
            raise unverified[keys[0]]
        return unverified

    async def authorize(
        self, caller: Caller, scope: TokenScope, keys: Sequence[TaskKey]
    ) -> Mapping[TaskKey, BridgeError]:
        """Check the scope and the tasks; at least one task must be visible to the caller.

        Returns:
            The tasks the provider does not show to the caller, each with the reason.

        Raises:
            Forbidden: The credential does not allow it.
            Unauthenticated: The provider rejects the caller's key.
            JournalError: The journal cannot be read.
            BridgeError: None of the tasks is visible; the error of the first.
        """
        await self.check(caller, scope, keys)
        return await self.verify(keys)

    async def unverified(
        self, caller: Caller, scope: TokenScope, keys: Sequence[TaskKey]
    ) -> Mapping[TaskKey, BridgeError]:
        """As `authorize`, for connections that stay open even if none of the tasks is visible.

        Raises:
            Forbidden: The credential does not allow it.
            Unauthenticated: The provider rejects the caller's key.
            JournalError: The journal cannot be read.
        """
        await self.check(caller, scope, keys)
        return await self.verify_ownership(keys) if keys else {}

    async def denied(
        self, caller: Caller, scope: TokenScope, keys: Sequence[TaskKey]
    ) -> Mapping[TaskKey, BridgeError]:
        """The tasks the caller may not use, each with the reason; the others may be used.

        Raises:
            Forbidden: The caller lacks the scope.
            Unauthenticated: The provider rejects the caller's key.
            JournalError: The journal cannot be read.
        """
        caller.authorize(scope)
        usable = await self.covered(caller, keys)
        denied: dict[TaskKey, BridgeError] = {
            key: Forbidden("the credential does not cover this task") for key in keys if key not in usable
        }
        covered = [key for key in keys if key in usable]
        return denied | dict(await self.verify_ownership(covered) if covered else {})

    def ends_at(self, caller: Caller) -> float | None:
        """Monotonic seconds when the caller's streams must end; None for never."""
        if caller.expires_at is None:
            return None
        return self._clock.monotonic() + caller.expires_at - self._clock.time()

    def cap_wait(self, caller: Caller, seconds: float) -> float:
        """`seconds`, or less if the credential expires before."""
        ends_at = self.ends_at(caller)
        return seconds if ends_at is None else max(min(seconds, ends_at - self._clock.monotonic()), 0.0)


class NoAuth(Authenticator):
    """`auth = "none"`: every request is allowed everything."""

    async def authenticate(self, connection: HTTPConnection, *, ticket: bool = False) -> Caller:
        """Always `ANONYMOUS`."""
        del connection, ticket
        return ANONYMOUS


class CredentialAuthenticator(Authenticator):
    """Finds the credential of a request: a header, else `?ticket=`, else the cookie.

    Args:
        tickets: None where the bridge issues no tickets.
    """

    credential_name: str

    def __init__(
        self, origins: Origins, clock: Clock, tickets: Tickets | None, details: KnownDetails | None = None
    ) -> None:
        super().__init__(clock, details)
        self._origins = origins
        self._tickets = tickets

    @abstractmethod
    def read_header(self, connection: HTTPConnection) -> str | None:
        """The credential in the headers; None where there is none.

        Raises:
            Unauthenticated: There are several.
        """

    @abstractmethod
    async def identify(self, credential: str) -> Caller:
        """The caller a credential belongs to.

        Raises:
            Unauthenticated: The credential is not valid.
        """

    async def authenticate(self, connection: HTTPConnection, *, ticket: bool = False) -> Caller:
        """See `Authenticator.authenticate`."""
        credential = self.read_header(connection)
        if credential is None and ticket and TICKET in connection.query_params:
            if self._tickets is None:
                raise Unauthenticated("this bridge issues no tickets")
            caller = self._tickets.caller(connection.query_params[TICKET])
            name_caller(caller.name, caller.token_id)
            return caller
        if credential is None:
            credential = connection.cookies.get(COOKIE)
            if not credential:
                raise Unauthenticated(f"send {self.credential_name} as `Authorization: Bearer`")
            # CSRF: a browser adds the cookie to requests of any page. A WebSocket counts as unsafe, as
            # neither CORS nor the same-origin policy stops another page from reading it.
            unsafe = (
                connection.scope["type"] == "websocket" or connection.scope["method"] not in _SAFE_METHODS
            )
            if unsafe and not self._origins.passes_csrf_check(connection.headers):
                raise Forbidden(
                    "requests with a cookie are accepted only from the bridge's own host and allowed origins"
                )
        caller = await self.identify(credential)
        name_caller(caller.name, caller.token_id)
        self.admit(credential, connection)
        return caller

    def admit(self, credential: str, connection: HTTPConnection) -> None:
        """Count a well-formed credential against the limits; unlimited by default.

        Raises:
            LimitExceeded: The client's address sends too many of them.
        """


class TokenAuth(CredentialAuthenticator):
    """`auth = "token"`: callers send a signed token (JWT)."""

    credential_name = "a token"

    def __init__(
        self,
        origins: Origins,
        clock: Clock,
        tokens: Tokens,
        tickets: Tickets | None = None,
        details: KnownDetails | None = None,
    ) -> None:
        super().__init__(origins, clock, tickets, details)
        self._tokens = tokens

    def read_header(self, connection: HTTPConnection) -> str | None:
        """The bearer token, also behind a provider's own word; other schemes may be meant for a proxy.

        A provider's key behind that word has not the form of a token, and is ignored.
        """
        tokens = []
        for value in connection.headers.getlist("authorization"):
            scheme, _, text = value.partition(" ")
            word, text = scheme.lower(), text.strip()
            if word == _BEARER or (word in _KEY_WORDS and _JWT.fullmatch(text)):
                tokens.append(text)
        # a proxy that appends its own header must not decide which of two tokens counts
        if len(tokens) > 1:
            raise Unauthenticated("more than one bearer token was sent")
        return tokens[0] if tokens else None

    async def identify(self, credential: str) -> Caller:
        """The caller named by the token's claims."""
        return await self._tokens.caller(credential)
