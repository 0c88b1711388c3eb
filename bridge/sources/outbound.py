"""HTTP to where callers, receivers or providers point, behind the guard; and errors without their URLs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from io import BytesIO
from threading import Thread

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import SocketFactoryType
from yarl import URL

from bridge.core.loop_time import LoopTime
from bridge.errors import Forbidden, InvalidRequest
from bridge.sources.guard import PrivateAddress, check_url, may_be_private, private_hosts_of, public_socket
from bridge.sources.slices import SlicedConnection, slice_connections

MAX_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_HEADER = 64 * 1024
_MAX_HEADERS = 1024
_MAX_UNCHUNKED_BODY = 1024 * 1024
_LOOKUP_THREADS = 16
_IDLE_SECONDS = 4.0  # less than Node's servers keep a connection: a POST on one just closed would be lost
_NO_HEADERS: Mapping[str, str] = {}


class OutboundFailure(StrEnum):
    """Why a call brought no response, or not all of it."""

    REFUSED = "refused"  # by the guard; nothing was sent
    UNREACHABLE = "unreachable"  # no connection was made
    CERTIFICATE = "certificate"
    TIMEOUT = "timeout"
    LOST = "lost"  # the connection broke
    INVALID = "invalid"  # what came is not HTTP
    REDIRECTS = "redirects"  # more than five


_SENTENCES = {
    OutboundFailure.REFUSED: "not called: its address is private, and `private_hosts` does not list its host",
    OutboundFailure.UNREACHABLE: "no connection could be made",
    OutboundFailure.CERTIFICATE: "its certificate cannot be verified",
    OutboundFailure.TIMEOUT: "it did not respond in time",
    OutboundFailure.LOST: "the connection was lost",
    OutboundFailure.INVALID: "its response is not valid HTTP, or its headers are too large",
    OutboundFailure.REDIRECTS: f"it redirects more than {MAX_REDIRECTS} times",
}


class OutboundError(Exception):
    """A call failed; the message contains neither the URL nor what was sent.

    Attributes:
        failure: Which kind, for labels and decisions.
    """

    def __init__(self, failure: OutboundFailure, message: str = "") -> None:
        super().__init__(message or _SENTENCES[failure])
        self.failure = failure


@dataclass(frozen=True, slots=True)
class OutboundResponse:
    """A response whose body has not been read; the connection is given back when the call's block ends.

    Args:
        url: Where it came from, after redirects.
        headers: Their names in any case.
        idle_seconds: How long to wait for each part of the body; None for no limit but that of the call.
    """

    status: int
    headers: Mapping[str, str]
    url: str
    raw: aiohttp.ClientResponse
    idle_seconds: float | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, as it was sent: neither decompressed nor bounded.

        Backpressure: while the reader does not read on, at most 128 KiB are read from the connection; that
        time does not count as idle.

        Raises:
            OutboundError: It was cut short, or nothing arrived for `idle_seconds`.
        """
        connection = self.raw.connection
        protocol = connection.protocol if connection is not None else None
        turns = protocol.turns if isinstance(protocol, SlicedConnection) else None
        try:
            while True:
                async with asyncio.timeout(self.idle_seconds):
                    part = await self.raw.content.readany()
                if not part:
                    break
                yield part
                if turns is not None:
                    await turns.pause()
        except (aiohttp.ClientError, OSError) as error:
            raise _our_error(error) from None

    async def read(self, limit: int) -> bytes:
        """The first `limit` bytes of the body. If there are more, the connection is closed, not read on.

        Raises:
            OutboundError: It was cut short before.
        """
        parts, size = [], 0
        async for part in self.chunks():
            parts.append(part)
            size += len(part)
            if size > limit:
                self.raw.close()
                break
        return b"".join(parts)[:limit]


class OutboundClient:
    """Calls URLs that others chose. Each is checked, and so is each address it is connected to.

    Without cookies, proxies and decompression; it follows redirects only in `follow`, and never retries.

    Args:
        private_hosts: The setting: hosts that may be at a private address and are called over `http://` too.
        connections_per_host: Maximum of open connections; 0 for no limit.
        loop_time: The time of the event loop for what others send, shared with the sessions of providers.
        resolver: Resolves names; by default the system's, in threads of its own: a name server that does not
            respond holds a thread, and the process's are for all.
    """

    def __init__(
        self,
        private_hosts: Iterable[str] = (),
        *,
        connections_per_host: int = 0,
        loop_time: LoopTime | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._private_hosts = private_hosts_of(private_hosts)
        self._per_host = connections_per_host
        self._loop_time = loop_time or LoopTime()
        self._resolver = resolver or _ThreadedResolver()
        # Two pools, because a connector does not know whether a host may be at a private address.
        self._public: aiohttp.ClientSession | None = None
        self._private: aiohttp.ClientSession | None = None

    def check_url(self, url: str) -> URL:
        """The URL as it is to be called.

        Raises:
            InvalidRequest: It is not an http(s) URL, or parsers disagree about its host.
            Forbidden: It leads inside, or is not encrypted, and `private_hosts` does not list its host.
        """
        return check_url(url, self._private_hosts)

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
        body: bytes | None = None,
        timeout_seconds: float,
    ) -> AsyncIterator[OutboundResponse]:
        """Send one request, once; a redirect is a response like any other.

        Args:
            timeout_seconds: For all of it: DNS, connecting, and what the block reads.

        Raises:
            OutboundError: No response came, the guard refuses the URL, or the block reached the timeout.
        """
        async with (
            _deadline(timeout_seconds),
            self._send(method, self._checked(url), headers, body) as response,
        ):
            yield response

    @asynccontextmanager
    async def follow(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] = _NO_HEADERS,
        credential: Mapping[str, str] = _NO_HEADERS,
        own: URL | None = None,
        timeout_seconds: float,
        idle_seconds: float | None = None,
    ) -> AsyncIterator[OutboundResponse]:
        """Send a request without a body, and again to where it is redirected, five times at most.

        Args:
            credential: Headers for the origin of `url` alone; once a redirect has left it, for none.
            own: An origin that the operator configured: it may be at a private address and without TLS. Once
                a redirect has left it, it is like any other.
            timeout_seconds: For all requests together, and what the block reads.
            idle_seconds: With it, `timeout_seconds` ends with the head of the last response, and each part of
                its body is waited for so long.

        Raises:
            OutboundError: As for `request`, for each hop; or one leads from https:// to http://.
        """
        target = self._checked(url, own)
        async with _deadline(timeout_seconds) as deadline:
            for _ in range(MAX_REDIRECTS + 1):
                is_own = own is not None and target.origin() == own
                async with self._send(
                    method, target, {**headers, **credential}, None, is_own=is_own
                ) as response:
                    location = response.headers.get("location")
                    if response.status not in _REDIRECTS or not location:
                        if idle_seconds is not None:
                            deadline.reschedule(None)
                        yield replace(response, idle_seconds=idle_seconds)
                        return
                own = own if is_own else None
                further = self._redirected(target, location, own)
                if further.origin() != target.origin():
                    credential = _NO_HEADERS
                target = further
        raise OutboundError(OutboundFailure.REDIRECTS)

    async def close(self) -> None:
        """Close all connections."""
        for session in (self._public, self._private):
            if session is not None:
                await session.close()
        await self._resolver.close()

    def _checked(self, url: str, own: URL | None = None) -> URL:
        try:
            if own is not None:
                with suppress(Forbidden):
                    parsed = check_url(url, private_hosts_of([own.raw_host or ""]))
                    if parsed.origin() == own:
                        return parsed
            return self.check_url(url)
        except (Forbidden, InvalidRequest) as error:
            raise OutboundError(OutboundFailure.REFUSED, str(error)) from None

    def _redirected(self, url: URL, location: str, own: URL | None) -> URL:
        try:
            # as it was sent: a signature may cover how it is encoded
            further = self._checked(str(url.join(URL(location, encoded=True))), own)
        except ValueError:
            raise OutboundError(OutboundFailure.REFUSED, "it redirects to an invalid URL") from None
        if url.scheme == "https" and further.scheme != "https":
            raise OutboundError(OutboundFailure.REFUSED, "it redirects from https:// to http://")
        return further

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        is_own: bool = False,
    ) -> AsyncIterator[OutboundResponse]:
        data: bytes | BytesIO | None = body
        if body is not None and len(body) > _MAX_UNCHUNKED_BODY:
            # In chunks: aiohttp would hand a large body over at once and hold the event loop meanwhile.
            data = BytesIO(body)
        try:
            response = await self._session_for(url, is_own=is_own).request(
                method, url, headers=headers, data=data, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise _our_error(error) from None
        async with response:
            yield OutboundResponse(response.status, response.headers, str(url), response)

    def _session_for(self, url: URL, *, is_own: bool) -> aiohttp.ClientSession:
        if is_own or may_be_private(url.raw_host or "", self._private_hosts):
            self._private = self._private or self._open(None)
            return self._private
        self._public = self._public or self._open(public_socket)
        return self._public

    def _open(self, socket_factory: SocketFactoryType | None) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=self._per_host,
            resolver=self._resolver,
            socket_factory=socket_factory,
            keepalive_timeout=_IDLE_SECONDS,
        )
        slice_connections(connector, self._loop_time)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "task-event-bridge", "Accept-Encoding": "identity"},
            skip_auto_headers=("Content-Type",),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            trust_env=False,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
            max_headers=_MAX_HEADERS,
        )


class _ThreadedResolver(AbstractResolver):
    """The system's resolver, in at most 16 threads of its own; the process ends without them."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_LOOKUP_THREADS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def settle(result: list[ResolveResult] | None, error: Exception | None) -> None:
            # Not before the thread has ended, although the request may have been given up long ago.
            self._free.release()
            if found.done():
                return
            if error is not None:
                found.set_exception(error)
            else:
                found.set_result(result or [])

        def run() -> None:
            outcome: tuple[list[ResolveResult] | None, Exception | None]
            try:
                outcome = _look_up(host, port, family), None
            except (OSError, ValueError) as error:
                outcome = None, error
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(settle, *outcome)

        await self._free.acquire()
        Thread(target=run, name="dns", daemon=True).start()
        return await found

    async def close(self) -> None:
        """Nothing to close: a thread ends with its request."""


def _look_up(host: str, port: int, family: int) -> list[ResolveResult]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=port,
            family=kind,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, protocol, _, address in found
    ]


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[asyncio.Timeout]:
    try:
        async with asyncio.timeout(seconds) as deadline:
            yield deadline
    except TimeoutError:
        if deadline.expired():
            raise OutboundError(OutboundFailure.TIMEOUT) from None
        raise


# The first that fits: a certificate's error is a connector's, too.
_KINDS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], OutboundFailure], ...] = (
    ((aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError), OutboundFailure.CERTIFICATE),
    ((aiohttp.ClientConnectorError, aiohttp.InvalidURL), OutboundFailure.UNREACHABLE),
    (TimeoutError, OutboundFailure.TIMEOUT),
    (aiohttp.ClientResponseError, OutboundFailure.INVALID),
)


def _our_error(error: Exception) -> OutboundError:
    # Sentences of our own: the library's contain URLs, and URLs may contain secrets.
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, PrivateAddress):
        return OutboundError(OutboundFailure.REFUSED)
    for kind, failure in _KINDS:
        if isinstance(error, kind):
            return OutboundError(failure)
    if isinstance(error, ValueError):
        return OutboundError(OutboundFailure.REFUSED, "a header or the URL cannot be sent")
    return OutboundError(OutboundFailure.LOST)
