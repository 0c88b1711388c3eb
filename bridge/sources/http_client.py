"""HTTP to one provider through aiohttp. The library's exceptions become ours here, and nowhere else.

aiohttp speaks HTTP/1.1 only: HTTP/2 to providers needs another library behind `Session`. The connection pool
is aiohttp's connector.
"""

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
_MAX_UNCHUNKED_BODY = 1024 * 1024


class Session:
    """HTTP to one provider: bounded, without cookies, never following a redirect.

    Args:
        base_url: Prefix of the provider's paths.
        credential: Sent with requests to the provider's own hosts only.
        hosts: Hosts that a request may name instead of `base_url`; None where the operator set `base_url`,
            and every request goes there.
        timeout_seconds: For one whole request, connecting and reading the body included.
        connections: Maximum of open connections.
        resolver: Used instead of the system's resolver.
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
        """Send one request, once: it is never retried, so a submit cannot create two tasks.

        Args:
            timeout_seconds: Replaces the session's own.

        Raises:
            UpstreamUnavailable: The provider cannot be reached, or the response was cut short.
            UpstreamTimeout: It did not respond in time.
            UnreadablePayload: The response is larger than 8 MiB.
        """
        base_url = self.base_of(request)
        body: bytes | BytesIO | None = request.body
        if request.body is not None and len(request.body) > _MAX_UNCHUNKED_BODY:
            # In chunks: aiohttp would hand a large body over at once and hold the event loop meanwhile.
            body = BytesIO(request.body)
        try:
            async with self._http.request(
                request.method,
                _url(base_url, request.path),
                data=body,
                headers={**request.headers, **self._credential_for(base_url)},
                allow_redirects=False,
                timeout=self._timeout if timeout_seconds is None else _timeout(timeout_seconds),
            ) as response:
                content = self._credential.hide(await _read_bounded(response))
                return HttpResponse(response.status, response.headers, content)
        except _LIBRARY_ERRORS as error:
            raise _our_error(error) from error

    @asynccontextmanager
    async def listen(self, request: Request) -> AsyncIterator[tuple[HttpResponse, AsyncIterator[bytes]]]:
        """Open a stream; yields its response head and its chunks.

        Raises:
            UpstreamUnavailable: The provider cannot be reached, or the stream broke.
            UpstreamTimeout: Nothing arrived for 90 s.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS, sock_read=STREAM_SILENCE_SECONDS
        )
        base_url = self.base_of(request)
        stream_headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        try:
            async with self._http.request(
                request.method,
                _url(base_url, request.path),
                data=request.body,
                headers={**request.headers, **stream_headers, **self._credential_for(base_url)},
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                # Anything else is an error document, which the dialect reads like any other response.
                is_stream = response.status == 200 and response.content_type == "text/event-stream"
                body = b"" if is_stream else self._credential.hide(await _read_bounded(response))
                yield HttpResponse(response.status, response.headers, body), response.content.iter_any()
        except _LIBRARY_ERRORS as error:
            raise _our_error(error) from error

    def acting_as(self, credential: Credential) -> Self:
        """A session with another credential over the same connections; close the original, not this one."""
        other = copy(self)
        other._credential = credential  # noqa: SLF001 - an instance of this class
        return other

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    def base_of(self, request: Request) -> str:
        """The base URL a request is sent to."""
        return request.base_url if request.base_url and self._hosts is not None else self._base

    def hide(self, frame: str) -> str:
        """Mask the credential in a stream frame; a chunk may end in the middle of it, a frame cannot."""
        return self._credential.hide(frame.encode()).decode()

    def _credential_for(self, base_url: str) -> Mapping[str, str]:
        # Result links lead to hosts of other companies: they must never see the key.
        trusted = base_url == self._base or (self._hosts is not None and self._hosts.own(base_url))
        return self._credential.headers() if trusted else {}


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)


@lru_cache(8192)  # about 10 MB when full; a watch requests the same URL again and again
def _url(base_url: str, path: str) -> URL:
    # `encoded` keeps %2F in ids. Built from parts: parsing the whole URL takes three times as long.
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


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    announced = response.content_length
    if announced is not None and announced > MAX_BODY:
        raise _too_large(response)
    if announced is not None and "Content-Encoding" not in response.headers:
        return await response.read()
    # Chunked or compressed: the length is known only while reading, and 1 kB of gzip may hold a gigabyte.
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_BODY:
            response.close()
            raise _too_large(response)
        parts.append(part)
    return b"".join(parts)


def _too_large(response: aiohttp.ClientResponse) -> UnreadablePayload:
    return UnreadablePayload(f"the response is larger than {MAX_BODY} bytes", provider_status=response.status)


_LIBRARY_ERRORS = (TimeoutError, aiohttp.ClientError, OSError)


def _our_error(error: Exception) -> UpstreamUnavailable | UpstreamTimeout:
    # Sentences of our own: the library's contain URLs, and URLs may contain secrets.
    if isinstance(error, TimeoutError):
        return UpstreamTimeout("the upstream did not respond in time")
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamUnreachable("the upstream cannot be reached")
    return UpstreamUnavailable("the connection to the upstream was lost")
