"""Tickets: short-lived, read-only credentials for a few tasks, for clients that cannot set headers."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from bridge.auth.caller import Caller, TokenScope
from bridge.auth.grants import EVERYTHING, read_grant
from bridge.auth.signing_keys import SHARED_KEY_ALGORITHM, SigningKey
from bridge.auth.tokens import MAX_CREDENTIAL, check_revoked, check_shape, mint, valid_until, verified_claims
from bridge.clock import Clock
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.errors import InvalidRequest, Unauthenticated
from bridge.sources.revoked_tokens import RevokedTokens

MAX_TICKET_SECONDS = 900

_ISSUER = "bridge"
_AUDIENCE = "bridge-ticket"
_PARENT = "parent_jti"
_PURPOSE = b"task-event-bridge ticket 1"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A signed ticket.

    Args:
        text: The value of `?ticket=`.
        expires_at: Unix seconds.
    """

    text: str
    expires_at: float


class Tickets:
    """Issues and verifies tickets.

    The signing keys are derived from the operator's secrets, so that a ticket is never valid as a token, nor
    a token as a ticket. New tickets are signed with the first; each is valid while its secret is configured.

    Args:
        revoked: The tokens that were revoked, and with them the tickets issued for them.
    """

    def __init__(self, secrets: Sequence[bytes], clock: Clock, revoked: RevokedTokens | None = None) -> None:
        self._revoked = revoked
        self._keys = [
            SigningKey(SHARED_KEY_ALGORITHM, hmac.digest(secret, _PURPOSE, "sha256")) for secret in secrets
        ]
        self._clock = clock

    def mint(self, caller: Caller, keys: Sequence[TaskKey], seconds: int) -> Ticket:
        """Issue a ticket for some of the caller's tasks; it expires no later than the caller's credential.

        Raises:
            Forbidden: The caller may not read all of them.
            InvalidRequest: They do not fit into a URL, or an id would read as a pattern.
        """
        caller.authorize(TokenScope.READ, keys)
        if any(key.task_id == EVERYTHING for key in keys):
            raise InvalidRequest("a ticket cannot cover a task whose id is `*`")
        expires_at = round(min(self._clock.time() + seconds, caller.expires_at or float("inf")), 3)
        claims: dict[str, object] = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "sub": caller.name,
            "exp": expires_at,
            "tasks": [key.ref for key in keys],
        }
        if caller.account != OWN_ACCOUNT:
            claims["account"] = caller.account
        if caller.token_id is not None:
            claims[_PARENT] = caller.token_id
        text = mint(self._keys[0].key, claims)
        if len(text) > MAX_CREDENTIAL:
            raise InvalidRequest("too many tasks for one ticket; request several")
        return Ticket(text, expires_at)

    def caller(self, ticket: str) -> Caller:
        """The caller a ticket was issued to, restricted to reading its tasks.

        Raises:
            Unauthenticated: The ticket is not valid.
        """
        check_shape(ticket)
        claims = verified_claims(ticket, self._keys, issuer=_ISSUER, audience=_AUDIENCE)
        expires_at = valid_until(claims, self._clock.time(), skew=0.0)  # dated by this clock: no skew
        token_id = check_revoked(claims.get(_PARENT), self._revoked)
        grant = read_grant(claims.get("tasks"))
        if grant is None or grant.upstreams:
            raise Unauthenticated("a ticket must name its tasks individually")
        return Caller(
            name=str(claims.get("sub")),
            scopes=frozenset({TokenScope.READ}),
            tasks=grant,
            expires_at=expires_at,
            account=str(claims.get("account", OWN_ACCOUNT)),
            token_id=token_id,
        )
