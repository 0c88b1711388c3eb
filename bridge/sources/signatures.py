"""Whether a callback is signed as its provider signs; what `[callback.signature]` states, checked.

A callback that cannot be proven makes the bridge look, as any does; one that is proven wrong does not.
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
_PLACE = re.compile(r"\{(body|timestamp|header:([A-Za-z0-9-]+))\}")
_UNIX_TIME = re.compile(r"[0-9]{1,15}", re.ASCII)
_MILLISECONDS_FROM = 10**11
_FAL = "x-fal-webhook-"

Headers = Mapping[str, str]


class Proof(Enum):
    """What the signature of a callback says."""

    GOOD = auto()
    WRONG = auto()
    NONE = auto()


class Verifier:
    """Checks the callbacks of one upstream.

    Args:
        key: What the provider signs with; None where the operator told none.
        keys: The provider's published keys, for schemes that use such.

    Raises:
        InvalidRequest: The key is not of the form the scheme needs.
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
        """What the signature of one callback says.

        Args:
            headers: By lower-case names, or by names in any case.
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
        sealed = _unhex(headers.get(f"{_FAL}signature", ""))
        told = [part for part in parts if part is not None]
        if sealed is None or len(told) < len(parts):
            return Proof.WRONG
        if not _timely(told[2], self._clock.time(), signature.tolerance_seconds):
            return Proof.WRONG
        message = "\n".join([*told, hashlib.sha256(body).hexdigest()])
        signed = await self._keys.signed(sealed, _octets(message))
        if signed is None:
            return Proof.NONE
        return Proof.GOOD if signed else Proof.WRONG


def make_verifier(signature: Signature | None, key: str | None, clock: Clock, fetch: Fetch) -> Verifier:
    """The verifier for one upstream.

    Args:
        fetch: Brings the provider's published keys; only called for schemes that use such.

    Raises:
        InvalidRequest: The key is not of the form the scheme needs.
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
    """Whether this provider signs with such a key.

    Raises:
        InvalidRequest: It does not, and why.
    """
    if dialect.callback_signature is None:
        raise InvalidRequest("this provider does not sign its callbacks")
    if dialect.callback_signature.scheme is Scheme.FAL:
        raise InvalidRequest("this provider publishes its keys; leave it out")
    _checks(dialect.callback_signature, key)


def webhook_key(key: str) -> bytes:
    """The bytes of a Standard Webhooks key, `whsec_` and base64.

    Raises:
        InvalidRequest: It is not of that form.
    """
    try:
        octets = b64decode(key.removeprefix(_WHSEC), validate=True)
    except (binascii.Error, ValueError):
        octets = b""
    if not octets:
        raise InvalidRequest("the signing key must be whsec_ and base64")
    return octets


def _header(signature: Signature, key: bytes, headers: Headers, body: bytes, wall: float) -> bool:
    del body, wall
    return hmac.compare_digest(_octets(headers.get(signature.header, "")), key)


def _hmac(signature: Signature, key: bytes, headers: Headers, body: bytes, wall: float) -> bool:
    timestamp = headers.get(signature.timestamp_header, "") if signature.timestamp_header else None
    if timestamp is not None and not _timely(timestamp, wall, signature.tolerance_seconds):
        return False
    content = _content(signature.content, headers, body, timestamp or "")
    digest = hmac.digest(key, content, signature.algorithm)
    given = headers.get(signature.header, "").strip()
    if signature.encoding == "hex":
        expected, given = signature.prefix.lower() + digest.hex(), given.lower()
    else:
        expected = signature.prefix + b64encode(digest).decode()
    return hmac.compare_digest(_octets(given), _octets(expected))


def _standard_webhooks(signature: Signature, key: bytes, headers: Headers, body: bytes, wall: float) -> bool:
    identity, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not _timely(timestamp, wall, signature.tolerance_seconds):
        return False
    content = b"%b.%b.%b" % (_octets(identity), _octets(timestamp), body)
    expected = b"v1," + b64encode(hmac.digest(key, content, "sha256"))
    given = headers.get("webhook-signature", "").split()  # several while a key is being replaced
    return any([hmac.compare_digest(_octets(one), expected) for one in given])  # noqa: C419 - all, or the time tells which


def _content(template: str, headers: Headers, body: bytes, timestamp: str) -> bytes:
    """What is signed; the body as its bytes, whatever encoding they are in."""
    parts: list[bytes] = []
    end = 0
    for place in _PLACE.finditer(template):
        parts.append(_octets(template[end : place.start()]))
        end = place.end()
        if place[1] == "body":
            parts.append(body)
        else:
            parts.append(_octets(headers.get(place[2].lower(), "") if place[2] else timestamp))
    return b"".join([*parts, _octets(template[end:])])


def _timely(timestamp: str, wall: float, tolerance_seconds: float) -> bool:
    """Whether a callback was signed about now: one that was overheard cannot be sent again for ever."""
    if not _UNIX_TIME.fullmatch(timestamp):
        return False
    seconds = float(timestamp)
    if seconds >= _MILLISECONDS_FROM:
        seconds /= 1000
    return abs(wall - seconds) <= tolerance_seconds


def _unhex(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text) or None
    except ValueError:
        return None


def _octets(text: str) -> bytes:
    """For comparing: `compare_digest` takes text only when it is ASCII."""
    return text.encode(errors="surrogateescape")
