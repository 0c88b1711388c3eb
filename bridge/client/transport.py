"""The way to a bridge: addresses, the credential, and foreign errors made ours."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
from yarl import URL

from bridge.client.errors import BridgeUnreachable, refusal
from bridge.core.task import TaskKey
from bridge.errors import InvalidRequest, UnreadablePayload

if TYPE_CHECKING:
    from collections.abc import Mapping

Token = str | Callable[[], str | Awaitable[str | None] | None]

MAX_BODY = 8 * 1024 * 1024

_MAX_PROBLEM = 64 * 1024
_CONNECT_SECONDS = 10.0
_TOKEN = re.compile(r"[\x21-\x7e]+")
# No total: a stream is long. Reading has its own watchdog, which comments feed too.
_NO_TOTAL = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=None)


class HttpTransport:
    """Sends requests to one bridge.

    Args:
        url: Where the bridge is; a path prefix is kept.
        token: The bearer token, or what gives it; asked anew for every request.
        session: Somebody else's session, which stays theirs to close.
    """

    def __init__(self, url: str, token: Token | None, session: aiohttp.ClientSession | None) -> None:
        self._base = _base_address(url)
        self._token = token
        self._session = session
        self._own_session = session is None

    async def start(self) -> None:
        """Open a session where none was given."""
        if self._session is None:
            # aiohttp allows 100 connections, and every watch holds one for long
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def close(self) -> None:
        """Close the session if it is ours."""
        if self._own_session and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        within: float,
        body: bytes | None = None,
    ) -> aiohttp.ClientResponse:
        """A 2xx or 304 answer, its body unread; the caller closes it.

        Raises:
            BridgeUnreachable: There was no answer within `within` seconds.
            BridgeError: The bridge refused; its `retryable` says whether to come back.
        """
        if self._session is None:
            raise RuntimeError("a Bridge is used within `async with`")
        token = await self._credential()
        headers = dict(headers)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = URL(self._base + path, encoded=True)
        try:
            async with asyncio.timeout(within):
                response = await self._session.request(
                    method, url, headers=headers, data=body, timeout=_NO_TOTAL
                )
                if response.status == 304 or 200 <= response.status < 300:
                    return response
                text = await _read(response, _MAX_PROBLEM)
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from None  # some of aiohttp's carry our headers
        raise refusal(response.status, response.headers, text, secret=token)

    async def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        within: float,
        body: bytes | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of a short exchange.

        Raises:
            BridgeUnreachable: There was no whole answer within `within` seconds.
            BridgeError: The bridge refused.
        """
        response = await self.open(method, path, headers=headers, within=within, body=body)
        try:
            async with asyncio.timeout(within):
                text = await _read(response, MAX_BODY + 1)
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(error) from None
        if len(text) > MAX_BODY:
            raise UnreadablePayload(f"the answer is larger than {MAX_BODY} bytes")
        return response.status, text

    async def _credential(self) -> str | None:
        token = self._token() if callable(self._token) else self._token
        if inspect.isawaitable(token):
            token = await token
        if token is not None and not _TOKEN.fullmatch(token):
            raise InvalidRequest("the token holds characters no header may carry")
        return token


def unreachable(error: Exception) -> BridgeUnreachable:
    """A foreign error of the connection as ours."""
    if isinstance(error, TimeoutError):
        return BridgeUnreachable("the bridge did not answer in time")
    # only these say where and why, and nothing of what was sent
    told = isinstance(error, aiohttp.ClientConnectionError | OSError) and str(error)
    return BridgeUnreachable(f"the bridge cannot be reached: {told or type(error).__name__}")


def task_path(ref: str, rest: str = "") -> str:
    """The path of a task.

    Raises:
        InvalidRequest: The ref is not well-formed.
    """
    key = TaskKey.parse(ref)
    return f"/v1/tasks/{key.upstream}/{quote(key.task_id, safe='')}{rest}"


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, at most `limit` bytes of it; the answer is closed in any case."""
    text = bytearray()
    try:
        while len(text) < limit and (piece := await response.content.read(limit - len(text))):
            text += piece
    finally:
        response.close()  # at the end of a body the connection has been given back already
    return bytes(text)


def _base_address(url: str) -> str:
    try:
        address = URL(url)
        sound = address.scheme in ("http", "https") and bool(address.host)
    except ValueError:
        sound = False
    if not sound:
        raise InvalidRequest("the address of a bridge is like http://127.0.0.1:8080")
    return str(address.with_query(None).with_fragment(None)).rstrip("/")
