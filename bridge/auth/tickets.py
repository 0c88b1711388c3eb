"""Tickets: short-lived, read-only credentials in a URL, for a few tasks, tags or groups.

Rule 1: a ticket opens nothing that its caller could not read when it is used: it names what it is for, and
        carries what the caller is restricted to. A task that loses its tag is closed to both.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bridge.auth.caller import Caller, TokenScope
from bridge.auth.grants import EVERYTHING, Grant, read_grant, read_groups, read_tags
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
_RESTRICTION = "restriction"
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

    def mint(
        self,
        caller: Caller,
        keys: Sequence[TaskKey],
        seconds: int,
        *,
        tags: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> Ticket:
        """Issue a ticket for some of the caller's tasks; it expires no later than the caller's credential.

        Args:
            tags: Also for all that have one of them and that the caller may read, now or later.
            groups: Likewise.

        Raises:
            Forbidden: The caller may not read all of the tasks.
            InvalidRequest: They do not fit into a URL, or an id would read as a pattern.
        """
        caller.authorize(TokenScope.READ)
        claimed = all(caller.covers(key) for key in keys)
        if not claimed and not caller.rights.by_names:
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
        if tags:
            claims["tags"] = list(tags)
        if groups:
            claims["groups"] = list(groups)
        if caller.tasks is not None and (tags or groups or not claimed):
            # what a claim names stays covered until the token expires; what a tag opens may lose it
            claims[_RESTRICTION] = _restriction(caller.tasks, None if tags or groups else keys)
        if caller.account != OWN_ACCOUNT:
            claims["account"] = caller.account
        if caller.token_id is not None:
            claims[_PARENT] = caller.token_id
        text = mint(self._keys[0].key, claims)
        if len(text) > MAX_CREDENTIAL:
            raise InvalidRequest("too many tasks and names for one ticket; request several")
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
        grant = read_grant(claims.get("tasks"), read_tags(claims.get("tags")))
        if grant is None or grant.upstreams:
            raise Unauthenticated("a ticket must name its tasks individually")
        grant = replace(grant, groups=frozenset(read_groups(claims.get("groups"))))
        return Caller(
            name=str(claims.get("sub")),
            scopes=frozenset({TokenScope.READ}),
            tasks=grant,
            expires_at=expires_at,
            account=str(claims.get("account", OWN_ACCOUNT)),
            token_id=token_id,
            restriction=_read_restriction(claims.get(_RESTRICTION)),
            follows_all=False,
        )


def _restriction(grant: Grant, keys: Sequence[TaskKey] | None) -> dict[str, list[str]]:
    """What a caller is restricted to, as a claim.

    Args:
        keys: The only tasks of the ticket; None for any.
    """
    refs = grant.refs if keys is None else grant.refs & {key.ref for key in keys}
    patterns = [f"{upstream}/{EVERYTHING}" for upstream in sorted(grant.upstreams)]
    return {"tasks": [*sorted(refs), *patterns], "tags": sorted(grant.tags)}


def _read_restriction(claim: object) -> Grant | None:
    """What the caller of a ticket was restricted to; None for nothing.

    Raises:
        Unauthenticated: The claim is malformed.
    """
    if claim is None:
        return None
    if not isinstance(claim, dict):
        raise Unauthenticated(f"the `{_RESTRICTION}` claim of the ticket must be an object")
    return read_grant(claim.get("tasks"), read_tags(claim.get("tags")))
