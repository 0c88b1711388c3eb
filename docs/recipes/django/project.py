"""What both servers of this recipe share: settings, sign-in, the page, and who owns a task."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse
from django.utils.deprecation import MiddlewareMixin
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST

from task_event_bridge import BridgeError, Forbidden, TaskState, Unauthenticated

BRIDGE_URL = os.environ.get("BRIDGE_URL", "http://127.0.0.1:8080")
BRIDGE_TOKEN = os.environ.get("BRIDGE_TOKEN")
STREAM = {
    "content_type": "text/event-stream",
    "headers": {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"},
}


def configure(urls: str) -> None:
    """Replace with the settings module of your project."""
    settings.configure(
        SECRET_KEY=os.environ.get("SECRET_KEY", "replace me: it signs the session cookies"),
        ALLOWED_HOSTS=["127.0.0.1", "localhost"],
        ROOT_URLCONF=urls,
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "project.Refusals",
        ],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    )


class RefusalError(Exception):
    """A response with this status and sentence."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Refusals(MiddlewareMixin):
    """Makes JSON of what a view refuses, or the bridge."""

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, Unauthenticated | Forbidden):  # our token is at fault, not the user
            return JsonResponse({"detail": f"the bridge rejected this backend: {error.code}"}, status=502)
        if isinstance(error, BridgeError | RefusalError):
            return JsonResponse({"detail": str(error)}, status=error.status)
        return None


@ensure_csrf_cookie
def page(request: HttpRequest) -> FileResponse:
    return FileResponse(Path(__file__).with_name("index.html").open("rb"), content_type="text/html")


@require_POST
def sign_in(request: HttpRequest) -> HttpResponse:
    """Accept any name: a real sign-in checks a password."""
    request.session["user"] = text(request, "user")
    request.session["tasks"] = []  # replace with your database: the owner of each task
    return HttpResponse(status=204)


def wanted(request: HttpRequest) -> dict[str, Any]:
    """Return what to submit."""
    if "user" not in request.session:
        raise RefusalError(401, "sign in first")
    return {"model": "veo3", "prompt": text(request, "prompt")}


def created(request: HttpRequest, task: str) -> JsonResponse:
    request.session["tasks"] = [*request.session["tasks"][-19:], task]
    links = {"events": f"/renders/{task}/events", "result": f"/renders/{task}/result"}
    return JsonResponse({"task": task, **links}, status=201)


def owned(request: HttpRequest, task: str) -> str:
    if task not in request.session.get("tasks", []):
        raise RefusalError(404, "no such render")  # the same response for tasks of other users
    return task


def text(request: HttpRequest, name: str) -> str:
    try:
        value = json.loads(request.body)[name]
    except (ValueError, TypeError, LookupError):
        value = None
    if not isinstance(value, str) or not 1 <= len(value) <= 2000:
        raise RefusalError(400, f"{name} must be a text")
    return value


def shown(state: TaskState | None, task: str, *, status: int = 200) -> JsonResponse:
    document = state.document if state else {"task": task, "status": "unknown"}
    return JsonResponse(document, status=status)


def event(state: TaskState) -> str:
    return f"id: {state.cursor}\ndata: {json.dumps(state.document)}\n\n"
