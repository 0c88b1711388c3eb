"""Where providers call in."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from bridge.delivery.subscriptions import Desk
from bridge.errors import Forbidden, Unauthenticated
from bridge.sources.upstream import Upstream
from bridge.sources.webhook import CallbackResult, take
from bridge.web import params


class Callbacks:
    """`POST /v1/callbacks/{upstream}/{secret}`: never believed, at most a reason to look."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def receive(self, request: Request) -> Response:
        """Look at the task it names, if the secret is right and the task is watched."""
        pool = self._desk.pool
        upstream = pool.upstream(request.path_params["upstream"])
        body = await params.body(request, self._desk.settings.max_body_bytes)
        secret = request.path_params["secret"]
        taken = await take(
            upstream,
            secret,
            request.headers,
            body,
            look_now=pool.look_now,
            seen_by=partial(self._seen_by, upstream.name),
        )
        if taken.result is CallbackResult.FORGED:
            raise Forbidden("this is no callback of that upstream: its address or its signature is wrong")
        return Response(taken.reply or b"{}", media_type="application/json")

    def _seen_by(self, name: str, account: str) -> Upstream | None:
        try:
            return self._desk.pool.upstream(name, account)
        except Unauthenticated:
            return None
