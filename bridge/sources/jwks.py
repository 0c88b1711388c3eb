"""JSON Web Key Sets (RFC 7517): fetch, cache, refresh; and verify Ed25519-signed callbacks with them."""

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
from bridge.sources.guard import is_written_out
from bridge.sources.http_client import Session

REFRESH_SECONDS = 86_400.0
REFETCH_SECONDS = 60.0
FETCH_TIMEOUT_SECONDS = 5.0

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
    """The newest usable version of a key set.

    Args:
        fetch: Fetches the JWKS document; raises `UpstreamError` when it cannot.
        read: Parses one entry; None for a key that cannot be used.
        purpose: What the keys verify, for the log.

    Attributes:
        keys: Empty until the first successful fetch; kept when a later one fails.
        fetched_at: Monotonic seconds; minus infinity before.
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
        """Fetch the keys, at most once per minute; a failed fetch keeps the ones cached.

        Without that limit, anyone sending tokens or callbacks with made-up keys could make the bridge send a
        request for each.
        """
        async with self._lock:
            # Concurrent callers wait for the first one's fetch, then find that it was tried just now.
            if self._clock.monotonic() - self._tried_at < REFETCH_SECONDS:
                return
            self._tried_at = self._clock.monotonic()
            try:
                keys = keys_in(await self._fetch(), self._read)
            except UpstreamError as error:
                logger.warning("failed to fetch JWKS", extra={"purpose": self._purpose, "error": str(error)})
                return
            if keys:
                self.keys, self.fetched_at = keys, self._clock.monotonic()
            else:
                # Kept as they are: an empty document is more often an outage than a revocation of all keys.
                logger.warning("JWKS has no usable keys", extra={"purpose": self._purpose})


class PublicKeys:
    """The Ed25519 keys a provider publishes and signs callbacks with.

    Args:
        fetch: Fetches the JWKS document; raises `UpstreamError` when it cannot.
    """

    def __init__(self, fetch: Fetch, clock: Clock) -> None:
        self._published = JwksCache(fetch, read_ed25519, clock, purpose="callbacks")
        self._clock = clock

    async def signed(self, signature: bytes, message: bytes) -> bool | None:
        """Whether one of the keys signed `message`; None when no key could be fetched."""
        if self._clock.monotonic() - self._published.fetched_at > REFRESH_SECONDS:
            await self._published.refresh()
        if not self._published.keys:
            return None
        if _any_signed(self._published.keys, signature, message):
            return True
        # The provider may have rotated its keys since.
        await self._published.refresh()
        return _any_signed(self._published.keys, signature, message)


async def fetch_fal() -> bytes:
    """The JWKS document of fal (docs.fal.ai, webhooks).

    Raises:
        UpstreamError: It cannot be fetched.
    """
    return await fetch_keys(FAL + _FAL_PATH)


async def fetch_keys(url: str, private_hosts: Hosts = _NO_HOSTS) -> bytes:
    """Fetch a JWKS document. Rare, so the session lives for one request; it sends no credential.

    The URL is the operator's: an address in it, or `localhost`, is called as it is written. What a name leads
    to may change, so it must be public, or in `private_hosts`.

    Raises:
        UpstreamError: It cannot be fetched.
    """
    parts = urlsplit(url)
    session = Session(
        f"{parts.scheme}://{parts.netloc}",
        credential=FixedCredential({}),
        hosts=None,
        timeout_seconds=FETCH_TIMEOUT_SECONDS,
        connections=1,
        private_hosts=private_hosts,
        public_only=not is_written_out(parts.hostname or ""),
    )
    try:
        answer = await session.ask(Request(method="GET", path=parts.path or "/"))
    finally:
        await session.close()
    if answer.status != 200:
        raise UpstreamUnavailable("the key server did not return the JWKS", provider_status=answer.status)
    return answer.body


def keys_in(document: bytes, read: Callable[[dict[str, Any]], Key | None]) -> tuple[Key, ...]:
    """The first 32 usable keys of a JWKS document; other entries are skipped."""
    if len(document) > _MAX_DOCUMENT:
        return ()
    try:
        published = orjson.loads(document)
    except orjson.JSONDecodeError:
        return ()
    listed = published.get("keys") if isinstance(published, dict) else None
    if not isinstance(listed, list):
        return ()
    keys = [read(entry) for entry in listed[:_MAX_KEYS] if isinstance(entry, dict)]
    return tuple(key for key in keys if key is not None)


def read_ed25519(entry: dict[str, Any]) -> bytes | None:
    """The bytes of an Ed25519 key (RFC 8037); None for any other entry."""
    if entry.get("kty") != "OKP" or entry.get("crv", "Ed25519") != "Ed25519":
        return None
    text = entry.get("x")
    try:
        octets = urlsafe_b64decode(text + "==") if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return None
    return octets if len(octets) == _KEY_BYTES else None


def _any_signed(keys: tuple[bytes, ...], signature: bytes, message: bytes) -> bool:
    # Imported here: the library takes ten megabytes, and only deployments with signed callbacks need it.
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415 - see above

    for key in keys:
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
        except (InvalidSignature, ValueError):
            continue
        return True
    return False
