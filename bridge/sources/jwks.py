"""A provider's published Ed25519 keys: fetched when a callback needs them, kept for a day."""

from __future__ import annotations

import asyncio
import binascii
import logging
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from importlib.util import find_spec

import orjson

from bridge.clock import Clock
from bridge.dialects.base import Request
from bridge.errors import UpstreamError, UpstreamUnavailable
from bridge.sources.credentials import FixedCredential
from bridge.sources.session import Session

can_verify = find_spec("cryptography") is not None  # an extra: only callbacks signed that way need it

KEPT_SECONDS = 86_400.0
REFETCH_SECONDS = 60.0
FETCH_SECONDS = 5.0

_MAX_KEYS = 32
_KEY_BYTES = 32
_NEVER = float("-inf")

FAL = "https://rest.fal.ai"
_FAL_PATH = "/.well-known/jwks.json"

Fetch = Callable[[], Awaitable[bytes]]

logger = logging.getLogger(__name__)


class PublicKeys:
    """The keys a provider signs with.

    Args:
        fetch: Brings the JWKS document; raises `UpstreamError` when it cannot.
    """

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: tuple[bytes, ...] = ()
        self._fetched = self._tried = _NEVER
        self._lock = asyncio.Lock()

    async def signed(self, signature: bytes, message: bytes) -> bool | None:
        """Whether one of the keys signed `message`; None when that cannot be known.

        An unknown key may be a new one: then they are fetched again, at most once a minute, or anybody who
        sends nonsense would make us ask and ask.
        """
        if not can_verify:
            return None
        if self._clock.now() - self._fetched > KEPT_SECONDS:
            await self._refresh()
        if not self._keys:
            return None
        if _any_signed(self._keys, signature, message):
            return True
        await self._refresh()
        return _any_signed(self._keys, signature, message)

    async def _refresh(self) -> None:
        async with self._lock:  # who waited here finds that it was tried just now
            if self._clock.now() - self._tried < REFETCH_SECONDS:
                return
            self._tried = self._clock.now()
            try:
                keys = read_keys(await self._fetch())
            except UpstreamError as error:
                logger.warning("the keys for callbacks cannot be had", extra={"error": str(error)})
                return
            if keys:
                self._keys, self._fetched = keys, self._clock.now()


async def fetch_fal() -> bytes:
    """The keys of fal. Rarely asked, so the session lives for one call; and without our credential.

    Raises:
        UpstreamError: They cannot be had.
    """
    session = Session(
        FAL, credential=FixedCredential({}), hosts=None, timeout_seconds=FETCH_SECONDS, connections=1
    )
    try:
        answer = await session.ask(Request(method="GET", path=_FAL_PATH))
    finally:
        await session.close()
    if answer.status != 200:
        raise UpstreamUnavailable("the keys are not where they should be", provider_status=answer.status)
    return answer.body


def read_keys(document: bytes) -> tuple[bytes, ...]:
    """The Ed25519 keys in a JWKS document; what is not one is passed over."""
    try:
        read = orjson.loads(document)
    except orjson.JSONDecodeError:
        return ()
    listed = read.get("keys") if isinstance(read, dict) else None
    found = [_key(one) for one in listed[:_MAX_KEYS]] if isinstance(listed, list) else []
    return tuple(key for key in found if key is not None)


def _key(one: object) -> bytes | None:
    if not isinstance(one, dict) or one.get("kty") != "OKP" or one.get("crv", "Ed25519") != "Ed25519":
        return None
    text = one.get("x")
    try:
        octets = urlsafe_b64decode(text + "==") if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return None
    return octets if len(octets) == _KEY_BYTES else None


def _any_signed(keys: tuple[bytes, ...], signature: bytes, message: bytes) -> bool:
    return any(_signed(key, signature, message) for key in keys)


def _signed(key: bytes, signature: bytes, message: bytes) -> bool:
    # ten megabytes, for the few who need it
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - see above

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
