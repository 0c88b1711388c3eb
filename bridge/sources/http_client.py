"""The way to one provider: the aiohttp session. Foreign errors become ours here, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from copy import copy
from functools import lru_cache
from io import BytesIO
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from bridge.dialects.base import HttpResponse, Request
from bridge.dialects.hosts import Hosts
from bridge.errors import UnreadablePayload, UpstreamTimeout, UpstreamUnavailable, UpstreamUnreachable
from bridge.sources.credentials import Credential

MAX_BODY = 8 * 1024 * 1024
STREAM_SILENCE_SECONDS = 90.0
_CONNECT_SECONDS = 10.0
_AT_ONCE = 1024 * 1024


class Session:
    """HTTP to one provider: bounded, without cookies, never following a redirect.

    Args:
        base_url: Where the provider's paths begin.
        credential: Goes with every call to the provider's own hosts, and with no other.
        hosts: The hosts a call may name instead of `base_url`; None where the operator chose `base_url`, and
            every call goes there, whatever it names.
        timeout_seconds: For one whole request, connecting and body included.
        resolver: Finds the addresses of names, where the system's own will not do.
    """

    def __init__(
        self,
        base_url: str,
        *,
        credential: Credential,
        hosts: Hosts | None,
        timeout_seconds: float,
        connections: int,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._credential = credential
        self._hosts = hosts
        self._timeout = _timeout(timeout_seconds)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ttl_dns_cache=60, resolver=resolver),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "User-Agent": "task-event-bridge"},
            timeout=self._timeout,
        )

    async def ask(self, request: Request, timeout_seconds: float | None = None) -> HttpResponse:
        """Make one call, once: a POST is never sent again, whatever becomes of its connection.

        Args:
            timeout_seconds: Instead of the session's own.

        Raises:
            UpstreamUnavailable: The provider cannot be reached, or cut the answer short.
            UpstreamTimeout: It did not answer in time.
            UnreadablePayload: The answer is larger than 8 MiB.
        """
        base_url = self.base_of(request)
        try:
            async with self._http.request(
                request.method,
                _url(base_url, request.path),
                data=_sendable(request.body),
                headers={**request.headers, **self._credential_for(base_url)},
                allow_redirects=False,
                timeout=self._timeout if timeout_seconds is None else _timeout(timeout_seconds),
            ) as response:
                body = self._credential.hide(await _bounded(response))
                return HttpResponse(response.status, response.headers, body)  # they match in any case
        except _THEIR_ERRORS as error:
            raise _our_error(error) from error

    @asynccontextmanager
    async def listen(self, request: Request) -> AsyncIterator[tuple[HttpResponse, AsyncIterator[bytes]]]:
        """Open a stream; yields its head and its bytes as they come.

        Raises:
            UpstreamUnavailable: The provider cannot be reached, or the stream broke.
            UpstreamTimeout: It said nothing for too long.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS, sock_read=STREAM_SILENCE_SECONDS
        )
        base_url = self.base_of(request)
        wanted = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        try:
            async with self._http.request(
                request.method,
                _url(base_url, request.path),
                data=request.body,
                headers={**request.headers, **wanted, **self._credential_for(base_url)},
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                is_stream = response.status == 200 and response.content_type == "text/event-stream"
                body = b"" if is_stream else self._credential.hide(await _bounded(response))
                yield HttpResponse(response.status, response.headers, body), response.content.iter_any()
        except _THEIR_ERRORS as error:
            raise _our_error(error) from error

    def acting_as(self, credential: Credential) -> Self:
        """The same connections with another credential; close the first session, not this one."""
        other = copy(self)
        other._credential = credential  # noqa: SLF001 - one of ourselves
        return other

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.close()

    def base_of(self, request: Request) -> str:
        """Where a request goes, before its path."""
        return request.base_url if request.base_url and self._hosts is not None else self._base

    def hide(self, frame: str) -> str:
        """What came on a stream, without the key: only whole frames can be searched for it."""
        return self._credential.hide(frame.encode()).decode()

    def _credential_for(self, base_url: str) -> Mapping[str, str]:
        trusted = base_url == self._base or (self._hosts is not None and self._hosts.own(base_url))
        return self._credential.headers() if trusted else {}


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)


def _sendable(body: bytes | None) -> bytes | BytesIO | None:
    """A large body goes in parts: to hand it over whole would hold the event loop."""
    return BytesIO(body) if body is not None and len(body) > _AT_ONCE else body


@lru_cache(8192)  # some 10 MB when it is full; a watch asks under one address again and again
def _url(base_url: str, path: str) -> URL:
    """As it is: `encoded` keeps %2F. Put together from parts, because to parse it costs thrice as much."""
    base = _base(base_url)
    path, _, query = path.partition("?")
    return URL.build(
        scheme=base.scheme,
        authority=base.raw_authority,
        path=base.raw_path.rstrip("/") + path,
        query_string=query,
        encoded=True,
    )


@lru_cache(256)
def _base(base_url: str) -> URL:
    return URL(base_url, encoded=True)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    announced = response.content_length
    if announced is not None and announced > MAX_BODY:
        raise UnreadablePayload(
            f"the answer is larger than {MAX_BODY} bytes", provider_status=response.status
        )
    if announced is not None and "Content-Encoding" not in response.headers:
        return await response.read()
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_BODY:
            response.close()
            raise UnreadablePayload(
                f"the answer is larger than {MAX_BODY} bytes", provider_status=response.status
            )
        parts.append(part)
    return b"".join(parts)


_THEIR_ERRORS = (TimeoutError, aiohttp.ClientError, OSError)


def _our_error(error: Exception) -> UpstreamUnavailable | UpstreamTimeout:
    """Our sentences, not the library's: those hold URLs, and URLs may hold secrets."""
    if isinstance(error, TimeoutError):
        return UpstreamTimeout("the upstream did not answer in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamUnreachable("the upstream cannot be reached")
    return UpstreamUnavailable("the connection to the upstream broke")
