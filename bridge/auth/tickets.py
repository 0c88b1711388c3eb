"""Tickets: short, read-only credentials that may stand in a URL, because they are worth little."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.auth.authenticator import Caller, TokenScope
from bridge.auth.grants import EVERYTHING, read_grant
from bridge.auth.signing_keys import SigningKey
from bridge.auth.tokens import ALGORITHM, MAX_CREDENTIAL, check_shape, claims_of, mint, valid_until
from bridge.clock import Clock
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.errors import InvalidRequest, Unauthenticated

MAX_TICKET_SECONDS = 900

_ISSUER = "bridge"
_AUDIENCE = "bridge-ticket"
_PURPOSE = b"task-event-bridge ticket 1"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket, signed.

    Args:
        text: What is sent as `?ticket=`.
        expires_at: Unix seconds.
    """

    text: str
    expires_at: float


class Tickets:
    """Signs tickets and reads them.

    The keys are made from the operator's secrets, so that no ticket passes for a token and no token for a
    ticket. One is signed with the first, and good as long as its secret is configured.
    """

    def __init__(self, secrets: Sequence[bytes], clock: Clock) -> None:
        self._keys = [SigningKey(ALGORITHM, hmac.digest(secret, _PURPOSE, "sha256")) for secret in secrets]
        self._clock = clock

    def mint(self, caller: Caller, keys: Sequence[TaskKey], seconds: int) -> Ticket:
        """A ticket of this caller for some tasks; it ends with the caller's own credential at the latest.

        Raises:
            Forbidden: The caller may not read all of them.
            InvalidRequest: There are too many for a URL, or one cannot be told from a pattern.
        """
        caller.authorize(TokenScope.READ, keys)
        if any(key.task_id == EVERYTHING for key in keys):
            raise InvalidRequest("a ticket names its tasks one by one")
        now = self._clock.time()
        ends = round(min(now + seconds, caller.expires_at or float("inf")), 3)
        refs = [key.ref for key in keys]
        claims: dict[str, object] = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": caller.name,
            "exp": ends,
            "tasks": refs,
        }
        if caller.account != OWN_ACCOUNT:
            claims["account"] = caller.account
        text = mint(self._keys[0].key, claims)
        if len(text) > MAX_CREDENTIAL:
            raise InvalidRequest("so many tasks make a ticket no URL can carry; ask for several")
        return Ticket(text, ends)

    def caller(self, ticket: str) -> Caller:
        """Who the ticket speaks for.

        Raises:
            Unauthenticated: It is worth nothing; one sentence says why.
        """
        check_shape(ticket)
        claims = claims_of(ticket, self._keys, issuer=_ISSUER, audience=_AUDIENCE)
        ends = valid_until(claims, self._clock.time(), skew=0.0)  # by the same clock that dated it
        grant = read_grant(claims.get("tasks"))
        if grant is None or grant.upstreams:
            raise Unauthenticated("a ticket names its tasks one by one")
        return Caller(
            name=str(claims.get("sub")),
            scopes=frozenset({TokenScope.READ}),
            tasks=grant,
            expires_at=ends,
            account=str(claims.get("account", OWN_ACCOUNT)),
        )
