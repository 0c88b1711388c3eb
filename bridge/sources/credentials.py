"""The credential of one provider, as headers, at the moment of a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from bridge.clock import Clock
from bridge.dialects.credentials import HOOKS, Mint, check_key
from bridge.dialects.dialect import Dialect

RENEWED_BEFORE_SECONDS = 300.0
MASK = b"***"
MIN_HIDDEN = 8  # what is shorter is a key of a test, and may be a word of any document


class Credential(Protocol):
    """What makes a call ours."""

    def headers(self) -> Mapping[str, str]:
        """The headers of a call that leaves now."""

    def hide(self, body: bytes) -> bytes:
        """An answer without it: some providers quote the key they refuse, and their words reach callers."""


class FixedCredential:
    """A credential that stays as it is."""

    def __init__(self, headers: Mapping[str, str], secret: bytes = b"") -> None:
        self._headers = headers
        self._secret = secret

    def headers(self) -> Mapping[str, str]:
        """The same every time."""
        return self._headers

    def hide(self, body: bytes) -> bytes:
        """Without the key."""
        return body.replace(self._secret, MASK) if self._secret and self._secret in body else body


class MintedCredential:
    """A credential that ends, made anew before it does."""

    def __init__(self, dialect: Dialect, mint: Mint, api_key: str, clock: Clock) -> None:
        self._dialect = dialect
        self._mint = mint
        self._api_key = api_key
        self._clock = clock
        self._headers: Mapping[str, str] = {}
        self._secrets = [_hidden(api_key)]
        self._good_from = self._good_until = 0.0

    def headers(self) -> Mapping[str, str]:
        """Headers that will be good for some minutes yet."""
        now = self._clock.time()
        # Not from before it was made either: a clock that was set back makes it a credential of the future.
        if not self._good_from <= now < self._good_until:
            minted = self._mint(self._api_key, now)
            self._headers = self._dialect.auth_headers(minted.value)
            # of those made before, the last one may still be on its way back
            self._secrets = [self._secrets[0], *self._secrets[1:][-1:], minted.value.encode()]
            self._good_from, self._good_until = now, minted.expires_at - RENEWED_BEFORE_SECONDS
        return self._headers

    def hide(self, body: bytes) -> bytes:
        """Without the key, and without what was made of it."""
        for secret in self._secrets:
            if secret and secret in body:
                body = body.replace(secret, MASK)
        return body


def credential_of(dialect: Dialect, api_key: str, clock: Clock) -> Credential:
    """The credential as this provider wants it; without a key there is none.

    Raises:
        InvalidRequest: The key is not of the form this provider's keys have.
    """
    if not api_key:
        return FixedCredential({})
    if dialect.auth_hook is None:
        return FixedCredential(dialect.auth_headers(api_key), _hidden(api_key))
    check_key(dialect, api_key)
    return MintedCredential(dialect, HOOKS[dialect.auth_hook], api_key, clock)


def _hidden(api_key: str) -> bytes:
    return api_key.encode() if len(api_key) >= MIN_HIDDEN else b""
