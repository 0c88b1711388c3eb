"""The URL table, and the middleware in front of it."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from bridge.delivery.handoff import ConnectionHandoff
from bridge.dialects.proxied import header_names
from bridge.web.callbacks import CallbackRoutes
from bridge.web.documents import document_routes
from bridge.web.health import HealthRoutes
from bridge.web.inspector import InspectorRoutes
from bridge.web.middleware.cors import add_cors
from bridge.web.middleware.raw_path import RawPathMiddleware
from bridge.web.middleware.request_id import RequestIdMiddleware
from bridge.web.problems import HANDLERS
from bridge.web.proxy.aliases import Aliases
from bridge.web.proxy.routes import ProxyRoutes
from bridge.web.services import Services
from bridge.web.static_files import StaticFile
from bridge.web.streams import StreamRoutes
from bridge.web.submit import SubmitRoutes
from bridge.web.tasks import TaskRoutes, TicketRoutes

PROXIED_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
TARGETED_METHODS = ("GET", "POST", "PUT")  # of the client that names the address in a header


def routes(services: Services, *, operations_apart: bool = False) -> list[Route | WebSocketRoute]:
    """Every path the bridge serves.

    Args:
        operations_apart: Leave out what `make_operations_app` serves on its own address.
    """
    aliases = Aliases(services)
    tasks, tickets = TaskRoutes(services, aliases), TicketRoutes(services)
    streams, submit = StreamRoutes(services), SubmitRoutes(services)
    proxy, callbacks = ProxyRoutes(services, aliases), CallbackRoutes(services)
    health = HealthRoutes(services)
    return [
        Route("/v1/tasks/{upstream}/{task_id:encoded}/events", streams.one_task),
        Route("/v1/tasks/{upstream}/{task_id:encoded}/cancel", submit.cancel, methods=["POST"]),
        Route("/v1/tasks/{upstream}/{task_id:encoded}", tasks.state),
        Route("/v1/tasks/{upstream}", submit.submit, methods=["POST"]),
        Route("/v1/events", streams.many_tasks, methods=["GET", "POST"]),
        WebSocketRoute("/v1/ws", streams.websocket),
        Route("/v1/aliases/{upstream}/{alias:encoded}", tasks.by_alias),
        Route("/v1/tickets", tickets.issue, methods=["POST"]),
        Route("/v1/callbacks/{upstream}/{secret:encoded}", callbacks.receive, methods=["POST"]),
        Route("/proxy/{upstream}", proxy.serve, methods=TARGETED_METHODS),
        Route("/proxy/{upstream}/{path:path}", proxy.serve, methods=PROXIED_METHODS),
        *(_inspector(services, operations_apart=operations_apart) if services.settings.inspector else []),
        Route("/bridge.js", StaticFile("bridge.js").serve),
        Route("/bridge.d.ts", StaticFile("bridge.d.ts").serve),
        Route("/eta.js", StaticFile("eta.js").serve),
        Route("/eta.d.ts", StaticFile("eta.d.ts").serve),
        *_probes(health),
        *([] if operations_apart else _operations(health, document_routes(services.settings, apart=False))),
    ]


def make_app(services: Services, *, operations_apart: bool = False) -> ASGIApp:
    """The routes behind their middleware, outside in: handoff, request id, raw path, CORS, open requests."""
    settings = services.settings
    app = services.open_requests.middleware(_app(routes(services, operations_apart=operations_apart)))
    exposed = header_names(upstream.dialect.proxy for upstream in services.pool.upstreams.values())
    app = add_cors(app, services.origins, cookies=settings.auth != "none", exposed=exposed)
    addresses = services.limits.addresses
    app = RawPathMiddleware(app, public_url=settings.public_url, addresses=addresses)
    return ConnectionHandoff(RequestIdMiddleware(app, services.clock, addresses))


def make_operations_app(services: Services) -> ASGIApp:
    """The routes of operators and their tools, without CORS: no web page may use them."""
    health = HealthRoutes(services)
    documents = document_routes(services.settings, apart=True)
    app = services.open_requests.middleware(_app([*_probes(health), *_operations(health, documents)]))
    return RequestIdMiddleware(app, services.clock, services.limits.addresses)


def _probes(health: HealthRoutes) -> list[Route]:
    return [Route("/livez", health.live), Route("/readyz", health.ready)]


def _operations(health: HealthRoutes, documents: list[Route]) -> list[Route]:
    return [
        Route("/status", health.status),
        Route("/metrics", health.metrics),
        *documents,
    ]


def _inspector(services: Services, *, operations_apart: bool) -> list[Route]:
    inspector = InspectorRoutes(services, operations_apart=operations_apart)
    return [
        Route("/", inspector.page.serve),
        Route("/inspector/tasks", inspector.tasks),
        Route("/inspector/pulse", inspector.pulse),
        Route("/inspector/{name}", inspector.files.serve),
    ]


def _app(served: Sequence[Route | WebSocketRoute]) -> ASGIApp:
    app = Starlette(routes=served, exception_handlers=HANDLERS)
    # Starlette would redirect to the host named in `Host`, which the client chooses (open redirect)
    app.router.redirect_slashes = False
    return app
