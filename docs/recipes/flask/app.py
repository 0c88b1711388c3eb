"""Renders in Flask: a view that waits for the result, and one that streams the progress to a page.

    pip install flask gunicorn task-event-bridge
    gunicorn --worker-class gthread --threads 20 --bind 127.0.0.1:8000 app:app

`flask run` works too. BRIDGE_URL is the address of the bridge; BRIDGE_TOKEN, if it asks for one, a bearer
token for the scopes `read submit` and the tasks `qingbo/*`. A stream holds a thread until its task is final.
For many viewers return the address of a stream with a ticket instead, as the FastAPI backend does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, request, send_file, session
from werkzeug.exceptions import HTTPException

from task_event_bridge import (
    BridgeError,
    Forbidden,
    ResultTimeout,
    SyncBridge,
    TaskFailed,
    TaskState,
    Unauthenticated,
)

app = Flask(__name__)
app.secret_key = os.environ.get("SECRET_KEY", "replace me: it signs the session cookies")

BRIDGE_URL = os.environ.get("BRIDGE_URL", "http://127.0.0.1:8080")
# One client for all threads, also of workers that gunicorn forks: each has connections of its own.
bridge = SyncBridge(BRIDGE_URL, token=os.environ.get("BRIDGE_TOKEN"))


@app.get("/")
def page() -> Response:
    return send_file(Path(__file__).with_name("index.html"))


@app.post("/sign-in")
def sign_in() -> tuple[str, int]:
    """Accept any name: a real sign-in checks a password."""
    session["user"] = text("user")
    session["tasks"] = []  # replace with your database: the owner of each task
    return "", 204


@app.post("/renders")
def render() -> tuple[dict[str, Any], int]:
    """Submit. Never retried automatically: each submit may be billed."""
    if "user" not in session:
        abort(401, "sign in first")
    task = bridge.submit("qingbo", {"model": "veo3", "prompt": text("prompt")}).task
    session["tasks"] = [*session["tasks"][-19:], task]
    return {"task": task, "events": f"/renders/{task}/events", "result": f"/renders/{task}/result"}, 201


@app.get("/renders/<path:task>/result")
def result(task: str) -> tuple[dict[str, Any], int]:
    """Wait for the end of a task: 200 with its final state, failed or not; 202 with the newest after 25 s."""
    try:
        state: TaskState | None = bridge.result(owned(task), timeout=25)
    except TaskFailed as failed:
        state = failed.state
    except ResultTimeout as late:
        return (late.state.document if late.state else {"task": task, "status": "unknown"}), 202
    return state.document, 200


@app.get("/renders/<path:task>/events")
def events(task: str) -> Response:
    """Stream the states. A browser that reconnects says which one it has."""
    states = bridge.watch(owned(task), last_event_id=request.headers.get("Last-Event-ID"))
    first = next(states, None)  # before the response begins, so that a refusal is one
    if first is None:
        return Response(status=204)  # it has them all: the browser stops
    headers = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
    return Response(written(chain([first], states)), content_type="text/event-stream", headers=headers)


def written(states: Iterator[TaskState]) -> Iterator[str]:
    for state in states:
        yield f"id: {state.cursor}\ndata: {json.dumps(state.document)}\n\n"


def owned(task: str) -> str:
    if task not in session.get("tasks", []):
        abort(404, "no such render")  # the same response for tasks of other users
    return task


def text(name: str) -> str:
    body = request.get_json(silent=True)
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not 1 <= len(value) <= 2000:
        abort(400, f"{name} must be a text")
    return value


@app.errorhandler(BridgeError)
def refused(error: BridgeError) -> tuple[dict[str, Any], int]:
    if isinstance(error, Unauthenticated | Forbidden):  # our token is at fault, not the user
        return {"detail": f"the bridge rejected this backend: {error.code}"}, 502
    return {"detail": str(error)}, error.status


@app.errorhandler(400)
@app.errorhandler(401)
@app.errorhandler(404)
def explained(error: HTTPException) -> tuple[dict[str, Any], int | None]:
    return {"detail": error.description}, error.code
