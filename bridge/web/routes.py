"""The whole URL table on one screen."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from bridge.delivery.desk import Desk
from bridge.delivery.outermost import Outermost
from bridge.metrics import Metrics
from bridge.watchers.submitter import Submitter
from bridge.web.callbacks import Callbacks
from bridge.web.health import Health
from bridge.web.origins import Origins
from bridge.web.paths import RawPaths
from bridge.web.problems import HANDLERS
from bridge.web.proxy import Proxy
from bridge.web.streams import Streams
from bridge.web.submit import Submit
from bridge.web.tasks import Tasks

PROXIED = ("GET", "POST", "PUT", "PATCH", "DELETE")


def routes(
    desk: Desk, submitter: Submitter, metrics: Metrics, origins: Origins
) -> list[Route | WebSocketRoute]:
    """Every path the bridge answers."""
    tasks, streams, submit = Tasks(desk), Streams(desk, origins), Submit(desk, submitter, origins)
    callbacks, health = Callbacks(desk.pool), Health(desk, metrics)
    proxy = Proxy(desk, submitter, origins)
    return [
        Route("/v1/tasks/{upstream}/{task_id:encoded}/events", streams.of_task),
        Route("/v1/tasks/{upstream}/{task_id:encoded}/cancel", submit.cancel, methods=["POST"]),
        Route("/v1/tasks/{upstream}/{task_id:encoded}", tasks.state),
        Route("/v1/tasks/{upstream}", submit.submit, methods=["POST"]),
        Route("/v1/events", streams.of_tasks, methods=["GET", "POST"]),
        WebSocketRoute("/v1/ws", streams.websocket),
        Route("/v1/aliases/{upstream}/{alias:encoded}", tasks.by_alias),
        Route("/v1/callbacks/{upstream}/{secret:encoded}", callbacks.receive, methods=["POST"]),
        Route("/proxy/{upstream}/{path:path}", proxy.serve, methods=PROXIED),
        Route("/livez", health.live),
        Route("/readyz", health.ready),
        Route("/status", health.status),
        Route("/metrics", health.metrics),
    ]


def make_app(desk: Desk, submitter: Submitter, metrics: Metrics, origins: Origins) -> ASGIApp:
    """The routes, behind the layers every request passes."""
    app = Starlette(
        routes=routes(desk, submitter, metrics, origins),
        exception_handlers=HANDLERS,
    )
    app.router.redirect_slashes = False  # the framework would send people to whatever `Host` they named
    return Outermost(RawPaths(origins.guard(app)))
