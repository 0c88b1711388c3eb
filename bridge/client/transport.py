"""HTTP to a bridge: addresses, the credential, and mapping of aiohttp's errors."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
from yarl import URL

from bridge.client.errors import BridgeUnreachable, UntrustedBridge, refusal
from bridge.client.state import Ref, ref_of
from bridge.core.task import TaskKey
from bridge.errors import InvalidRequest, UnreadablePayload
from bridge.net import trusting, unverified

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

Token = str | Callable[[], str | Awaitable[str | None] | None]

MAX_BODY = 8 * 1024 * 1024

_MAX_PROBLEM = 64 * 1024
_CONNECT_SECONDS = 10.0
_TOKEN = re.compile(r"[\x21-\x7e]+")
# No total timeout: a stream is long-lived. Reads have their own timeout, which keepalives reset too.
_NO_TOTAL = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=None)


class HttpTransport:
    """Sends requests to one bridge.

    Args:
        url: Address of the bridge; a path prefix is kept.
        token: The bearer token, or a callable that returns it, called before every request.
        session: A session that the caller closes; by default one is opened here.
        ca_file: Trust the certificates in this PEM file, instead of the system's.

    Raises:
        InvalidRequest: The address or the file cannot be used, or the session is the caller's.
    """

    def __init__(
        self,
        url: str,
        token: Token | None,
        session: aiohttp.ClientSession | None,
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._base = _base_address(url)
        self._token = token
        self._session = session
        self._own_session = session is None
        self._trust = _trust(ca_file, session)

    async def start(self) -> None:
        """Open a session unless the caller gave one."""
        if self._session is None:
            # aiohttp's default limit is 100 connections, and every watch holds one.
            connector = aiohttp.TCPConnector(limit=0, ssl=self._trust or True)
            self._session = aiohttp.ClientSession(connector=connector)

    async def close(self) -> None:
        """Close the session unless it belongs to the caller."""
        if self._own_session and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        timeout_seconds: float,
        body: bytes | None = None,
    ) -> aiohttp.ClientResponse:
        """Return a 2xx or 304 response with its body unread; the caller closes it.

        Args:
            timeout_seconds: Seconds until the head of the response must have arrived.

        Raises:
            BridgeUnreachable: No response within `timeout_seconds`.
            BridgeError: The bridge rejected the request; `retryable` says whether a retry can succeed.
        """
        if self._session is None:
            raise RuntimeError("use a Bridge within `async with`")
        token = await self._credential()
        headers = dict(headers)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = URL(self._base + path, encoded=True)
        try:
            async with asyncio.timeout(timeout_seconds):
                response = await self._session.request(
                    method, url, headers=headers, data=body, timeout=_NO_TOTAL
                )
                if response.status == 304 or 200 <= response.status < 300:
                    return response
                text = await _read(response, _MAX_PROBLEM)
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from None  # `from None`: some of aiohttp's errors contain our headers
        raise refusal(response.status, response.headers, text, secret=token)

    async def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        timeout_seconds: float,
        body: bytes | None = None,
    ) -> tuple[int, bytes]:
        """Send a request and return status and body.

        Args:
            timeout_seconds: Seconds for the head, and again for the body of the response.

        Raises:
            BridgeUnreachable: No complete response within `timeout_seconds`.
            BridgeError: The bridge rejected the request.
        """
        response = await self.open(method, path, headers=headers, timeout_seconds=timeout_seconds, body=body)
        try:
            async with asyncio.timeout(timeout_seconds):
                text = await _read(response, MAX_BODY + 1)
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from None
        if len(text) > MAX_BODY:
            raise UnreadablePayload(f"the response is larger than {MAX_BODY} bytes")
        return response.status, text

    async def _credential(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        if token is not None and not _TOKEN.fullmatch(token):
            raise InvalidRequest("the token contains characters not allowed in a header")
        return token


def unreachable(error: Exception) -> BridgeUnreachable:
    """Map an error of the connection to `BridgeUnreachable`."""
    if isinstance(error, TimeoutError):
        return BridgeUnreachable("no response from the bridge in time")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return UntrustedBridge(unverified(error.host, error.certificate_error))
    # The text of a refused connection has "ssl:default" even for http://, which sounds like a cause.
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        code = error.os_error.errno
        reason = os.strerror(code) if code and code > 0 else error.os_error.strerror or str(error.os_error)
        return BridgeUnreachable(f"the bridge cannot be reached: {error.host}:{error.port}: {reason}")
    # Only these name the address and the reason, and never contain headers.
    detail = isinstance(error, aiohttp.ClientConnectionError | OSError) and str(error)
    return BridgeUnreachable(f"the bridge cannot be reached: {detail or type(error).__name__}")


def task_path(ref: Ref, rest: str = "") -> str:
    """Return the URL path of a task.

    Raises:
        InvalidRequest: The ref is malformed.
    """
    key = TaskKey.parse(ref_of(ref))
    return f"/v1/tasks/{key.upstream}/{quote(key.task_id, safe='')}{rest}"


def _trust(
    ca_file: str | os.PathLike[str] | None, session: aiohttp.ClientSession | None
) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    if session is not None:
        raise InvalidRequest("ca_file is for a session of the client's own; give yours an SSL context")
    try:
        return trusting(ca_file)
    except ValueError as error:
        raise InvalidRequest(f"ca_file: {error}") from None


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read at most `limit` bytes of the body; always closes the response."""
    text = bytearray()
    try:
        while len(text) < limit and (piece := await response.content.read(limit - len(text))):
            text += piece
    finally:
        response.close()  # after a complete body the connection is back in the pool already
    return bytes(text)


def _base_address(url: str) -> str:
    try:
        address = URL(url)
        sound = address.scheme in ("http", "https") and bool(address.host)
    except ValueError:
        sound = False
    if not sound:
        raise InvalidRequest("the address of a bridge must be like http://127.0.0.1:8080")
    return str(address.with_query(None).with_fragment(None)).rstrip("/")
