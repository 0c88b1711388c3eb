"""The credential of a provider as request headers, minted and renewed where it expires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from bridge.clock import Clock
from bridge.core.secrets import SecretMask
from bridge.dialects.credentials import HOOKS, Mint, check_key
from bridge.dialects.dialect import Dialect

RENEWED_BEFORE_SECONDS = 300.0


class Credential(Protocol):
    """The credential of one account."""

    def headers(self) -> Mapping[str, str]:
        """The headers of a request sent now."""

    def hide(self, body: bytes) -> bytes:
        """Mask the credential, in any encoding: some providers quote a key they reject."""


class FixedCredential:
    """An API key that does not change."""

    def __init__(self, headers: Mapping[str, str], secret: str = "") -> None:
        self._headers = headers
        self._mask = SecretMask([secret])

    def headers(self) -> Mapping[str, str]:
        return self._headers

    def hide(self, body: bytes) -> bytes:
        return self._mask(body)


class MintedCredential:
    """A short-lived token signed with the API key, minted again five minutes before it expires.

    The key of a relay is its own token and does not expire.
    """

    def __init__(self, dialect: Dialect, mint: Mint, api_key: str, clock: Clock) -> None:
        self._dialect = dialect
        self._mint = mint
        self._api_key = api_key
        self._clock = clock
        self._headers: Mapping[str, str] = {}
        self._token = ""
        self._mask = SecretMask([api_key])
        self._valid_from = self._valid_until = 0.0

    def headers(self) -> Mapping[str, str]:
        now = self._clock.time()
        # The lower bound: after the clock was set back, the token would be dated in the future and be
        # rejected.
        if not self._valid_from <= now < self._valid_until:
            minted = self._mint(self._api_key, now)
            self._headers = self._dialect.auth_headers(minted.value)
            # The previous token may be quoted in a response that is still on its way.
            self._mask = SecretMask([self._api_key, self._token, minted.value])
            self._token = minted.value
            self._valid_from, self._valid_until = now, minted.expires_at - RENEWED_BEFORE_SECONDS
        return self._headers

    def hide(self, body: bytes) -> bytes:
        # The key itself, and the tokens minted from it.
        return self._mask(body)


class RotatingCredential:
    """A credential that is replaced while calls are made."""

    def __init__(self, credential: Credential) -> None:
        self._current = self._previous = credential

    def replace(self, credential: Credential) -> None:
        """Use another credential from now on."""
        self._previous, self._current = self._current, credential

    def headers(self) -> Mapping[str, str]:
        return self._current.headers()

    def hide(self, body: bytes) -> bytes:
        body = self._current.hide(body)
        # A response to a call with the previous key may still be on its way.
        return body if self._previous is self._current else self._previous.hide(body)


def credential_of(dialect: Dialect, api_key: str, clock: Clock) -> Credential:
    """The credential in the form this provider expects; no headers without a key.

    Raises:
        InvalidRequest: The key does not have the form of this provider's keys.
    """
    if not api_key:
        return FixedCredential({})
    if dialect.auth_hook is None:
        return FixedCredential(dialect.auth_headers(api_key), api_key)
    check_key(dialect, api_key)
    return MintedCredential(dialect, HOOKS[dialect.auth_hook], api_key, clock)
