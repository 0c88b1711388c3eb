"""Where providers call in."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from bridge.delivery.subscriptions import Subscriptions
from bridge.errors import Forbidden, Unauthenticated
from bridge.sources.upstream import Upstream
from bridge.sources.webhook import CallbackResult, take
from bridge.web import params


class CallbackRoutes:
    """`POST /v1/callbacks/{upstream}/{secret}`: never believed, at most a reason to look."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions

    async def receive(self, request: Request) -> Response:
        """Look at the task it names, if the secret is right and the task is watched."""
        pool = self._subscriptions.pool
        upstream = pool.upstream(request.path_params["upstream"])
        body = await params.body(request, self._subscriptions.settings.max_body_bytes)
        secret = request.path_params["secret"]
        taken = await take(
            upstream,
            secret,
            request.headers,
            body,
            poll_now=pool.poll_now,
            seen_by=partial(self._seen_by, upstream.name),
        )
        if taken.result is CallbackResult.FORGED:
            raise Forbidden("this is no callback of that upstream: its address or its signature is wrong")
        return Response(taken.reply or b"{}", media_type="application/json")

    def _seen_by(self, name: str, account: str) -> Upstream | None:
        try:
            return self._subscriptions.pool.upstream(name, account)
        except Unauthenticated:
            return None
