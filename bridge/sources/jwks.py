"""Published keys (JWKS): fetched, kept, fetched again; a provider's Ed25519 keys to prove callbacks with."""

from __future__ import annotations

import asyncio
import binascii
import logging
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import orjson

from bridge.clock import Clock
from bridge.dialects.base import Request
from bridge.dialects.hosts import Hosts
from bridge.errors import UpstreamError, UpstreamUnavailable
from bridge.sources.credentials import FixedCredential
from bridge.sources.http_client import Session
from bridge.sources.public_resolver import PublicResolver

KEPT_SECONDS = 86_400.0
REFETCH_SECONDS = 60.0
FETCH_SECONDS = 5.0

_MAX_KEYS = 32
_MAX_DOCUMENT = 256 * 1024
_KEY_BYTES = 32
_NEVER = float("-inf")
_NO_HOSTS = Hosts(())

FAL = "https://rest.fal.ai"
_FAL_PATH = "/.well-known/jwks.json"

Fetch = Callable[[], Awaitable[bytes]]

logger = logging.getLogger(__name__)


Key = TypeVar("Key")


class JwksCache(Generic[Key]):
    """Keys somebody publishes, as they were when they could last be had.

    Args:
        fetch: Brings the JWKS document; raises `UpstreamError` when it cannot.
        read: One key of it; None for what is not one.
        purpose: What they prove, for the log.
    """

    def __init__(
        self, fetch: Fetch, read: Callable[[dict[str, Any]], Key | None], clock: Clock, *, purpose: str
    ) -> None:
        self.keys: tuple[Key, ...] = ()
        self.fetched_at = _NEVER
        self._fetch = fetch
        self._read = read
        self._clock = clock
        self._purpose = purpose
        self._tried_at = _NEVER
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Fetch them, unless that was tried within the last minute; what cannot be had changes nothing.

        Or anybody who sends nonsense would make us ask and ask.
        """
        async with self._lock:  # who waited here finds that it was tried just now
            if self._clock.monotonic() - self._tried_at < REFETCH_SECONDS:
                return
            self._tried_at = self._clock.monotonic()
            try:
                keys = keys_in(await self._fetch(), self._read)
            except UpstreamError as error:
                logger.warning("the keys for %s cannot be had", self._purpose, extra={"error": str(error)})
                return
            if keys:
                self.keys, self.fetched_at = keys, self._clock.monotonic()
            else:
                logger.warning("there are no usable keys for %s where they should be", self._purpose)


class PublicKeys:
    """The keys a provider signs with.

    Args:
        fetch: Brings the JWKS document; raises `UpstreamError` when it cannot.
    """

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._published = JwksCache(fetch, read_ed25519, clock, purpose="callbacks")
        self._clock = clock

    async def signed(self, signature: bytes, message: bytes) -> bool | None:
        """Whether one of the keys signed `message`; None when that cannot be known.

        An unknown key may be a new one: then they are fetched again, at most once a minute.
        """
        if self._clock.monotonic() - self._published.fetched_at > KEPT_SECONDS:
            await self._published.refresh()
        if not self._published.keys:
            return None
        if _any_signed(self._published.keys, signature, message):
            return True
        await self._published.refresh()
        return _any_signed(self._published.keys, signature, message)


async def fetch_fal() -> bytes:
    """The keys of fal.

    Raises:
        UpstreamError: They cannot be had.
    """
    return await fetch_keys(FAL + _FAL_PATH)


async def fetch_keys(url: str, private_hosts: Hosts = _NO_HOSTS) -> bytes:
    """A JWKS document. Rarely asked, so the session lives for one call; and without our credential.

    Args:
        private_hosts: Names that may have a private address.

    Raises:
        UpstreamError: It cannot be had.
    """
    parts = urlsplit(url)
    resolver = PublicResolver(private_hosts)
    session = Session(
        f"{parts.scheme}://{parts.netloc}",
        credential=FixedCredential({}),
        hosts=None,
        timeout_seconds=FETCH_SECONDS,
        connections=1,
        resolver=resolver,
    )
    try:
        answer = await session.ask(Request(method="GET", path=parts.path or "/"))
    finally:
        await session.close()
        await resolver.close()
    if answer.status != 200:
        raise UpstreamUnavailable("the keys are not where they should be", provider_status=answer.status)
    return answer.body


def keys_in(document: bytes, read: Callable[[dict[str, Any]], Key | None]) -> tuple[Key, ...]:
    """The keys in a JWKS document, 32 at the most; what is not one is passed over."""
    if len(document) > _MAX_DOCUMENT:
        return ()
    try:
        published = orjson.loads(document)
    except orjson.JSONDecodeError:
        return ()
    listed = published.get("keys") if isinstance(published, dict) else None
    if not isinstance(listed, list):
        return ()
    found = [read(one) for one in listed[:_MAX_KEYS] if isinstance(one, dict)]
    return tuple(key for key in found if key is not None)


def read_ed25519(one: dict[str, Any]) -> bytes | None:
    """The octets of a published Ed25519 key."""
    if one.get("kty") != "OKP" or one.get("crv", "Ed25519") != "Ed25519":
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
