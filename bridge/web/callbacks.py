"""Callbacks of the providers."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from bridge.errors import Forbidden, Unauthenticated
from bridge.sources.callback import CallbackResult, is_addressed, take
from bridge.sources.upstream import Upstream
from bridge.web.services import Services

FORGED_SENTENCE = "invalid callback: its address or its signature is wrong"


class CallbackRoutes:
    """`POST /v1/callbacks/{upstream}/{secret}`: never trusted, at most a reason to poll now."""

    def __init__(self, services: Services) -> None:
        self._pool = services.pool
        self._settings = services.settings
        self._limits = services.limits

    async def receive(self, request: Request) -> Response:
        """Poll the task the callback names, if the secret is right and the task is watched."""
        upstream = self._pool.upstream(request.path_params["upstream"])
        secret = request.path_params["secret"]
        if not is_addressed(upstream, secret):
            # before the body is read: an unauthenticated client must not fill the memory
            raise Forbidden(FORGED_SENTENCE)
        outcome = await take(
            upstream,
            secret,
            request.headers,
            await self._limits.read_body(request, self._settings.max_body_bytes),
            called_back=self._pool.called_back,
            seen_by=partial(self._upstream_of, upstream.name),
        )
        if outcome.result is CallbackResult.FORGED:
            raise Forbidden(FORGED_SENTENCE)
        return Response(outcome.reply or b"{}", media_type="application/json")

    def _upstream_of(self, name: str, account: str) -> Upstream | None:
        try:
            return self._pool.upstream(name, account)
        except Unauthenticated:  # the key was evicted: the account has no watch to poll
            return None
