"""Renders in Django with plain views, under gunicorn and any other WSGI server.

    pip install django gunicorn task-event-bridge
    gunicorn --worker-class gthread --threads 20 --bind 127.0.0.1:8000 wsgi:application

BRIDGE_URL is the address of the bridge; BRIDGE_TOKEN, if it asks for one, a bearer token for the scopes
`read submit` and the tasks `qingbo/*`. A stream holds a thread until its task is final; `asgi.py` has no
such limit.
"""

from __future__ import annotations

from itertools import chain

import project
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from task_event_bridge import ResultTimeout, SyncBridge, TaskFailed

# One client for all threads, also of workers that gunicorn forks: each has connections of its own.
bridge = SyncBridge(project.BRIDGE_URL, token=project.BRIDGE_TOKEN)


@require_POST
def render(request: HttpRequest) -> JsonResponse:
    """Submit. Never retried automatically: each submit may be billed."""
    return project.created(request, bridge.submit("qingbo", project.wanted(request)).task)


@require_GET
def result(request: HttpRequest, task: str) -> JsonResponse:
    """Wait for the end of a task: 200 with its final state, failed or not; 202 with the newest after 25 s."""
    try:
        return project.shown(bridge.result(project.owned(request, task), timeout=25), task)
    except TaskFailed as failed:
        return project.shown(failed.state, task)
    except ResultTimeout as late:
        return project.shown(late.state, task, status=202)


@require_GET
def events(request: HttpRequest, task: str) -> HttpResponse | StreamingHttpResponse:
    """Stream the states. A browser that reconnects says which one it has."""
    states = bridge.watch(project.owned(request, task), last_event_id=request.headers.get("Last-Event-ID"))
    first = next(states, None)  # before the response begins, so that a refusal is one
    if first is None:
        return HttpResponse(status=204)  # it has them all: the browser stops
    return StreamingHttpResponse(map(project.event, chain([first], states)), **project.STREAM)


project.configure(__name__)
urlpatterns = [
    path("", project.page),
    path("sign-in", project.sign_in),
    path("renders", render),
    path("renders/<path:task>/result", result),
    path("renders/<path:task>/events", events),
]
application = get_wsgi_application()
