"""`/proxy/{upstream}/...`: the provider's own calls under its own paths, a reverse proxy for them.

Rule 1: this is not an open proxy. A request that is not a call of the upstream's dialect gets 404, and
        nothing is sent.
Rule 2: status calls are shared. Only submit and cancel calls are forwarded one by one.
Rule 3: a header with which a client names the address it would call (fal) stands for a path, and decides no
        more than that: its host is compared, and never called.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bridge.auth.caller import Caller, TokenScope
from bridge.core.task import TaskKey, check_id
from bridge.delivery.sse import EventStream, OverloadedResponse, head
from bridge.delivery.subscriptions import SubscribeRequest, Subscriptions
from bridge.dialects.proxied import ProxyRules, Target
from bridge.errors import BridgeError, InvalidRequest, LimitExceeded, UnknownRoute
from bridge.outputs.names import object_name
from bridge.outputs.stored import open_stored
from bridge.sources.upstream import Upstream
from bridge.web import params
from bridge.web.idempotency import IdempotentSubmits
from bridge.web.outputs import FileOrigin, OutputResponses, RequestedFile, safe_filename
from bridge.web.proxy.aliases import Aliases
from bridge.web.proxy.files import ResultFiles
from bridge.web.proxy.links import Answers
from bridge.web.proxy.reads import ProxyReads
from bridge.web.proxy.responses import error_response
from bridge.web.proxy.results import ProxyResults
from bridge.web.proxy.writes import ProxyCall, ProxyWrites
from bridge.web.services import Services
from bridge.web.tasks import NewWatches
from bridge.wire.formats import EventShape, ProviderEventsFormat, ProviderFormat
from bridge.wire.frames import Format

_NUMBER = re.compile(r"-?[0-9]{1,15}")
READS = frozenset({"status", "alias", "follow_up"})


class ProxyRoutes:
    """Serves the calls of every upstream; a client changes only its base URL."""

    def __init__(
        self, services: Services, aliases: Aliases, once: IdempotentSubmits, file_responses: OutputResponses
    ) -> None:
        self._settings = services.settings
        self._pool = services.pool
        self._subscriptions = services.subscriptions
        self._limits = services.limits
        self._authenticator = services.authenticator
        self._aliases = aliases
        self._new_watches = NewWatches(services)
        self._files = ResultFiles()
        self._file_responses = file_responses
        self._source = services.output_source
        self._store = services.output_store
        self._reads = ProxyReads(services, self._files)
        self._results = ProxyResults(services, self._files)
        self._writes = ProxyWrites(services, aliases, self._reads, once)
        self._calls: Mapping[str, Callable[[ProxyCall], Awaitable[Response]]] = {
            "status": self._status,
            "alias": self._alias,
            "stream": self._stream,
            "follow_up": self._result,
            "file": self._file,
            "submit": self._submit,
            "sync": self._sync,
            "cancel": self._cancel,
        }

    async def serve(self, request: Request) -> Response:
        """Any method under `/proxy/{upstream}/`; every error is in the format of the providers."""
        name = request.path_params["upstream"]
        configured = self._pool.upstreams.get(name)
        rules = configured.dialect.proxy if configured is not None else None
        try:
            caller = await self._authenticator.authenticate(request)
            upstream = self._pool.upstream(name, caller.account)
            return await self._serve(request, caller, upstream)
        except BridgeError as error:
            return error_response(error, rules=rules)

    async def _serve(self, request: Request, caller: Caller, upstream: Upstream) -> Response:
        method, dialect = "GET" if request.method == "HEAD" else request.method, upstream.dialect
        target = _target(request, dialect.proxy)
        body = (
            b""
            if method == "GET"
            else await self._limits.read_body(request, self._settings.max_submission_bytes)
        )
        refusal = dialect.proxy.refusal(method, target, body)
        if refusal is not None or target.host:
            raise UnknownRoute(refusal or _unsupported(upstream))
        query = dict(parse_qsl(target.query))
        answers = Answers.to(request, upstream, self._settings, details=dialect.proxy.asks_for_details(query))
        match = dialect.match(method, target.path, target.query, body)
        if match is None:
            passed = dialect.passed_request(method, target.path)
            if passed is None:
                meant = dialect.probable_path(method, target.path, target.query, body)
                advice = f"; did you mean /proxy/{upstream.name}{meant}?" if meant is not None else ""
                raise UnknownRoute(f"{_unsupported(upstream)}{advice}")
            caller.authorize_upstream(TokenScope.READ, upstream.name)
            response = await self._results.fetch(upstream, passed, answers)
        else:
            call = ProxyCall(request, caller, upstream, match, target, query, body, answers)
            response = await self._calls[match.call](call)
            if match.task_id is not None:
                response.headers.update(dialect.answer_headers(match.task_id))
        if match is None or match.call in READS:
            await self._limits.admit_document(request, caller.name, len(response.body))
        return response

    async def _status(self, call: ProxyCall) -> Response:
        # first: whether a read counts against the limits must not reveal which tasks exist
        await self._authenticator.check(call.caller, TokenScope.READ, [call.key])
        await self._new_watches.count(call.request, call.caller, call.key)
        await self._authenticator.verify([call.key])
        return await self._reads.status(call.key, call.answers)

    async def _result(self, call: ProxyCall) -> Response:
        key = self._results.task_of(call)
        if key is None:
            # It is not known which task the file belongs to.
            call.caller.authorize(TokenScope.READ)
            call.caller.authorize_missing(call.upstream.name)
            return await self._results.ask(call)
        await self._authenticator.authorize(call.caller, TokenScope.READ, [key])
        return await self._results.result(call, key)

    async def _file(self, call: ProxyCall) -> Response:
        upstream, dialect = call.upstream, call.upstream.dialect
        task_id, file_id = call.match.task_id, call.match.options.get("file_id")
        options = {name: value for name, value in call.query.items() if name in dialect.file_options}
        request = dialect.file_request(task_id, file_id, options)
        assert request is not None
        origins = [FileOrigin("provider", partial(self._source.call, upstream, request))]
        if task_id is not None:
            key = call.key
            await self._authenticator.authorize(call.caller, TokenScope.READ, [key])
            if self._store is not None and not options:
                # What the call brings is the task's one output.
                origins.append(FileOrigin("store", partial(open_stored, self._store, object_name(key, 0))))
        else:
            # It is not known which task the file belongs to.
            call.caller.authorize(TokenScope.READ)
            call.caller.authorize_missing(upstream.name)
            key = TaskKey(upstream.name, check_id(file_id or ""), upstream.account)
        filename = safe_filename(key, "-".join(options.values()) or 0)
        requested = RequestedFile(key, repr((key, request.path)), filename, None, origins)
        return await self._file_responses.respond(call.request, call.caller, requested)

    async def _alias(self, call: ProxyCall) -> Response:
        key = await self._key_of_alias(call)
        await self._authenticator.authorize(call.caller, TokenScope.READ, [key])
        return await self._reads.status(key, call.answers)

    async def _key_of_alias(self, call: ProxyCall) -> TaskKey:
        call.caller.authorize_search(call.upstream.name)
        self._limits.check_provider_call(call.request, call.caller.name)
        return await self._aliases.key(call.upstream, call.match.alias or "", call.caller)

    async def _stream(self, call: ProxyCall) -> Response:
        await self._authenticator.authorize(call.caller, TokenScope.READ, [call.key])
        if call.request.method == "HEAD":
            return head(ProviderFormat)
        fmt = _stream_format(call)
        try:
            slot = self._limits.open_stream(call.request)
            slot.assign_to_caller(call.caller.name)
            slot.subscribe(1)
        except LimitExceeded:
            return OverloadedResponse(self._subscriptions, fmt)
        return _ProviderStream(
            self._subscriptions,
            SubscribeRequest([call.key]),
            fmt,
            rules=call.upstream.dialect.proxy,
            expires_at=self._authenticator.ends_at(call.caller),
        )

    async def _submit(self, call: ProxyCall) -> Response:
        wait = params.preferred_wait(call.request.headers)
        if wait is None or call.upstream.dialect.proxy.wait_word is None:
            call.caller.authorize_submit(call.upstream.name)
            return await self._writes.submit(call)
        wait = min(wait, self._settings.sync_wait_seconds) if wait else self._settings.sync_wait_seconds
        return await self._sync(call, wait)

    async def _sync(self, call: ProxyCall, seconds: float | None = None) -> Response:
        call.caller.authorize_submit(call.upstream.name)
        call.caller.authorize(TokenScope.READ)
        seconds = self._settings.sync_wait_seconds if seconds is None else seconds
        seconds = self._authenticator.cap_wait(call.caller, seconds)
        return await self._writes.sync(call, seconds=seconds)

    async def _cancel(self, call: ProxyCall) -> Response:
        call.caller.authorize(TokenScope.CANCEL)
        self._limits.check_provider_call(call.request, call.caller.name)
        key = call.key if call.match.alias is None else await self._key_of_alias(call)
        await self._authenticator.authorize(call.caller, TokenScope.CANCEL, [key])
        return await self._writes.cancel(call, key)


def _target(request: Request, rules: ProxyRules) -> Target:
    """What follows the host in the address that the client would have called.

    Raises:
        InvalidRequest: It names an address in a header, and one that is not the provider's, or a path too.
    """
    path = f"/{request.path_params.get('path', '')}"
    values = request.headers.getlist(rules.target_header) if rules.target_header else []
    if not values and path == "/" and rules.target_header:
        raise InvalidRequest(f"send the provider's path below this one, or {rules.target_header}")
    if not values:
        return Target("", path, request.scope["query_string"].decode("latin-1"))
    if path != "/":
        raise InvalidRequest(
            f"{rules.target_header} is for requests to /proxy/{request.path_params['upstream']}"
        )
    return rules.target(values)


class _ProviderStream(EventStream):
    """A stream of the provider's documents; errors before the first are in the provider's format."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        request: SubscribeRequest,
        fmt: Format,
        *,
        rules: ProxyRules,
        expires_at: float | None,
    ) -> None:
        super().__init__(subscriptions, request, fmt, expires_at=expires_at)
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As `EventStream`, with errors in the format of the provider."""
        try:
            await super().__call__(scope, receive, send)
        except BridgeError as error:
            await error_response(error, rules=self._rules)(scope, receive, send)


def _unsupported(upstream: Upstream) -> str:
    return f"not a supported call of the upstream {upstream.name!r}"


def _stream_format(call: ProxyCall) -> ProviderFormat:
    """The format of a stream.

    Raises:
        InvalidRequest: The number after which it begins is malformed.
    """
    events = call.upstream.dialect.proxy.events
    if events is None:
        return ProviderFormat(call.answers.document)
    shape = EventShape(*events)
    after = call.query.get(shape.after)
    if after is not None and not _NUMBER.fullmatch(after):
        raise InvalidRequest(f"{shape.after} must be a whole number")
    return ProviderEventsFormat(
        call.answers.document, shape=shape, after=None if after is None else int(after)
    )
