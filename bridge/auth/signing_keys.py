"""The keys a key server publishes (JWKS) to prove tokens with: kept, renewed in the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from bridge.clock import Clock
from bridge.sources.jwks import REFETCH_SECONDS, Fetch, JwksCache

RENEW_SECONDS = 600.0
ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})

_UNUSABLE = (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key with the one algorithm it is used for.

    Args:
        key: As the JWT library takes it; left out of what is printed.
    """

    algorithm: str
    key: Any

    def __repr__(self) -> str:
        return f"SigningKey({self.algorithm})"


@dataclass(frozen=True, slots=True)
class _NamedKey:
    kid: str | None
    key: SigningKey


class SigningKeySet:
    """What the key server published last, also while it cannot be reached."""

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._clock = clock
        self._published = JwksCache(fetch, read_token_key, clock, purpose="tokens")

    async def run(self) -> None:
        """Renew the keys until cancelled: requests need not wait for the key server."""
        while True:
            await self._published.refresh()
            have = bool(self._published.keys)
            await self._clock.sleep(RENEW_SECONDS if have else REFETCH_SECONDS)

    async def named(self, kid: str | None) -> list[SigningKey]:
        """The keys of that name; of any name where a token names none.

        An unknown name may be a new key: then they are fetched again, at most once a minute.
        """
        found = self._known(kid)
        if not found:
            await self._published.refresh()
            found = self._known(kid)
        return found

    def _known(self, kid: str | None) -> list[SigningKey]:
        return [one.key for one in self._published.keys if kid is None or one.kid == kid]


def read_token_key(one: dict[str, Any]) -> _NamedKey | None:
    """A published key that tokens may be signed with."""
    if one.get("use", "sig") != "sig" or one.get("kty") == "oct":
        return None
    public = {name: value for name, value in one.items() if name != "d"}  # a private key is not for us
    try:
        key = jwt.PyJWK(public)
    except _UNUSABLE:
        return None
    if key.algorithm_name not in ALGORITHMS:
        return None
    kid = one.get("kid")
    return _NamedKey(kid if isinstance(kid, str) else None, SigningKey(key.algorithm_name, key.key))
