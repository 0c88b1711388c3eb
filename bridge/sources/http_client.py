"""HTTP to one provider through aiohttp. The library's exceptions become ours here, and nowhere else.

aiohttp speaks HTTP/1.1 only: HTTP/2 to providers needs another library behind `Session`. The connection pool
is aiohttp's connector.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from functools import lru_cache
from io import BytesIO
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.connector import SocketFactoryType
from yarl import URL

from bridge.core.loop_time import LoopTime
from bridge.core.secrets import SecretMask
from bridge.dialects.base import HttpResponse, Request
from bridge.dialects.hosts import Hosts, host_of
from bridge.errors import (
    TIMEOUT_SENTENCE,
    UnreadablePayload,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from bridge.sources.body_memory import BodyLimit, BodyMemory, Share
from bridge.sources.credentials import Credential
from bridge.sources.guard import PrivateAddress, may_be_private, public_socket
from bridge.sources.slices import SlicedConnection, Turns, slice_connections
from bridge.wire.sse import MAX_EVENT_BYTES

STREAM_SILENCE_SECONDS = 90.0
STREAM_HEAD_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_CONNECTING = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
_MAX_WAIT_FOR_ROOM = 60.0
_NO_LIMIT = 0
_NO_HOSTS = Hosts(())
_STREAM_POOL = 32 * 1024 * 1024
_MAX_HEADER = 64 * 1024
_MAX_HEADERS = 1024
_TLS_PORT = 443
_MAX_UNCHUNKED_BODY = 1024 * 1024
MAX_MASKED_IN_LOOP = 64 * 1024
_SMALL_BODY = 16 * 1024


class Session:
    """HTTP to one provider: bounded, without cookies, never following a redirect.

    Args:
        base_url: Prefix of the provider's paths.
        credential: Sent with requests to the provider's own hosts only.
        hosts: Hosts that a request may name instead of `base_url`; None where the operator set `base_url`,
            and every request goes there.
        timeout_seconds: For one whole request, connecting and reading the body included.
        connections: Maximum of open connections for calls that are answered soon. Creates and streams, which
            hold theirs for longer, have connections of their own, counted by the limiter alone.
        private_hosts: Hosts that may be at a private address. The operator's own `base_url` and the hosts
            that a dialect names in full may be, too; those that an id chose below a wildcard may not.
        public_only: Whether none may but `private_hosts`.
        resolver: Used instead of the system's resolver.
        bodies: How large a response may be, and the memory for reading it.
        on_lenient: Called for each response that only a lenient reading can read.
        secrets: Secrets that the provider knows besides the credential, to be masked in its responses too.
        loop_time: The time of the event loop for what providers send, shared by all of them.
    """

    def __init__(  # noqa: PLR0913 - one connection pool, and each limit of it by name
        self,
        base_url: str,
        *,
        credential: Credential,
        hosts: Hosts | None,
        timeout_seconds: float,
        connections: int,
        private_hosts: Hosts = _NO_HOSTS,
        public_only: bool = False,
        resolver: AbstractResolver | None = None,
        bodies: BodyLimit | None = None,
        on_lenient: Callable[[], None] | None = None,
        secrets: Iterable[str] = (),
        loop_time: LoopTime | None = None,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._credential = credential
        self._hosts = hosts
        self._private_hosts = private_hosts
        self._public_only = public_only
        self._timeout_seconds = timeout_seconds
        self._bodies = bodies or BodyLimit()
        self._on_lenient = on_lenient
        self._mask = SecretMask(secrets)
        self._loop_time = loop_time or LoopTime()
        self._masking = asyncio.Lock()
        self._events = BodyMemory(_STREAM_POOL, largest=MAX_EVENT_BYTES)
        self._http = _client(connections, resolver, self._loop_time)
        self._long_http = _client(_NO_LIMIT, resolver, self._loop_time)
        self._guarded_http = (
            _client(_NO_LIMIT, resolver, self._loop_time, public_socket)
            if public_only or (hosts is not None and hosts.wildcards)
            else None
        )

    async def ask(
        self, request: Request, timeout_seconds: float | None = None, *, known: bytes | None = None
    ) -> HttpResponse:
        """Send one request, once: it is never retried, so a submit cannot create two tasks.

        Args:
            timeout_seconds: Replaces the session's own.
            known: The body of an earlier response, as it was returned: most polls bring the same one, which
                is then neither masked nor kept twice.

        Raises:
            UpstreamUnavailable: The provider cannot be reached, or the response was cut short.
            UpstreamTimeout: It did not respond in time.
            UnreadablePayload: The response is larger than `bodies` allows.
        """
        base_url = self.base_of(request)
        url, url_text = _url(base_url, request.path)
        body: bytes | BytesIO | None = request.body
        if request.body is not None and len(request.body) > _MAX_UNCHUNKED_BODY:
            # In chunks: aiohttp would hand a large body over at once and hold the event loop meanwhile.
            body = BytesIO(request.body)
        seconds = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        http = self._client_for(base_url, long=request.creates)
        headers = {**request.headers, **self._credential_for(base_url)}
        try:
            async with asyncio.timeout(seconds) as deadline:
                response = await http.request(
                    request.method, url, data=body, headers=headers, allow_redirects=False
                )
                try:
                    return self._arrived(response, url_text, known) or await self._document(
                        response, url_text, self._turns_of(response), deadline
                    )
                finally:
                    response.release()
        except _LIBRARY_ERRORS as error:
            raise _our_error(error) from error

    @asynccontextmanager
    async def listen(self, request: Request) -> AsyncIterator[tuple[HttpResponse, AsyncIterator[bytes]]]:
        """Open a stream; yields its response head and its chunks.

        Raises:
            UpstreamUnavailable: The provider cannot be reached, or the stream broke.
            UpstreamTimeout: There was no head after 30 s, or nothing arrived for 90 s.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_SECONDS, sock_read=STREAM_SILENCE_SECONDS
        )
        base_url = self.base_of(request)
        url, url_text = _url(base_url, request.path)
        stream_headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        try:
            async with (
                # Without this limit, interim responses (1xx) without end would be read without end.
                asyncio.timeout(STREAM_HEAD_SECONDS) as head_deadline,
                self._client_for(base_url, long=True).request(
                    request.method,
                    url,
                    data=request.body,
                    headers={**request.headers, **stream_headers, **self._credential_for(base_url)},
                    allow_redirects=False,
                    timeout=timeout,
                ) as response,
            ):
                # Anything else is an error document, which the dialect reads like any other response.
                is_stream = response.status == 200 and response.content_type == "text/event-stream"
                turns = self._turns_of(response)
                if is_stream:
                    head = await self._shown(response, url_text, b"", turns)
                else:
                    head = await self._document(response, url_text, turns)
                head_deadline.reschedule(None)
                yield head, _chunks(response, turns)
        except _LIBRARY_ERRORS as error:
            raise _our_error(error) from error

    def turns(self) -> Turns:
        """The turns of a reader of what the provider sends."""
        return Turns(self._loop_time)

    def event_share(self) -> Share:
        """The share of one stream of the memory for events that have not ended."""
        return self._events.share()

    def acting_as(self, credential: Credential, *, secrets: Iterable[str] = ()) -> Self:
        """A session with another credential over the same connections; close the original, not this one.

        Args:
            secrets: To be masked besides those of this session.
        """
        other = copy(self)
        other._credential = credential  # noqa: SLF001 - an instance of this class
        other._mask = self._mask.with_more(secrets)  # noqa: SLF001 - an instance of this class
        return other

    async def close(self) -> None:
        """Close all connections."""
        for http in (self._http, self._long_http, self._guarded_http):
            if http is not None:
                await http.close()

    @property
    def base_url(self) -> str:
        """Prefix of the provider's paths, without a slash at its end."""
        return self._base

    def base_of(self, request: Request) -> str:
        """The base URL a request is sent to."""
        return request.base_url if request.base_url and self._hosts is not None else self._base

    @property
    def origin(self) -> URL:
        """Scheme, host and port of the base URL."""
        return _base(self._base).origin()

    def url_of(self, request: Request) -> str:
        """The whole address that a request is sent to."""
        return _url(self.base_of(request), request.path)[1]

    def credential_for(self, url: URL) -> Mapping[str, str]:
        """The headers with the credential for a file; empty unless it is at a host of the provider itself.

        Stricter than for calls, because the provider chose the URL: other hosts than the one of the base URL
        get the credential over TLS at the usual port only.
        """
        named = self._hosts is not None and self._hosts.has(url.raw_host or "")
        if url.origin() == self.origin or (named and url.scheme == "https" and url.port == _TLS_PORT):
            return self._credential.headers()
        return {}

    def hide(self, data: bytes) -> bytes:
        """Mask the secrets in what the provider sent: a stream frame, a callback.

        A chunk of a stream may end in the middle of a secret, a frame cannot.
        """
        return self._mask(self._credential.hide(data))

    async def hide_large(self, data: bytes, turns: Turns) -> bytes:
        """The same for data of more than `MAX_MASKED_IN_LOOP` bytes; the connection is billed for it.

        In a thread, because megabytes of escapes take a second. One at a time: more threads would leave the
        event loop less of the interpreter.
        """
        async with self._masking:
            with _short_switches():
                masked, seconds = await asyncio.to_thread(self._hide_timed, data, turns.work)
        turns.bill(0, turns.work() - seconds)
        return masked

    def _hide_timed(self, data: bytes, clock: Callable[[], float]) -> tuple[bytes, float]:
        began = clock()
        masked = self.hide(data)
        return masked, clock() - began

    async def _shown(
        self, response: aiohttp.ClientResponse, url: str, body: bytes, turns: Turns
    ) -> HttpResponse:
        """The response without secrets: this or `_arrived` is where a provider's words enter the bridge."""
        if len(body) > MAX_MASKED_IN_LOOP:
            body = await self.hide_large(body, turns)
        else:
            body = self.hide(body)
        headers = _HiddenHeaders(response.headers, self.hide)
        return HttpResponse(response.status, headers, body, url, self._on_lenient)

    def _arrived(
        self, response: aiohttp.ClientResponse, url: str, known: bytes | None
    ) -> HttpResponse | None:
        """The response without secrets, if all of it has arrived and it is small; None otherwise.

        Nearly every poll: nothing is waited for, so neither turns nor memory need to be counted.
        """
        content = response.content
        if not content.is_eof() or content.total_bytes > min(_SMALL_BODY, self._bodies.max_bytes):
            return None
        try:
            body = content.read_nowait()
        except aiohttp.ClientPayloadError as error:
            raise _broken(response, error) from error
        # What was masked once has nothing left to mask.
        body = known if known is not None and body == known else self.hide(body)
        headers = _HiddenHeaders(response.headers, self.hide)
        return HttpResponse(response.status, headers, body, url, self._on_lenient)

    async def _document(
        self,
        response: aiohttp.ClientResponse,
        url: str,
        turns: Turns,
        deadline: asyncio.Timeout | None = None,
    ) -> HttpResponse:
        """The response with its body, whose memory is counted until its secrets are masked.

        Raises:
            UnreadablePayload: It is larger than `bodies` allows.
        """
        with self._bodies.memory.share() as share:
            body = await self._read(response, share, turns, deadline)
            return await self._shown(response, url, body, turns)

    async def _read(
        self,
        response: aiohttp.ClientResponse,
        share: Share,
        turns: Turns,
        deadline: asyncio.Timeout | None,
    ) -> bytes:
        """The body, decompressed.

        Args:
            deadline: Of the request; the time the body waits for room does not count.

        Raises:
            UnreadablePayload: It is larger than `bodies` allows.
        """
        limit, announced = self._bodies.max_bytes, response.content_length
        if announced is not None and announced > limit:
            response.close()
            raise _too_large(response, limit)
        parts: list[bytes] = []
        size = 0
        with _body_of(response):
            # Chunked or compressed, the length is known only while reading: 1 kB of gzip may hold a gigabyte.
            async for part in _chunks(response, turns):
                size += len(part)
                if size > limit:
                    response.close()
                    raise _too_large(response, limit)
                if not share.covers(size):
                    await _room(share, size, limit, deadline)
                parts.append(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def _turns_of(self, response: aiohttp.ClientResponse) -> Turns:
        connection = response.connection  # None when all has arrived
        protocol = connection.protocol if connection is not None else None
        return protocol.turns if isinstance(protocol, SlicedConnection) else self.turns()

    def _client_for(self, base_url: str, *, long: bool) -> aiohttp.ClientSession:
        if self._guarded_http is not None and not self._may_be_private(base_url):
            return self._guarded_http
        return self._long_http if long else self._http

    def _may_be_private(self, base_url: str) -> bool:
        """Whether the host is one that the operator or the author of the dialect wrote down."""
        host = host_of(base_url) or ""
        if may_be_private(host, self._private_hosts):
            return True
        named = self._hosts is not None and self._hosts.lists(host)
        return not self._public_only and (named or base_url == self._base)

    def _credential_for(self, base_url: str) -> Mapping[str, str]:
        # Result links lead to hosts of other companies: they must never see the key.
        trusted = base_url == self._base or (self._hosts is not None and self._hosts.own(base_url))
        return self._credential.headers() if trusted else {}


class _HiddenHeaders(Mapping[str, str]):
    """Headers of a response, each masked when it is read: of most responses none is.

    Args:
        headers: By any case of their names; a repeated one is read as its first.
    """

    __slots__ = ("_headers", "_hide")

    def __init__(self, headers: Mapping[str, str], hide: Callable[[bytes], bytes]) -> None:
        self._headers = headers
        self._hide = hide

    def get(self, name: str, default: Any = None) -> Any:
        """The value; `default` where there is none, as for most names that are looked up."""
        return self[name] if name in self._headers else default

    def __getitem__(self, name: str) -> str:
        value = self._headers[name]
        shown = value.encode("utf-8", "surrogateescape")
        hidden = self._hide(shown)
        return value if hidden is shown else hidden.decode("utf-8", "replace")

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)


async def _chunks(response: aiohttp.ClientResponse, turns: Turns) -> AsyncIterator[bytes]:
    """What of the body has arrived, again and again, in the turns of the connection."""
    async for part in response.content.iter_any():
        yield part
        await turns.pause()


@contextmanager
def _short_switches() -> Iterator[None]:
    """While a thread masks, the event loop gets the interpreter back after a millisecond instead of five.

    Not always: at full load the journal's threads would take a tenth of what the event loop delivers.
    """
    global _switching  # noqa: PLW0603 - as the interval, it is the process's
    if not _switching:
        sys.setswitchinterval(_MASKING_SWITCH_SECONDS)
    _switching += 1
    try:
        yield
    finally:
        _switching -= 1
        if not _switching:
            sys.setswitchinterval(_SWITCH_SECONDS)


async def _room(share: Share, size: int, limit: int, deadline: asyncio.Timeout | None) -> None:
    now = asyncio.get_running_loop().time
    until = deadline.when() if deadline is not None else None
    if deadline is None or until is None:
        await share.grow(size, limit)
        return
    left = until - now()
    deadline.reschedule(until + _MAX_WAIT_FOR_ROOM)
    await share.grow(size, limit)
    deadline.reschedule(now() + left)


def _client(
    connections: int,
    resolver: AbstractResolver | None,
    loop_time: LoopTime,
    socket_factory: SocketFactoryType | None = None,
) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=connections, ttl_dns_cache=60, resolver=resolver, socket_factory=socket_factory
    )
    slice_connections(connector, loop_time)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "application/json", "User-Agent": "task-event-bridge"},
        timeout=_CONNECTING,
        # Browsers, curl and httpx take what the library's default of 8,190 bytes and 128 headers refuses:
        # a content security policy, the cookies of a gateway.
        max_line_size=_MAX_HEADER,
        max_field_size=_MAX_HEADER,
        max_headers=_MAX_HEADERS,
    )


@lru_cache(8192)  # about 10 MB when full; a watch requests the same URL again and again
def _url(base_url: str, path: str) -> tuple[URL, str]:
    # `encoded` keeps %2F in ids. Built from parts: parsing the whole URL takes three times as long.
    base = _base(base_url)
    path, _, query = path.partition("?")
    url = URL.build(
        scheme=base.scheme,
        authority=base.raw_authority,
        path=base.raw_path.rstrip("/") + path,
        query_string=query,
        encoded=True,
    )
    return url, str(url)


@lru_cache(256)
def _base(base_url: str) -> URL:
    return URL(base_url, encoded=True)


def _too_large(response: aiohttp.ClientResponse, limit: int) -> UnreadablePayload:
    return UnreadablePayload(f"the response is larger than {limit} bytes", provider_status=response.status)


@contextmanager
def _body_of(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Raises what is wrong with a body with the status that came before it: the way to the provider works."""
    try:
        yield
    except aiohttp.ClientPayloadError as error:
        raise _broken(response, error) from error


def _broken(response: aiohttp.ClientResponse, error: aiohttp.ClientPayloadError) -> UpstreamUnavailable:
    undecodable = isinstance(error.__cause__, aiohttp.http_exceptions.ContentEncodingError)
    return UpstreamUnavailable(
        "the response cannot be decompressed" if undecodable else "the response was cut short",
        provider_status=response.status,
    )


_SWITCH_SECONDS = 0.005  # Python's default
_MASKING_SWITCH_SECONDS = 0.001
_switching = 0  # masking threads, of all upstreams

_PRIVATE = "not called: its address is private, and `private_hosts` does not list its host"
_LIBRARY_ERRORS = (TimeoutError, aiohttp.ClientError, OSError)


def _our_error(error: Exception) -> UpstreamUnavailable | UpstreamTimeout | UnreadablePayload:
    # Sentences of our own: the library's contain URLs, and URLs may contain secrets.
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamUnreachable("the upstream cannot be reached: no connection in time")
    if isinstance(error, TimeoutError):
        return UpstreamTimeout(TIMEOUT_SENTENCE)
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, PrivateAddress):
            return UpstreamUnreachable(_PRIVATE)
        return UpstreamUnreachable("the upstream cannot be reached")
    if isinstance(error, aiohttp.ClientResponseError):
        # Nothing that HTTP allows, or a header of more than 64 KiB; the status is the library's, not theirs.
        return UnreadablePayload("the response is not valid HTTP, or its headers are too large")
    return UpstreamUnavailable("the connection to the upstream was lost")
