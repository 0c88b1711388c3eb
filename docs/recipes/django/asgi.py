"""Renders in Django with async views, under uvicorn and any other ASGI server.

    pip install django uvicorn task-event-bridge
    uvicorn asgi:application --port 8000

BRIDGE_URL is the address of the bridge; BRIDGE_TOKEN, if it asks for one, a bearer token for the scopes
`read submit` and the tasks `qingbo/*`. Never use `SyncBridge` in an async view: it would block all others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import project
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST

from task_event_bridge import Bridge, ResultTimeout, TaskFailed, TaskState


@require_POST
async def render(request: HttpRequest) -> JsonResponse:
    """Submit. Never retried automatically: each submit may be billed."""
    async with Bridge(project.BRIDGE_URL, token=project.BRIDGE_TOKEN) as bridge:
        return project.created(request, (await bridge.submit("qingbo", project.wanted(request))).task)


@require_GET
async def result(request: HttpRequest, task: str) -> JsonResponse:
    """Wait for the end of a task: 200 with its final state, failed or not; 202 with the newest after 25 s."""
    async with Bridge(project.BRIDGE_URL, token=project.BRIDGE_TOKEN) as bridge:
        try:
            return project.shown(await bridge.result(project.owned(request, task), timeout=25), task)
        except TaskFailed as failed:
            return project.shown(failed.state, task)
        except ResultTimeout as late:
            return project.shown(late.state, task, status=202)


@require_GET
async def events(request: HttpRequest, task: str) -> HttpResponse | StreamingHttpResponse:
    """Stream the states. A browser that reconnects says which one it has."""
    states = followed(project.owned(request, task), request.headers.get("Last-Event-ID"))
    first = await anext(states, None)  # before the response begins, so that a refusal is one
    if first is None:
        return HttpResponse(status=204)  # it has them all: the browser stops
    return StreamingHttpResponse(written(first, states), **project.STREAM)


async def followed(task: str, cursor: str | None) -> AsyncIterator[TaskState]:
    async with (
        Bridge(project.BRIDGE_URL, token=project.BRIDGE_TOKEN) as bridge,
        aclosing(bridge.watch(task, last_event_id=cursor)) as states,
    ):
        async for state in states:
            yield state


async def written(first: TaskState, states: AsyncIterator[TaskState]) -> AsyncIterator[str]:
    yield project.event(first)
    async for state in states:
        yield project.event(state)


project.configure(__name__)
urlpatterns = [
    path("", project.page),
    path("sign-in", project.sign_in),
    path("renders", render),
    path("renders/<path:task>/result", result),
    path("renders/<path:task>/events", events),
]
application = get_asgi_application()
