"""What operators and their machines ask: alive, ready, how it goes."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from bridge import __version__
from bridge.auth.authenticator import Callers, TokenScope
from bridge.delivery.subscriptions import Desk
from bridge.sources.upstream import Upstream
from bridge.telemetry.exposition import scraped
from bridge.telemetry.metrics import Metrics
from bridge.wire.document import timestamp


class Health:
    """The routes of contract section 7."""

    def __init__(self, desk: Desk, metrics: Metrics, callers: Callers) -> None:
        self._desk = desk
        self._metrics = metrics
        self._callers = callers
        self._since = desk.clock.wall()

    async def live(self, _request: Request) -> Response:
        """`GET /livez`: the process turns."""
        return _json({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """`GET /readyz`: it takes traffic. No provider's trouble changes that."""
        reasons = []
        if self._desk.closed is not None:
            reasons.append(self._desk.closed.value)
        if not self._desk.journal.usable:
            reasons.append("journal")
        return _json({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def status(self, request: Request) -> Response:
        """`GET /status`: per upstream, what an operator wants to know first."""
        (await self._callers.who(request)).permit(TokenScope.ADMIN)
        return _json(
            {
                "version": __version__,
                "since": timestamp(self._since),
                "ready": self._desk.closed is None and self._desk.journal.usable,
                "journal": {"epoch": self._desk.journal.epoch, "head": self._desk.journal.head},
                "connections": len(self._desk.hub.subscriptions),
                "upstreams": {name: self._upstream(one) for name, one in self._desk.pool.upstreams.items()},
            }
        )

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`: Prometheus text, or OpenMetrics for who accepts it."""
        (await self._callers.who(request)).permit(TokenScope.ADMIN)
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
            **self._desk.pool.statistics(upstream.name),
            "budget": upstream.budget.statistics(self._desk.clock.now()),
            "run_times": upstream.run_times.statistics(),
        }


def _json(fields: dict[str, object], *, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(orjson.dumps(fields), status_code=status, headers=headers, media_type="application/json")
