"""Reads the file of a result from where the provider has it, streamed, and trusts nothing of the response.

Rule 1: the provider's key goes to the provider's own hosts, for paths that the dialect names, and ends with
        the first redirect to elsewhere. A link of a result is the provider's word, and some of it is a
        client's: without the paths, a link in a prompt could read the account with the operator's key.
Rule 2: what comes is a file, a part of it as it was asked for, or an error. Nothing is passed on unchecked.
Rule 3: never whole in memory: while its reader does not read on, nothing more is read from the provider.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from yarl import URL

from bridge.core.secrets import MASK
from bridge.core.task import Output, TaskKey
from bridge.dialects.base import Request
from bridge.dialects.retry import retry_after
from bridge.errors import (
    Forbidden,
    InvalidRequest,
    UpstreamBusy,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from bridge.outputs.media_type import SNIFFED_BYTES
from bridge.outputs.ranges import ENTITY_TAG, HTTP_DATE, ByteRange, asked_range
from bridge.sources.outbound import OutboundClient, OutboundError, OutboundFailure, OutboundResponse
from bridge.sources.upstream import Upstream

HEAD_SECONDS = 30.0
IDLE_SECONDS = 60.0
CONDITIONS = ("range", "if-range", "if-none-match", "if-modified-since")
"""What a reader may ask with; everything else it sends is not for the provider."""

EXPIRED = frozenset({401, 403, 404, 410})
"""What servers answer to a link that has expired, or never was for us."""

# The last is how it was uploaded: some buckets repeat it, and send the file as it is.
_AS_IT_IS = frozenset({"", "identity", "aws-chunked"})
_NO_HEADERS: Mapping[str, str] = {}
_MAX_CONDITION = 1024
_MAX_TYPE = 100
_CONTENT_RANGE = re.compile(r"bytes (?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})/(?P<size>[0-9]{1,18}|\*)")
_NO_SUCH_RANGE = re.compile(r"bytes \*/[0-9]{1,18}")
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")
_PRINTABLE = re.compile(r"[\x20-\x7e]+")


@dataclass(slots=True, eq=False)
class OutputFile:
    """A file that is being read, or a part of it.

    Args:
        status: 200, 206, 304 or 416.
        headers: Those that were checked, with lower-case names: `content-type` (without parameters),
            `content-length`, `content-range`, `accept-ranges`, `etag`, `last-modified`.
        length: How many bytes will come; None where it is not known.
    """

    status: int
    headers: Mapping[str, str]
    length: int | None
    _parts: AsyncIterator[bytes] = field(repr=False)
    _first: bytes = field(default=b"", init=False, repr=False)

    async def head(self) -> bytes:
        """The first bytes, `SNIFFED_BYTES` at least unless there are fewer; `chunks` brings them again.

        Raises:
            UpstreamError: As `chunks`.
        """
        while len(self._first) < SNIFFED_BYTES:
            part = await anext(self._parts, None)
            if part is None:
                break
            self._first += part
        return self._first

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, once; an iteration that ends without an error has brought all of them.

        Backpressure: what is not taken is not read from the provider.

        Raises:
            UpstreamUnavailable: The file was cut short.
            UpstreamTimeout: Nothing arrived for too long.
        """
        first, self._first = self._first, b""
        if first:
            yield first
        async for part in self._parts:
            yield part


class OutputSource:
    """Opens files of results.

    Args:
        client: Behind the guard, at every hop.
        head_seconds: How long a provider may take until the first byte, all redirects included.
        idle_seconds: How long it may send nothing in the middle of a file.
    """

    def __init__(
        self,
        client: OutboundClient,
        *,
        head_seconds: float = HEAD_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._client = client
        self._head_seconds = head_seconds
        self._idle_seconds = idle_seconds

    @asynccontextmanager
    async def open(
        self,
        upstream: Upstream,
        key: TaskKey,
        output: Output,
        *,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> AsyncIterator[OutputFile]:
        """Open the file of a result.

        Args:
            upstream: As the account of the task sees it.
            headers: What the reader asks with (`CONDITIONS`), by lower-case names; others are left out, and
                so is what is malformed.

        Raises:
            UpstreamRefused: The link has expired or is refused (`provider_status` is one of `EXPIRED`), leads
                where the bridge calls nothing, or what came does not answer the request.
            UpstreamUnavailable: The provider cannot be reached, or is failing.
            UpstreamTimeout: It did not respond in time.
        """
        async with self._fetch(upstream, self._way(upstream, key, output), headers) as file:
            yield file

    @asynccontextmanager
    async def call(
        self, upstream: Upstream, request: Request, *, headers: Mapping[str, str] = _NO_HEADERS
    ) -> AsyncIterator[OutputFile]:
        """Open the file that a call of the provider downloads; as `open`."""
        async with self._fetch(upstream, _way_of(upstream, request), headers) as file:
            yield file

    def can_read(self, upstream: Upstream, key: TaskKey, output: Output) -> bool:
        """Whether there is a link, or a call that brings the file."""
        return output.url is not None or _file_request(upstream, key, output) is not None

    def _way(self, upstream: Upstream, key: TaskKey, output: Output) -> _Way:
        request = _file_request(upstream, key, output)
        if output.url is None:
            if request is None:
                raise UpstreamRefused("the provider gives no link to this file")
            return _way_of(upstream, request)
        url = self._checked(upstream, _without_masks(output.url))
        own_call = URL(upstream.session.url_of(request), encoded=True) if request is not None else None
        by_call = own_call is not None and own_call.with_query(None) == url.with_query(None)
        if by_call or upstream.dialect.file_needs_key(url.raw_path):
            return _Way(str(url), upstream.session.credential_for(url))
        return _Way(str(url))

    def _checked(self, upstream: Upstream, url: str) -> URL:
        """The URL as it is to be called.

        Raises:
            UpstreamRefused: It is not one that the bridge calls.
        """
        try:
            parsed = URL(url, encoded=True)
            if parsed.origin() == upstream.session.origin:
                return parsed
            if parsed.scheme == "http" and parsed.explicit_port in (None, 80):
                # Some providers still write `http://`; all of their hosts speak TLS.
                with suppress(Forbidden):
                    return self._client.check_url(url)
                return self._client.check_url(str(parsed.with_scheme("https")))
            return self._client.check_url(url)
        except (Forbidden, InvalidRequest, ValueError) as error:
            sentence = "it cannot be read" if isinstance(error, ValueError) else str(error)
            raise UpstreamRefused(f"the link of this file is not called: {sentence}") from None

    @asynccontextmanager
    async def _fetch(
        self, upstream: Upstream, way: _Way, headers: Mapping[str, str]
    ) -> AsyncIterator[OutputFile]:
        conditions = _Conditions.of(headers)
        try:
            async with self._client.follow(
                way.url,
                headers=conditions.headers,
                credential=way.credential,
                own=upstream.session.origin,
                timeout_seconds=self._head_seconds,
                idle_seconds=self._idle_seconds,
            ) as response:
                yield _file(upstream, response, conditions)
        except OutboundError as error:
            raise _our_error(error) from None


class _Way(NamedTuple):
    """How a file is reached."""

    url: str
    credential: Mapping[str, str] = _NO_HEADERS


class _Conditions(NamedTuple):
    """What the provider is asked for, beside the file."""

    headers: Mapping[str, str]
    range: ByteRange | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> _Conditions:
        """What of the reader's headers is passed on."""
        sent: dict[str, str] = {}
        for name in ("if-none-match", "if-modified-since"):
            value = headers.get(name, "")
            if len(value) <= _MAX_CONDITION and _PRINTABLE.fullmatch(value):
                sent[name] = value
        byte_range = asked_range(headers)
        if byte_range is not None:
            sent["range"] = str(byte_range)
            if byte_range.condition is not None:
                sent["if-range"] = byte_range.condition
        return cls(sent, byte_range)


def _file(upstream: Upstream, response: OutboundResponse, conditions: _Conditions) -> OutputFile:
    """The file in a response.

    Raises:
        UpstreamError: There is none, or not the one that was asked for.
    """
    sent = response.headers
    _check_status(response, conditions)
    encoding = sent.get("content-encoding", "").strip().lower()
    if encoding not in _AS_IT_IS and response.status in (200, 206):
        raise UpstreamRefused("the provider sends the file compressed, which it was not asked for")
    stated = {
        "content-type": _type_in(sent.get("content-type", "")),
        "etag": _if_whole(ENTITY_TAG, sent.get("etag", "")),
        "last-modified": _if_whole(HTTP_DATE, sent.get("last-modified", "")),
    }
    # What quotes the key is left out.
    hide = upstream.session.hide
    headers = {
        name: value for name, value in stated.items() if value and hide(value.encode()) == value.encode()
    }
    if response.status == 304:
        return OutputFile(304, headers, 0, _nothing())
    content_range = sent.get("content-range", "").strip()
    if response.status == 416:
        if _NO_SUCH_RANGE.fullmatch(content_range):
            headers["content-range"] = content_range
        return OutputFile(416, headers, 0, _nothing())
    length = None if "transfer-encoding" in sent else _number_in(sent.get("content-length", ""))
    if response.status == 206:
        length = _length_of_part(content_range, length, conditions)
        condition = conditions.range.condition if conditions.range is not None else None
        if condition is not None and condition[0] == '"' and headers.get("etag", condition) != condition:
            raise UpstreamRefused("the provider sent a part of another version of the file")
        headers["content-range"] = content_range
    if response.status == 206 or sent.get("accept-ranges", "").strip().lower() == "bytes":
        headers["accept-ranges"] = "bytes"
    if length is not None:
        headers["content-length"] = str(length)
    return OutputFile(response.status, headers, length, _counted(response, length))


def _check_status(response: OutboundResponse, conditions: _Conditions) -> None:
    status = response.status
    if status == 200 or (status in (206, 416) and conditions.range is not None):
        return
    if status == 304 and not conditions.headers.keys().isdisjoint(("if-none-match", "if-modified-since")):
        return
    after = retry_after(response.headers)
    if status in EXPIRED:
        raise UpstreamRefused(
            f"the link of this file has expired or is refused: the answer was {status}",
            provider_status=status,
        )
    if status == 429 or (status == 503 and after is not None):
        raise UpstreamBusy(
            "the server of this file is rate limiting the bridge", retry_after=after, provider_status=status
        )
    if status >= 500:
        raise UpstreamUnavailable(f"the server of this file answered {status}", provider_status=status)
    raise UpstreamRefused(f"the server of this file answered {status}", provider_status=status)


def _length_of_part(content_range: str, length: int | None, conditions: _Conditions) -> int:
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None:
        raise UpstreamRefused("the provider sent a part of the file without saying which")
    first, last = int(match["first"]), int(match["last"])
    size = None if match["size"] == "*" else int(match["size"])
    if conditions.range is None or not conditions.range.is_answered_by(first, last, size):
        raise UpstreamRefused("the provider sent another part of the file than it was asked for")
    if length not in (None, last - first + 1):
        raise UpstreamRefused("the provider contradicts itself about the length of the file")
    return last - first + 1


async def _counted(response: OutboundResponse, length: int | None) -> AsyncIterator[bytes]:
    """The body, exactly as long as announced: what is more is cut off, what is less is an error.

    Raises:
        UpstreamError: It was cut short, or nothing arrived for too long.
    """
    left = length
    try:
        async for part in response.chunks():
            if left is None:
                yield part
                continue
            taken = part[:left]
            left -= len(taken)
            if taken:
                yield taken
            if not left:
                return
    except OutboundError as error:
        raise _our_error(error) from None
    if left:
        raise UpstreamUnavailable(_CUT, provider_status=response.status)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""  # what makes it a generator


def _way_of(upstream: Upstream, request: Request) -> _Way:
    url = upstream.session.url_of(request)
    return _Way(url, {**request.headers, **upstream.session.credential_for(URL(url, encoded=True))})


def _file_request(upstream: Upstream, key: TaskKey, output: Output) -> Request | None:
    try:
        return upstream.dialect.file_request(key.task_id, output.file_id)
    except InvalidRequest:  # the provider named a file that no call can ask for
        return None


def _without_masks(url: str) -> str:
    """The link without the parameters in which the provider's key was.

    Some providers and gateways write the caller's key into it. States never hold a key, only its mask; where
    the dialect names the path, the key goes into a header instead.
    """
    mask = MASK.decode()
    if mask not in url:
        return url
    before, mark, query = url.partition("?")
    kept = "&".join(pair for pair in query.split("&") if mask not in pair)
    return f"{before}{mark if kept else ''}{kept}"


def _type_in(text: str) -> str:
    name = text.partition(";")[0].strip().lower()
    return name if len(name) <= _MAX_TYPE and _TYPE.fullmatch(name) else ""


def _if_whole(pattern: re.Pattern[str], text: str) -> str:
    return text.strip() if pattern.fullmatch(text.strip()) else ""


def _number_in(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


_CUT = "the file was cut short"

_ERRORS: Mapping[OutboundFailure, type[UpstreamError]] = {
    OutboundFailure.REFUSED: UpstreamRefused,
    OutboundFailure.INVALID: UpstreamRefused,
    OutboundFailure.REDIRECTS: UpstreamRefused,
    OutboundFailure.UNREACHABLE: UpstreamUnreachable,
    OutboundFailure.CERTIFICATE: UpstreamUnreachable,
    OutboundFailure.LOST: UpstreamUnavailable,
    OutboundFailure.TIMEOUT: UpstreamTimeout,
}


def _our_error(error: OutboundError) -> UpstreamError:
    return _ERRORS[error.failure](f"the file cannot be read: {error}")
