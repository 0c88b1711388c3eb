"""The keys tokens are verified with: shared secrets, or the public keys of a JWKS endpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm

from bridge.clock import Clock
from bridge.sources.jwks import REFETCH_SECONDS, Fetch, JwksCache

REFRESH_SECONDS = 600.0
SHARED_KEY_ALGORITHM = "HS256"
PUBLIC_KEY_ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})

logger = logging.getLogger(__name__)

_UNUSABLE = (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key with the one algorithm it may be used with.

    Otherwise anyone could sign tokens with the published key as a shared secret (algorithm confusion).

    Args:
        key: As PyJWT takes it; left out of `repr`.
    """

    algorithm: str
    key: Any

    def __repr__(self) -> str:
        return f"SigningKey({self.algorithm})"


class KeySource(Protocol):
    """Where the keys come from that tokens are verified with."""

    async def candidates(self, kid: str | None) -> Sequence[SigningKey]:
        """The keys that may have signed a token whose header names the key id `kid`."""


class SharedSecrets:
    """Secrets shared with the issuer of tokens: one, or two during a rotation."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._keys = [SigningKey(SHARED_KEY_ALGORITHM, secret) for secret in secrets]

    async def candidates(self, kid: str | None) -> Sequence[SigningKey]:
        """All secrets: they have no key ids."""
        del kid
        return self._keys


@dataclass(frozen=True, slots=True)
class _PublishedKey:
    kid: str | None
    key: SigningKey


class SigningKeySet:
    """The keys a JWKS endpoint publishes; the last ones stay valid while it cannot be reached."""

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._clock = clock
        self._cache = JwksCache(fetch, read_token_key, clock, purpose="tokens")

    async def run(self) -> None:
        """Refresh the keys until cancelled, so that requests do not wait for the endpoint."""
        while True:
            try:
                await self._cache.refresh()
            except Exception:
                # No response of the endpoint may stop the bridge; the last keys stay valid.
                logger.exception("unhandled exception in signing keys")
            await self._clock.sleep(REFRESH_SECONDS if self._cache.keys else REFETCH_SECONDS)

    async def candidates(self, kid: str | None) -> list[SigningKey]:
        """The keys with that id; all of them where the token names none.

        An unknown id may be that of a new key: the keys are fetched again, at most once per minute.
        """
        if not (keys := self._cached(kid)):
            await self._cache.refresh()
            keys = self._cached(kid)
        return keys

    def _cached(self, kid: str | None) -> list[SigningKey]:
        return [published.key for published in self._cache.keys if kid is None or published.kid == kid]


def read_token_key(entry: dict[str, Any]) -> _PublishedKey | None:
    """One key of a JWKS document; None unless tokens may be signed with it."""
    # a published symmetric key is not secret: it would verify anyone's tokens
    if entry.get("use", "sig") != "sig" or entry.get("kty") == "oct":
        return None
    public = {name: value for name, value in entry.items() if name != "d"}  # never hold a private key
    try:
        key = jwt.PyJWK(public)
    except _UNUSABLE:
        return None
    if key.algorithm_name not in PUBLIC_KEY_ALGORITHMS:
        return None
    kid = entry.get("kid")
    return _PublishedKey(kid if isinstance(kid, str) else None, SigningKey(key.algorithm_name, key.key))
