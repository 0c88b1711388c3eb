"""The URL table, and the middleware in front of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from bridge.delivery.handoff import ConnectionHandoff
from bridge.dialects.proxied import header_names
from bridge.web.callbacks import CallbackRoutes
from bridge.web.documents import document_routes
from bridge.web.groups import GroupRoutes
from bridge.web.health import HealthRoutes
from bridge.web.idempotency import IdempotentSubmits
from bridge.web.inspector import InspectorRoutes
from bridge.web.lists import ListRoutes
from bridge.web.middleware.cors import add_cors
from bridge.web.middleware.direct import DirectStreams
from bridge.web.middleware.raw_path import RawPathMiddleware
from bridge.web.middleware.request_id import RequestIdMiddleware
from bridge.web.outputs import OutputResponses, OutputRoutes
from bridge.web.problems import HANDLERS
from bridge.web.proxy.aliases import Aliases
from bridge.web.proxy.routes import ProxyRoutes
from bridge.web.registrations import RegistrationRoutes
from bridge.web.services import Services
from bridge.web.spend import SpendRoutes
from bridge.web.static_files import StaticFile
from bridge.web.streams import StreamRoutes
from bridge.web.submit import SubmitRoutes
from bridge.web.tasks import TaskRoutes, TicketRoutes
from bridge.web.webhooks import WebhookRoutes

Endpoint = Callable[[Request], Awaitable[Response]]

PROXIED_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ONE_TASK = "/v1/tasks/{upstream}/{task_id:encoded}"
STREAMS = (f"{ONE_TASK}/events", "/v1/events", "/v1/ws")
TARGETED_METHODS = ("GET", "POST", "PUT")  # of the client that names the address in a header


def routes(services: Services, *, operations_apart: bool = False) -> list[Route | WebSocketRoute]:
    """Every path the bridge serves.

    Args:
        operations_apart: Leave out what `make_operations_app` serves on its own address.
    """
    aliases, once = Aliases(services), IdempotentSubmits(services)
    tasks, tickets = TaskRoutes(services, aliases), TicketRoutes(services)
    streams, submit = StreamRoutes(services), SubmitRoutes(services, once)
    callbacks = CallbackRoutes(services)
    health = HealthRoutes(services)
    registrations, lists = RegistrationRoutes(services), ListRoutes(services)
    files = OutputResponses(services)
    proxy = ProxyRoutes(services, aliases, once, files)
    outputs = OutputRoutes(services, files)
    one_task = ONE_TASK
    return [
        Route(f"{one_task}/events", streams.one_task),
        Route(f"{one_task}/outputs/{{n}}", outputs.output),
        Route(f"{one_task}/cancel", submit.cancel, methods=["POST"]),
        Route(
            one_task,
            _by_method(tasks.state, PUT=registrations.register, DELETE=registrations.forget),
            methods=["GET", "PUT", "DELETE"],
        ),
        Route("/v1/tasks", lists.tasks),
        Route("/v1/tasks/{upstream}", submit.submit, methods=["POST"]),
        Route("/v1/events", streams.many_tasks, methods=["GET", "POST"]),
        WebSocketRoute("/v1/ws", streams.websocket),
        Route("/v1/groups/{group:encoded}/close", GroupRoutes(services).close, methods=["POST"]),
        Route("/v1/aliases/{upstream}/{alias:encoded}", tasks.by_alias),
        Route("/v1/tickets", tickets.issue, methods=["POST"]),
        Route("/v1/callbacks/{upstream}/{secret:encoded}", callbacks.receive, methods=["POST"]),
        *_webhooks(WebhookRoutes(services)),
        Route("/v1/spend", SpendRoutes(services).spend),
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


def _by_method(read: Endpoint, **others: Endpoint) -> Endpoint:
    """One endpoint for all methods of a path: so a 405 names all that it takes."""

    async def serve(request: Request) -> Response:
        return await others.get(request.method, read)(request)

    return serve


def make_app(services: Services, *, operations_apart: bool = False) -> ASGIApp:
    """The routes behind their middleware: handoff, request id, raw path, CORS, open requests, streams."""
    settings = services.settings
    served = routes(services, operations_apart=operations_apart)
    app = services.open_requests.middleware(
        DirectStreams(_app(served), [r for r in served if r.path in STREAMS])
    )
    exposed = header_names(upstream.dialect.proxy for upstream in services.pool.upstreams.values())
    app = add_cors(app, services.origins, cookies=settings.auth != "none", exposed=exposed)
    addresses = services.limits.addresses
    app = RawPathMiddleware(app, public_url=settings.public_url, addresses=addresses)
    return ConnectionHandoff(RequestIdMiddleware(app, services.clock, addresses))


def make_operations_app(services: Services) -> ASGIApp:
    """The routes of operators and their tools, without CORS: no web page may use them."""
    health = HealthRoutes(services)
    documents = document_routes(services.settings, apart=True)
    served = [
        *_probes(health),
        *_operations(health, documents),
        *_webhooks(WebhookRoutes(services, admin=True)),
        Route("/v1/spend", SpendRoutes(services, admin=True).spend),
    ]
    app = services.open_requests.middleware(_app(served))
    return RequestIdMiddleware(app, services.clock, services.limits.addresses)


def _probes(health: HealthRoutes) -> list[Route]:
    return [Route("/livez", health.live), Route("/readyz", health.ready)]


def _operations(health: HealthRoutes, documents: list[Route]) -> list[Route]:
    return [
        Route("/status", health.status),
        Route("/metrics", health.metrics),
        *documents,
    ]


def _webhooks(webhooks: WebhookRoutes) -> list[Route]:
    one = "/v1/webhooks/{id:encoded}"
    return [
        Route("/v1/webhooks", webhooks.all, methods=["GET", "POST"]),
        Route(one, webhooks.one, methods=["GET", "PATCH", "DELETE"]),
        Route(f"{one}/rotate-secret", webhooks.rotate_secret, methods=["POST"]),
        Route(f"{one}/test", webhooks.test, methods=["POST"]),
        Route(f"{one}/deliveries", webhooks.deliveries),
        Route(f"{one}/deliveries/{{delivery:encoded}}/redeliver", webhooks.redeliver, methods=["POST"]),
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
