"""Verifies the signatures of callbacks, by the scheme in a dialect's `[callback.signature]`.

A callback whose signature cannot be checked triggers a poll like any other; one with a wrong signature does
not.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import partial

from bridge.clock import Clock
from bridge.dialects.dialect import Dialect
from bridge.dialects.signature import Scheme, Signature
from bridge.errors import InvalidRequest
from bridge.sources.jwks import Fetch, PublicKeys

_WHSEC = "whsec_"
_PLACEHOLDER = re.compile(r"\{(body|timestamp|header:([A-Za-z0-9-]+))\}")
_UNIX_TIME = re.compile(r"[0-9]{1,15}", re.ASCII)
_MILLISECONDS_FROM = 10**11
_FAL = "x-fal-webhook-"

Headers = Mapping[str, str]


class Proof(Enum):
    """Result of verifying a callback."""

    GOOD = auto()
    WRONG = auto()
    NONE = auto()  # no scheme, no key, or the provider's keys cannot be fetched


class Verifier:
    """Verifies the callbacks of one upstream.

    Args:
        key: The shared signing key; None where none is configured.
        keys: The provider's published keys, for schemes that use them.

    Raises:
        InvalidRequest: The key does not have the form the scheme requires.
    """

    def __init__(
        self, signature: Signature | None, key: str | None, clock: Clock, keys: PublicKeys | None = None
    ) -> None:
        self._signature = signature
        self._clock = clock
        self._keys = keys
        self._check: Callable[[Headers, bytes, float], bool] | None = None
        if signature is not None and key:
            self._check = _checks(signature, key)

    @property
    def published(self) -> bool:
        """Whether the provider publishes the keys it signs with."""
        return self._keys is not None

    async def proof(self, headers: Headers, body: bytes) -> Proof:
        """Verify one callback.

        Args:
            headers: With lower-case names, or case-insensitive.
        """
        if self._signature is None:
            return Proof.NONE
        if self._signature.scheme is Scheme.FAL:
            return await self._fal(self._signature, headers, body)
        if self._check is None:
            return Proof.NONE
        return Proof.GOOD if self._check(headers, body, self._clock.time()) else Proof.WRONG

    async def _fal(self, signature: Signature, headers: Headers, body: bytes) -> Proof:
        if self._keys is None:
            return Proof.NONE
        parts = [headers.get(_FAL + name) for name in ("request-id", "user-id", "timestamp")]
        try:
            digest = bytes.fromhex(headers.get(f"{_FAL}signature", ""))
        except ValueError:
            digest = b""
        present = [part for part in parts if part is not None]
        if not digest or len(present) < len(parts):
            return Proof.WRONG
        # Before the keys: a replayed callback must not make the bridge fetch them.
        if not _is_recent(present[2], self._clock.time(), signature.tolerance_seconds):
            return Proof.WRONG
        message = "\n".join([*present, hashlib.sha256(body).hexdigest()])
        signed = await self._keys.signed(digest, _octets(message))
        if signed is None:
            return Proof.NONE
        return Proof.GOOD if signed else Proof.WRONG


def make_verifier(signature: Signature | None, key: str | None, clock: Clock, fetch: Fetch) -> Verifier:
    """Create the verifier of one upstream.

    Args:
        fetch: Fetches the provider's published keys; only called for schemes that use them.

    Raises:
        InvalidRequest: The key does not have the form the scheme requires.
    """
    published = signature is not None and signature.scheme is Scheme.FAL
    return Verifier(signature, key, clock, PublicKeys(fetch, clock) if published else None)


def _checks(signature: Signature, key: str) -> Callable[[Headers, bytes, float], bool] | None:
    match signature.scheme:
        case Scheme.HEADER:
            return partial(_header, signature, _octets(key))
        case Scheme.HMAC:
            return partial(_hmac, signature, _octets(key))
        case Scheme.STANDARD_WEBHOOKS:
            return partial(_standard_webhooks, signature, webhook_key(key))
        case Scheme.FAL:
            return None


def check_signing_key(dialect: Dialect, key: str) -> None:
    """Validate a configured signing key.

    Raises:
        InvalidRequest: This provider does not sign with such a key; the message says why.
    """
    if dialect.callback_signature is None:
        raise InvalidRequest("this provider does not sign its callbacks")
    if dialect.callback_signature.scheme is Scheme.FAL:
        raise InvalidRequest("this provider publishes its keys; remove the signing key")
    _checks(dialect.callback_signature, key)


def webhook_key(key: str) -> bytes:
    """Decode a Standard Webhooks key, `whsec_` followed by base64.

    Raises:
        InvalidRequest: It does not have that form.
    """
    try:
        octets = b64decode(key.removeprefix(_WHSEC), validate=True)
    except (binascii.Error, ValueError):
        octets = b""
    if not octets:
        raise InvalidRequest("the signing key must be whsec_ followed by base64")
    return octets


def _header(signature: Signature, key: bytes, headers: Headers, body: bytes, unix_time: float) -> bool:
    del body, unix_time
    return hmac.compare_digest(_octets(headers.get(signature.header, "")), key)


def _hmac(signature: Signature, key: bytes, headers: Headers, body: bytes, unix_time: float) -> bool:
    timestamp = headers.get(signature.timestamp_header, "") if signature.timestamp_header else None
    if timestamp is not None and not _is_recent(timestamp, unix_time, signature.tolerance_seconds):
        return False
    content = _content(signature.content, headers, body, timestamp or "")
    digest = hmac.digest(key, content, signature.algorithm)
    received = headers.get(signature.header, "")
    if signature.encoding == "hex":
        expected, received = signature.prefix.lower() + digest.hex(), received.lower()
    else:
        expected = signature.prefix + b64encode(digest).decode()
    return _one_matches(received, _octets(expected))


def _standard_webhooks(
    signature: Signature, key: bytes, headers: Headers, body: bytes, unix_time: float
) -> bool:
    identity, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not _is_recent(timestamp, unix_time, signature.tolerance_seconds):
        return False
    content = b"%b.%b.%b" % (_octets(identity), _octets(timestamp), body)
    expected = b"v1," + b64encode(hmac.digest(key, content, "sha256"))
    return _one_matches(headers.get("webhook-signature", ""), expected)


def _one_matches(received: str, expected: bytes) -> bool:
    """Whether one of the signatures in a header, separated by blanks, is the expected one."""
    # Several while a key is rotated. All are compared: stopping at a match would leak by timing which one it
    # is.
    matches = [hmac.compare_digest(_octets(signed), expected) for signed in received.split()]
    return any(matches)


def _content(template: str, headers: Headers, body: bytes, timestamp: str) -> bytes:
    """The signed message; the body as raw bytes in any encoding."""
    parts: list[bytes] = []
    end = 0
    for match in _PLACEHOLDER.finditer(template):
        parts.append(_octets(template[end : match.start()]))
        end = match.end()
        if match[1] == "body":
            parts.append(body)
        else:
            parts.append(_octets(headers.get(match[2].lower(), "") if match[2] else timestamp))
    return b"".join([*parts, _octets(template[end:])])


def _is_recent(timestamp: str, unix_time: float, tolerance_seconds: float) -> bool:
    """Whether a callback was signed just now: an intercepted one cannot be replayed later."""
    if not _UNIX_TIME.fullmatch(timestamp):
        return False
    seconds = float(timestamp)
    if seconds >= _MILLISECONDS_FROM:
        seconds /= 1000
    return abs(unix_time - seconds) <= tolerance_seconds


def _octets(text: str) -> bytes:
    # As bytes: `compare_digest` raises for text that is not ASCII, and headers come from outside.
    return text.encode(errors="surrogateescape")
