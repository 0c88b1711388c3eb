"""`/proxy/{upstream}/...`: the provider's own calls under its own paths, and nothing else.

Rule 1: this is no open proxy. What is no call of the upstream's dialect is nowhere, and nobody is asked.
Rule 2: a look is everybody's. Only creates and cancels go to the provider one by one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bridge.auth.authenticator import Authenticator, Caller, TokenScope
from bridge.auth.origins import Origins
from bridge.core.task import TaskKey, check_task_id
from bridge.delivery.sse import EventStream, OverloadedResponse, head
from bridge.delivery.subscriptions import SubscribeRequest, Subscriptions
from bridge.dialects.base import ProxyMatch
from bridge.errors import (
    BridgeError,
    InvalidRequest,
    LimitExceeded,
    TaskNotFound,
    UnknownRoute,
    UnknownUpstream,
)
from bridge.sources.upstream import Upstream
from bridge.watchers.submitter import Submitter
from bridge.web import params
from bridge.web.limits.limits import Limits
from bridge.web.proxy.aliases import Aliases
from bridge.web.proxy.reads import ProxyReads
from bridge.web.proxy.responses import error_response
from bridge.web.proxy.writes import ProxyWrites
from bridge.wire.document import PLAIN
from bridge.wire.frames import Transport, Variant


@dataclass(frozen=True, slots=True)
class ProxyCall:
    """A request that is one of the provider's calls."""

    request: Request
    caller: Caller
    upstream: Upstream
    asked: ProxyMatch
    body: bytes

    @property
    def key(self) -> TaskKey:
        """The task it is about.

        Raises:
            InvalidRequest: Its id is not well-formed.
        """
        return TaskKey(self.upstream.name, check_task_id(self.asked.task_id or ""), self.upstream.account)


class ProxyRoutes:
    """Serves every upstream's own calls; a client changes only its base URL."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        submitter: Submitter,
        origins: Origins,
        limits: Limits,
        authenticator: Authenticator,
    ) -> None:
        self._subscriptions = subscriptions
        self._limits = limits
        self._authenticator = authenticator
        self._aliases = Aliases(subscriptions)
        self._looks = ProxyReads(subscriptions)
        self._creates = ProxyWrites(subscriptions, submitter, origins, limits, self._aliases)
        self._calls: Mapping[str, Callable[[ProxyCall], Awaitable[Response]]] = {
            "status": self._status,
            "alias": self._alias,
            "stream": self._stream,
            "submit": self._submit,
            "sync": self._sync,
            "cancel": self._cancel,
        }

    async def serve(self, request: Request) -> Response:
        """Any method under `/proxy/{upstream}/`.

        Raises:
            UnknownUpstream: There is none of that name.
            UnknownRoute: This is no call of that provider.
        """
        try:
            caller = await self._authenticator.authenticate(request)
            self._subscriptions.pool.upstream(request.path_params["upstream"])
            upstream = self._subscriptions.pool.upstream(request.path_params["upstream"], caller.account)
        except UnknownUpstream:
            raise
        except BridgeError as error:
            return error_response(error)
        method = "GET" if request.method == "HEAD" else request.method
        path, query = f"/{request.path_params['path']}", request.scope["query_string"].decode("latin-1")
        most = self._subscriptions.settings.max_submission_bytes
        body = b"" if method == "GET" else await params.body(request, most)
        try:
            asked = upstream.dialect.match(method, path, query, body)
        except InvalidRequest as error:
            return error_response(error)
        if asked is None:
            raise UnknownRoute("this is no call of that provider which the bridge knows")
        try:
            return await self._calls[asked.call](ProxyCall(request, caller, upstream, asked, body))
        except BridgeError as error:
            return error_response(error)

    async def _status(self, call: ProxyCall) -> Response:
        await self._authenticator.authorize(call.caller, TokenScope.READ, [call.key])
        return await self._looks.status(call.key)

    async def _alias(self, call: ProxyCall) -> Response:
        call.caller.authorize_search(call.upstream.name)
        try:
            key = await self._aliases.key(call.upstream, call.asked.alias or "")
        except TaskNotFound:
            call.caller.authorize_upstream(TokenScope.READ, call.upstream.name)
            raise
        await self._authenticator.authorize(call.caller, TokenScope.READ, [key])
        return await self._looks.status(key)

    async def _stream(self, call: ProxyCall) -> Response:
        await self._authenticator.authorize(call.caller, TokenScope.READ, [call.key])
        if call.request.method == "HEAD":
            return head(Transport.SSE)
        try:
            place = self._limits.stream(call.request)
            place.assign_to_caller(call.caller.name)
            place.follow(1)
        except LimitExceeded:
            return OverloadedResponse(self._subscriptions, Transport.SSE, Variant.PROVIDER)
        expires_at = self._authenticator.ends_at(call.caller)
        arrival = SubscribeRequest([call.key])
        return _ProviderStream(
            self._subscriptions, arrival, Transport.SSE, PLAIN, Variant.PROVIDER, expires_at=expires_at
        )

    async def _submit(self, call: ProxyCall) -> Response:
        call.caller.authorize_upstream(TokenScope.SUBMIT, call.upstream.name)
        return await self._creates.submit(call.request, call.caller, call.upstream, call.asked, call.body)

    async def _sync(self, call: ProxyCall) -> Response:
        call.caller.authorize_upstream(TokenScope.SUBMIT, call.upstream.name)
        call.caller.authorize(TokenScope.READ)
        seconds = self._authenticator.lasts(call.caller, self._subscriptions.settings.sync_wait_seconds)
        return await self._creates.sync(
            call.request, call.caller, call.upstream, call.asked, call.body, seconds=seconds
        )

    async def _cancel(self, call: ProxyCall) -> Response:
        await self._authenticator.authorize(call.caller, TokenScope.CANCEL, [call.key])
        return await self._creates.cancel(call.request, call.key)


class _ProviderStream(EventStream):
    """The provider's own stream: its documents, and its errors before the first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        try:
            await super().__call__(scope, receive, send)
        except BridgeError as error:
            await error_response(error)(scope, receive, send)
