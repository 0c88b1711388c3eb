"""`/proxy/{upstream}/...`: the provider's own calls under its own paths, a reverse proxy for them.

Rule 1: this is not an open proxy. A request that is not a call of the upstream's dialect gets 404, and
        nothing is sent.
Rule 2: status calls are shared. Only submit and cancel calls are forwarded one by one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bridge.auth.caller import TokenScope
from bridge.core.task import TaskKey
from bridge.delivery.sse import EventStream, OverloadedResponse, head
from bridge.delivery.subscriptions import SubscribeRequest
from bridge.errors import BridgeError, LimitExceeded, UnknownRoute
from bridge.web.proxy.aliases import Aliases
from bridge.web.proxy.files import ResultFiles
from bridge.web.proxy.links import Answers
from bridge.web.proxy.reads import ProxyReads
from bridge.web.proxy.responses import error_response
from bridge.web.proxy.results import ProxyResults
from bridge.web.proxy.writes import ProxyCall, ProxyWrites
from bridge.web.services import Services
from bridge.web.tasks import NewWatches
from bridge.wire.formats import ProviderFormat

READS = frozenset({"status", "alias", "follow_up"})


class ProxyRoutes:
    """Serves the calls of every upstream; a client changes only its base URL."""

    def __init__(self, services: Services, aliases: Aliases) -> None:
        self._settings = services.settings
        self._pool = services.pool
        self._subscriptions = services.subscriptions
        self._limits = services.limits
        self._authenticator = services.authenticator
        self._aliases = aliases
        self._new_watches = NewWatches(services)
        self._files = ResultFiles()
        self._reads = ProxyReads(services, self._files)
        self._results = ProxyResults(services, self._files)
        self._writes = ProxyWrites(services, aliases)
        self._calls: Mapping[str, Callable[[ProxyCall], Awaitable[Response]]] = {
            "status": self._status,
            "alias": self._alias,
            "stream": self._stream,
            "follow_up": self._result,
            "submit": self._submit,
            "sync": self._sync,
            "cancel": self._cancel,
        }

    async def serve(self, request: Request) -> Response:
        """Any method under `/proxy/{upstream}/`; every error is in the format of the providers."""
        name = request.path_params["upstream"]
        method = "GET" if request.method == "HEAD" else request.method
        path, query = f"/{request.path_params['path']}", request.scope["query_string"].decode("latin-1")
        try:
            caller = await self._authenticator.authenticate(request)
            upstream = self._pool.upstream(name, caller.account)
            body = (
                b""
                if method == "GET"
                else await self._limits.read_body(request, self._settings.max_submission_bytes)
            )
            match = upstream.dialect.match(method, path, query, body)
            if match is None:
                raise UnknownRoute(f"not a supported call of the upstream {name!r}")
            answers = Answers.to(request, upstream, self._settings)
            call = ProxyCall(request, caller, upstream, match, body, answers)
            response = await self._calls[match.call](call)
            if match.call in READS:
                await self._limits.admit_document(request, caller.name, len(response.body))
        except BridgeError as error:
            return error_response(error)
        return response

    async def _status(self, call: ProxyCall) -> Response:
        await self._new_watches.count(call.request, call.caller, call.key)
        await self._authenticator.authorize(call.caller, TokenScope.READ, [call.key])
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
        fmt = ProviderFormat(call.answers.document)
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
            expires_at=self._authenticator.ends_at(call.caller),
        )

    async def _submit(self, call: ProxyCall) -> Response:
        call.caller.authorize_upstream(TokenScope.SUBMIT, call.upstream.name)
        return await self._writes.submit(call)

    async def _sync(self, call: ProxyCall) -> Response:
        call.caller.authorize_upstream(TokenScope.SUBMIT, call.upstream.name)
        call.caller.authorize(TokenScope.READ)
        seconds = self._authenticator.cap_wait(call.caller, self._settings.sync_wait_seconds)
        return await self._writes.sync(call, seconds=seconds)

    async def _cancel(self, call: ProxyCall) -> Response:
        call.caller.authorize(TokenScope.CANCEL)
        self._limits.check_provider_call(call.request, call.caller.name)
        key = call.key if call.match.alias is None else await self._key_of_alias(call)
        await self._authenticator.authorize(call.caller, TokenScope.CANCEL, [key])
        return await self._writes.cancel(call, key)


class _ProviderStream(EventStream):
    """A stream of the provider's documents; errors before the first are in the provider's format."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As `EventStream`, with errors in the format of the provider."""
        try:
            await super().__call__(scope, receive, send)
        except BridgeError as error:
            await error_response(error)(scope, receive, send)
