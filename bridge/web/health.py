"""What operators and their machines ask: alive, ready, how it goes."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from bridge import __version__
from bridge.auth.authenticator import Authenticator, TokenScope
from bridge.delivery.subscriptions import Subscriptions
from bridge.sources.upstream import Upstream
from bridge.telemetry.exposition import scraped
from bridge.telemetry.metrics import Metrics
from bridge.wire.document import timestamp


class HealthRoutes:
    """The routes of contract section 7."""

    def __init__(self, subscriptions: Subscriptions, metrics: Metrics, authenticator: Authenticator) -> None:
        self._subscriptions = subscriptions
        self._metrics = metrics
        self._authenticator = authenticator
        self._since = subscriptions.clock.time()

    async def live(self, _request: Request) -> Response:
        """`GET /livez`: the process turns."""
        return _json({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """`GET /readyz`: it takes traffic. No provider's trouble changes that."""
        reasons = []
        if self._subscriptions.closed is not None:
            reasons.append(self._subscriptions.closed.value)
        if not self._subscriptions.journal.usable:
            reasons.append("journal")
        return _json({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def status(self, request: Request) -> Response:
        """`GET /status`: per upstream, what an operator wants to know first."""
        (await self._authenticator.authenticate(request)).authorize(TokenScope.ADMIN)
        return _json(
            {
                "version": __version__,
                "since": timestamp(self._since),
                "ready": self._subscriptions.closed is None and self._subscriptions.journal.usable,
                "journal": {
                    "epoch": self._subscriptions.journal.epoch,
                    "head": self._subscriptions.journal.head,
                },
                "connections": len(self._subscriptions.hub.subscriptions),
                "upstreams": {
                    name: self._upstream(one) for name, one in self._subscriptions.pool.upstreams.items()
                },
            }
        )

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`: Prometheus text, or OpenMetrics for who accepts it."""
        (await self._authenticator.authenticate(request)).authorize(TokenScope.ADMIN)
        text, content_type = await scraped(self._metrics, accept=request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    def _upstream(self, upstream: Upstream) -> dict[str, object]:
        health = upstream.health
        return {
            "state": health.state.value,
            "state_since": timestamp(health.since),
            "last_error": None
            if health.last_error is None
            else {"message": health.last_error, "at": timestamp(health.last_error_at)},
            **self._subscriptions.pool.statistics(upstream.name),
            "budget": upstream.limiter.statistics(self._subscriptions.clock.monotonic()),
            "run_times": upstream.run_times.statistics(),
        }


def _json(fields: dict[str, object], *, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(orjson.dumps(fields), status_code=status, headers=headers, media_type="application/json")
