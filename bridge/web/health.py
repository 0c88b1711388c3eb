"""Health checks and operations: `/livez`, `/readyz`, `/status` and `/metrics`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from bridge import __version__
from bridge.auth.caller import TokenScope
from bridge.errors import JournalError
from bridge.sources.upstream import Upstream
from bridge.telemetry.exposition import scraped
from bridge.web.services import Services
from bridge.web.spend import spend_of_callers
from bridge.web.workers import merged_status
from bridge.wire.document import timestamp
from bridge.wire.text import dumps


class HealthRoutes:
    """The routes of contract section 7."""

    def __init__(self, services: Services) -> None:
        self._subscriptions = services.subscriptions
        self._journal = services.journal
        self._hub = services.hub
        self._pool = services.pool
        self._clock = services.clock
        self._metrics = services.metrics
        self._certificate = services.certificate
        self._authenticator = services.operators
        self._workers = services.workers
        self._replaced = services.replaced
        self._replica = services.replica
        self._webhooks = services.webhooks
        self._copies = services.copies
        self._settings = services.settings
        self._spend = services.spend
        self._started_at = services.clock.time()

    async def live(self, _request: Request) -> Response:
        """`GET /livez`: 200 while the event loop runs."""
        return _json({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        """`GET /readyz`: whether the bridge accepts traffic; failing providers do not change that."""
        reasons = []
        if self._subscriptions.closed is not None and not self._replaced():
            reasons.append(self._subscriptions.closed.value)
        if not self._journal.usable:
            reasons.append("journal")
        return _json({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def status(self, request: Request) -> Response:
        """`GET /status`: the state of the bridge and of each upstream; with workers, of all of them."""
        (await self._authenticator.authenticate(request)).authorize(TokenScope.ADMIN)
        own = self.own_status() | await self._spent()
        return _json(own if self._workers is None else merged_status(own, await self._workers.statuses()))

    def own_status(self) -> dict[str, object]:
        """What `/status` says of this process."""
        return {
            "version": __version__,
            "since": timestamp(self._started_at),
            "ready": self._subscriptions.closed is None and self._journal.usable,
            "journal": {"epoch": self._journal.epoch, "head": self._journal.head},
            "connections": len(self._hub.subscriptions),
            "certificate": self._certificate_fields(),
            "webhooks": self._webhooks.status(),
            "outputs": self._copies.status() if self._copies is not None else None,
            "upstreams": {name: self._upstream(upstream) for name, upstream in self._pool.upstreams.items()},
            **self._shared(),
        }

    async def _spent(self) -> dict[str, object]:
        """What callers spent today, at whichever bridge; nothing where no upstream counts it."""
        if self._spend is None:
            return {}
        try:
            return {"spend": await spend_of_callers(self._spend)}
        except JournalError:
            return {"spend": None}  # the rest of the status matters most while the engine is away

    def _shared(self) -> dict[str, object]:
        """This process as one of several; nothing if it is alone."""
        replica = self._replica
        if replica is None:
            return {}
        connection = replica.connection
        return {
            "replica": connection.session,
            "engine": {
                "connected": connection.up,
                "epoch": connection.epoch,
                "lag_seconds": round(connection.lag_seconds(), 3),
            },
            "replicas": replica.others(),
        }

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`: Prometheus text, or OpenMetrics where the client accepts it; of all workers."""
        (await self._authenticator.authenticate(request)).authorize(TokenScope.ADMIN)
        metrics = self._metrics if self._workers is None else await self._workers.metrics()
        text, content_type = await scraped(metrics, accept=request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    def _certificate_fields(self) -> dict[str, object] | None:
        files = self._certificate
        if files is None:
            return None
        return {
            "names": list(files.current.names),
            "valid_from": timestamp(files.current.valid_from),
            "valid_until": timestamp(files.current.valid_until),
            "problem": files.problem,
        }

    def _status_many(self, upstream: Upstream) -> dict[str, object]:
        many = upstream.many
        return {} if many is None else {"status_many": many.statistics(self._clock.monotonic())}

    def _costs(self, upstream: Upstream) -> dict[str, object]:
        """What tasks cost since the start, of all callers."""
        costs, limit = upstream.costs, self._settings.upstreams[upstream.name].max_spend_per_caller_per_day
        return {
            "unit": upstream.dialect.cost_unit or None,
            "total": costs.total,
            "tasks": costs.tasks,
            "unreported": costs.unreported,
            "limit_per_caller_per_day": None if limit is None or limit == float("inf") else limit,
        }

    def _upstream(self, upstream: Upstream) -> dict[str, object]:
        health = upstream.health
        return {
            "state": health.state.value,
            "state_since": timestamp(health.since),
            "last_error": None
            if health.last_error is None
            else {"message": health.last_error, "at": timestamp(health.last_error_at)},
            **self._pool.statistics(upstream.name),
            "budget": upstream.limiter.statistics(self._clock.monotonic()),
            **(
                {}
                if upstream.many is None
                else {"status_many": upstream.many.statistics(self._clock.monotonic())}
            ),
            "costs": self._costs(upstream),
            **self._pool.pacing(upstream.name),
            # Callers' own keys teach them: one caller's models are not for another to read.
            "kinds": upstream.learned.statistics(names=self._settings.auth != "upstream-key"),
        }


def _json(fields: dict[str, object], *, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(dumps(fields), status_code=status, headers=headers, media_type="application/json")
