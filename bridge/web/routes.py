"""The whole URL table on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from bridge.auth.authenticator import Authenticator
from bridge.auth.origins import Origins
from bridge.auth.tickets import Tickets
from bridge.delivery.handoff import ConnectionHandoff
from bridge.delivery.subscriptions import Subscriptions
from bridge.telemetry.metrics import Metrics
from bridge.watchers.submitter import Submitter
from bridge.web.callbacks import CallbackRoutes
from bridge.web.health import HealthRoutes
from bridge.web.inspector import InspectorRoutes
from bridge.web.limits.limits import Limits
from bridge.web.middleware.raw_path import RawPathMiddleware
from bridge.web.middleware.request_id import RequestIdMiddleware
from bridge.web.problems import HANDLERS
from bridge.web.proxy.routes import ProxyRoutes
from bridge.web.static_files import ApiDocuments, BrowserHelper
from bridge.web.streams import StreamRoutes
from bridge.web.submit import SubmitRoutes
from bridge.web.tasks import TaskRoutes, TicketRoutes

PROXIED = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What stands behind the routes.

    Args:
        operators: How those are known who ask for metrics.
        tickets: None where the bridge gives out none.
        inspector: None where the operator wants no page.
    """

    subscriptions: Subscriptions
    submitter: Submitter
    metrics: Metrics
    origins: Origins
    limits: Limits
    authenticator: Authenticator
    operators: Authenticator
    tickets: Tickets | None
    inspector: InspectorRoutes | None


def routes(rooms: Services, *, operations_apart: bool = False) -> list[Route | WebSocketRoute]:
    """Every path the bridge answers.

    Args:
        operations_apart: Leave out what `make_operations_app` serves at an address of its own.
    """
    subscriptions, origins, limits, authenticator = (
        rooms.subscriptions,
        rooms.origins,
        rooms.limits,
        rooms.authenticator,
    )
    tasks, streams = (
        TaskRoutes(subscriptions, limits, authenticator),
        StreamRoutes(subscriptions, origins, limits, authenticator),
    )
    submit = SubmitRoutes(subscriptions, rooms.submitter, origins, limits, authenticator)
    proxy = ProxyRoutes(subscriptions, rooms.submitter, origins, limits, authenticator)
    issue = TicketRoutes(subscriptions, authenticator, rooms.tickets)
    callbacks, health = (
        CallbackRoutes(subscriptions),
        HealthRoutes(subscriptions, rooms.metrics, rooms.operators),
    )
    return [
        Route("/v1/tasks/{upstream}/{task_id:encoded}/events", streams.of_task),
        Route("/v1/tasks/{upstream}/{task_id:encoded}/cancel", submit.cancel, methods=["POST"]),
        Route("/v1/tasks/{upstream}/{task_id:encoded}", tasks.state),
        Route("/v1/tasks/{upstream}", submit.submit, methods=["POST"]),
        Route("/v1/events", streams.of_tasks, methods=["GET", "POST"]),
        WebSocketRoute("/v1/ws", streams.websocket),
        Route("/v1/aliases/{upstream}/{alias:encoded}", tasks.by_alias),
        Route("/v1/tickets", issue.issue, methods=["POST"]),
        Route("/v1/callbacks/{upstream}/{secret:encoded}", callbacks.receive, methods=["POST"]),
        Route("/proxy/{upstream}/{path:path}", proxy.serve, methods=PROXIED),
        *_inspector(rooms.inspector),
        *_browser_helper(),
        *_probes(health),
        *([] if operations_apart else _operations(health)),
    ]


def make_app(rooms: Services, *, operations_apart: bool = False) -> ASGIApp:
    """The routes, behind the layers every request passes."""
    served = routes(rooms, operations_apart=operations_apart)
    return ConnectionHandoff(
        RequestIdMiddleware(RawPathMiddleware(rooms.origins.guard(_app(served))), rooms.subscriptions.clock)
    )


def make_operations_app(rooms: Services) -> ASGIApp:
    """What operators and their machines ask, and nothing else: no page of anybody's has business there."""
    health = HealthRoutes(rooms.subscriptions, rooms.metrics, rooms.operators)
    return RequestIdMiddleware(_app([*_probes(health), *_operations(health)]), rooms.subscriptions.clock)


def _probes(health: HealthRoutes) -> list[Route]:
    return [Route("/livez", health.live), Route("/readyz", health.ready)]


def _operations(health: HealthRoutes) -> list[Route]:
    documents = ApiDocuments()
    return [
        Route("/status", health.status),
        Route("/metrics", health.metrics),
        Route("/openapi.yaml", documents.openapi.serve),
        Route("/asyncapi.yaml", documents.asyncapi.serve),
        Route("/state.schema.json", documents.state_schema.serve),
    ]


def _browser_helper() -> list[Route]:
    helper = BrowserHelper()
    return [Route("/bridge.js", helper.module.serve), Route("/bridge.d.ts", helper.types.serve)]


def _inspector(inspector: InspectorRoutes | None) -> list[Route]:
    if inspector is None:
        return []
    return [
        Route("/", inspector.page.serve),
        Route("/inspector/tasks", inspector.tasks),
        Route("/inspector/pulse", inspector.pulse),
        Route("/inspector/{name}", inspector.files.serve),
    ]


def _app(served: Sequence[Route | WebSocketRoute]) -> Starlette:
    app = Starlette(routes=served, exception_handlers=HANDLERS)
    app.router.redirect_slashes = False  # the framework would send people to whatever `Host` they named
    return app
