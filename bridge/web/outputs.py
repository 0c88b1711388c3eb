"""`GET /v1/tasks/{upstream}/{task_id}/outputs/{n}`: a file of a result, through the bridge.

Rule 1: it is served from the bridge's own origin. So it is a sandbox, and only what its bytes prove to be an
        image, a video or audio is shown; all else is saved.
Rule 2: before the first byte each failure is a problem document; after it, a broken connection.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from hashlib import blake2b
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.caller import Caller, TokenScope
from bridge.core.task import Output, TaskKey
from bridge.errors import (
    BridgeError,
    Conflict,
    UnknownOutput,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
)
from bridge.outputs.media_type import SNIFFED_BYTES, UNKNOWN, MediaType, media_type_of
from bridge.outputs.names import object_name
from bridge.outputs.source import CONDITIONS, OutputFile
from bridge.outputs.store import NotStored, StoreError
from bridge.outputs.stored import open_inline, open_stored
from bridge.web import params
from bridge.web.output_response import OutputResponse
from bridge.web.services import Services
from bridge.web.tasks import NewWatches

MAX_KNOWN_TYPES = 4096

HEADERS = {
    "Content-Security-Policy": "sandbox",
    "X-Content-Type-Options": "nosniff",
    # `no-transform`: a proxy that compresses or converts it would break ranges and lengths.
    "Cache-Control": "private, no-transform",
    "Referrer-Policy": "no-referrer",  # the URL may have a ticket
}

_NUMBER = re.compile(r"0|[1-9][0-9]{0,3}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_PASSED = ("last-modified", "accept-ranges", "content-range", "content-length")

Open = Callable[..., AbstractAsyncContextManager[OutputFile]]

logger = logging.getLogger(__name__)


class FileOrigin(NamedTuple):
    """A place where a file may be.

    Args:
        name: `provider`, `store` or `inline`, for the metrics.
        open: Takes `headers`.
    """

    name: str
    open: Open


class RequestedFile(NamedTuple):
    """A file that a client asks for.

    Args:
        key: Its task, for the log.
        name: What distinguishes it from all others, for its entity tag; never the same for two files.
        filename: For a client that saves it, without extension.
        kind: `image`, `video`, `audio` or `file`, where the state says it.
        origins: Where it may be, the best first; not empty.
    """

    key: TaskKey
    name: str
    filename: str
    kind: str | None
    origins: Sequence[FileOrigin]


class OutputRoutes:
    """The files of tasks."""

    def __init__(self, services: Services, files: OutputResponses) -> None:
        self._settings = services.settings
        self._pool = services.pool
        self._journal = services.journal
        self._authenticator = services.authenticator
        self._source = services.output_source
        self._store = services.output_store
        self._new_watches = NewWatches(services)
        self._files = files

    async def output(self, request: Request) -> Response:
        """One output of a task: `GET` and `HEAD`, whole or a range of it."""
        # A ticket too: `<video src>` sends no headers.
        caller = await self._authenticator.authenticate(request, ticket=True)
        key = params.path_key(self._pool, request, caller.account)
        await self._authenticator.check(caller, TokenScope.READ, [key])
        await self._new_watches.count(request, caller, key)
        await self._authenticator.verify([key])
        include = params.include(params.query(request))
        number, output = await self._find(key, request.path_params["n"])
        inline = output.url is None and output.data is not None
        has_copy = self._store is not None and output.stored_url is not None
        if inline and not include.data and not has_copy:
            raise Conflict("the provider sent this file inside its answer: ask with `include=data`")
        origins = [FileOrigin("inline", partial(open_inline, output))] if inline and include.data else []
        if not inline:
            upstream = self._pool.upstream(key.upstream, caller.account)
            origins.append(FileOrigin("provider", partial(self._source.open, upstream, key, output)))
        if self._store is not None:
            stored = FileOrigin("store", partial(open_stored, self._store, object_name(key, number)))
            # Without `stored_url`, another bridge may have copied it just now.
            origins.insert(0 if has_copy else len(origins), stored)
        return await self._files.respond(request, caller, _requested(key, number, output, origins))

    async def _find(self, key: TaskKey, text: str) -> tuple[int, Output]:
        """The output of that number, also of a task without a subscriber.

        Raises:
            UnknownOutput: The task has ended without it.
            Conflict: It has not ended.
            BridgeError: The provider shows no such task.
        """
        if not _NUMBER.fullmatch(text):
            raise UnknownOutput("outputs are numbered from 0")
        number, polled = int(text), None
        (event,) = await self._journal.latest([key])
        if event is None:
            polled = await self._pool.shown(key, seconds=self._settings.first_state_timeout_seconds)
            (event,) = await self._journal.latest([key])
        if event is not None and number < len(event.state.outputs):
            return number, event.state.outputs[number]
        if event is None and isinstance(polled, BridgeError):
            raise polled
        if event is None or not event.state.status.final:
            error = Conflict("the task has not ended")
            error.retryable = True
            raise error
        count = len(event.state.outputs)
        raise UnknownOutput(f"the task is {event.state.status.value} and has {count} outputs")


class OutputResponses:
    """Makes responses with files of any origin."""

    def __init__(self, services: Services) -> None:
        self._limits = services.limits
        self._metrics = services.metrics
        self._settings = services.settings
        self._types: OrderedDict[str, MediaType] = OrderedDict()

    async def respond(self, request: Request, caller: Caller, requested: RequestedFile) -> Response:
        """The file, the part of it that is requested for, or 304.

        Raises:
            LimitExceeded: Too many files are on their way, or the caller causes too many calls.
            UpstreamError: It is not available.
        """
        self._limits.open_file(request, caller.name)
        # Where the provider has no tag: a final state's output never becomes another file.
        own_tag = f'"{blake2b(requested.name.encode(), digest_size=12).hexdigest()}"'
        if _has(request, own_tag):
            return self._not_modified(requested, f"W/{own_tag}")
        if requested.origins[0].name == "provider":
            self._limits.check_provider_call(request, caller.name)
        headers = {name: value for name in CONDITIONS if (value := request.headers.get(name))}
        if request.method == "HEAD":
            # Ranges are for GET only. The provider gets a GET: a signed link is good for one method.
            headers.pop("range", None)
        async with AsyncExitStack() as opened:
            file, origin = await self._open_first(opened, requested, headers)
            tag = file.headers.get("etag", f"W/{own_tag}")
            if file.status == 304 or (file.status == 200 and _has(request, tag.removeprefix("W/"))):
                return self._not_modified(requested, tag)
            fields = HEADERS | {name.title(): file.headers[name] for name in _PASSED if name in file.headers}
            fields["ETag"] = tag
            if file.status != 416:
                media = await self._media_type(file, origin, requested)
                disposition = "inline" if media.shown else "attachment"
                fields["Content-Type"] = media.name
                fields["Content-Disposition"] = (
                    f'{disposition}; filename="{requested.filename}{media.extension}"'
                )
            return self._response(file, fields, opened.pop_all(), origin, requested)
        raise AssertionError  # the stack suppresses nothing

    async def _open_first(
        self, opened: AsyncExitStack, requested: RequestedFile, headers: Mapping[str, str]
    ) -> tuple[OutputFile, FileOrigin]:
        """Open it at the first origin that has it, and wait for its first bytes.

        Raises:
            UpstreamError: None has; the error of the provider.
        """
        failed: UpstreamError | None = None
        for origin in requested.origins:
            async with AsyncExitStack() as attempt:
                try:
                    file = await attempt.enter_async_context(origin.open(headers=headers))
                    await file.head()
                except NotStored:
                    continue
                except StoreError as error:
                    logger.warning("copy not read", extra=_fields(requested) | {"error": str(error)})
                    continue
                except UpstreamError as error:
                    failed = failed or error
                    continue
                opened.push_async_exit(attempt.pop_all())
                return file, origin
        failed = failed or UpstreamRefused("there is no copy of this file")
        self._count(requested, _result_of(failed))
        logger.info("file not read", extra=_fields(requested) | {"error": str(failed)})
        raise failed

    async def _media_type(self, file: OutputFile, origin: FileOrigin, requested: RequestedFile) -> MediaType:
        """What it is served as; for a part from the middle, what the beginning says."""
        head, declared = await file.head(), file.headers.get("content-type")
        part = file.headers.get("content-range", "")
        from_start = file.status == 200 or (part.startswith("bytes 0-") and len(head) >= SNIFFED_BYTES)
        if not from_start:
            known = self._types.get(requested.name)
            if known is not None:
                self._types.move_to_end(requested.name)
                return known
            try:
                async with origin.open(headers={"range": f"bytes=0-{SNIFFED_BYTES - 1}"}) as beginning:
                    head, declared = await beginning.head(), beginning.headers.get("content-type")
            except (UpstreamError, StoreError):
                return MediaType(UNKNOWN, "")
        media = media_type_of(head, declared, requested.kind)
        self._types[requested.name] = media
        if len(self._types) > MAX_KNOWN_TYPES:
            self._types.popitem(last=False)
        return media

    def _response(
        self,
        file: OutputFile,
        fields: Mapping[str, str],
        opened: AsyncExitStack,
        origin: FileOrigin,
        requested: RequestedFile,
    ) -> Response:
        sent = self._metrics.file_bytes.labels(requested.key.upstream, origin.name)

        def ended(error: UpstreamError | StoreError | None, whole: bool) -> None:
            if error is not None:
                logger.warning("file cut", extra=_fields(requested) | {"error": str(error)})
            self._count(requested, "sent" if whole else "left" if error is None else "cut")

        return OutputResponse(
            file.status,
            fields,
            file.chunks(),
            opened,
            sent=sent.inc,
            ended=ended,
            write_timeout_seconds=self._settings.write_timeout_seconds,
        )

    def _not_modified(self, requested: RequestedFile, tag: str) -> Response:
        self._count(requested, "not_modified")
        return Response(status_code=304, headers=HEADERS | {"ETag": tag})

    def _count(self, requested: RequestedFile, result: str) -> None:
        self._metrics.files.labels(requested.key.upstream, result).inc()


def _requested(key: TaskKey, number: int, output: Output, origins: Sequence[FileOrigin]) -> RequestedFile:
    # Without the query: signatures differ, and the file does not.
    link = (output.url or "").partition("?")[0]
    name = repr((key, number, link, output.file_id))
    return RequestedFile(key, name, safe_filename(key, number), output.type, origins)


def safe_filename(key: TaskKey, name: object) -> str:
    """A file name of our own: nothing of it is the provider's, except letters and digits of the task's id."""
    readable = _UNSAFE.sub("-", key.task_id)[-80:].strip("-.")
    return f"{key.upstream}-{readable or 'task'}-{name}"


def _has(request: Request, tag: str) -> bool:
    """Whether the client has the file of that tag; compared without regard to weakness, as for GET."""
    tags = request.headers.get("if-none-match", "").split(",")
    return tag in (one.strip().removeprefix("W/") for one in tags)


def _fields(requested: RequestedFile) -> dict[str, object]:
    return {"upstream": requested.key.upstream, "task": requested.key.ref}


def _result_of(error: UpstreamError) -> str:
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    return "refused" if isinstance(error, UpstreamRefused) else "unavailable"
