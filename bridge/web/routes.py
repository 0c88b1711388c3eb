"""The whole URL table on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from bridge.auth.authenticator import Callers
from bridge.auth.origins import Origins
from bridge.auth.tickets import Tickets
from bridge.delivery.handoff import Outermost
from bridge.delivery.subscriptions import Desk
from bridge.telemetry.metrics import Metrics
from bridge.watchers.submitter import Submitter
from bridge.web.callbacks import Callbacks
from bridge.web.health import Health
from bridge.web.inspector import Inspector
from bridge.web.limits.limits import Limits
from bridge.web.middleware.raw_path import RawPaths
from bridge.web.middleware.request_id import Visits
from bridge.web.problems import HANDLERS
from bridge.web.proxy.routes import Proxy
from bridge.web.static_files import BrowserHelper, Documents
from bridge.web.streams import Streams
from bridge.web.submit import Submit
from bridge.web.tasks import Issue, Tasks

PROXIED = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """What stands behind the routes.

    Args:
        operators: How those are known who ask for metrics.
        tickets: None where the bridge gives out none.
        inspector: None where the operator wants no page.
    """

    desk: Desk
    submitter: Submitter
    metrics: Metrics
    origins: Origins
    limits: Limits
    callers: Callers
    operators: Callers
    tickets: Tickets | None
    inspector: Inspector | None


def routes(rooms: Rooms, *, operations_apart: bool = False) -> list[Route | WebSocketRoute]:
    """Every path the bridge answers.

    Args:
        operations_apart: Leave out what `make_operations_app` serves at an address of its own.
    """
    desk, origins, limits, callers = rooms.desk, rooms.origins, rooms.limits, rooms.callers
    tasks, streams = Tasks(desk, limits, callers), Streams(desk, origins, limits, callers)
    submit = Submit(desk, rooms.submitter, origins, limits, callers)
    proxy = Proxy(desk, rooms.submitter, origins, limits, callers)
    issue = Issue(desk, callers, rooms.tickets)
    callbacks, health = Callbacks(desk), Health(desk, rooms.metrics, rooms.operators)
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


def make_app(rooms: Rooms, *, operations_apart: bool = False) -> ASGIApp:
    """The routes, behind the layers every request passes."""
    served = routes(rooms, operations_apart=operations_apart)
    return Outermost(Visits(RawPaths(rooms.origins.guard(_app(served))), rooms.desk.clock))


def make_operations_app(rooms: Rooms) -> ASGIApp:
    """What operators and their machines ask, and nothing else: no page of anybody's has business there."""
    health = Health(rooms.desk, rooms.metrics, rooms.operators)
    return Visits(_app([*_probes(health), *_operations(health)]), rooms.desk.clock)


def _probes(health: Health) -> list[Route]:
    return [Route("/livez", health.live), Route("/readyz", health.ready)]


def _operations(health: Health) -> list[Route]:
    documents = Documents()
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


def _inspector(inspector: Inspector | None) -> list[Route]:
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
