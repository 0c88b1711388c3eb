"""The bridge inside an app: one process, one origin, and the app's own sign-in controls access to tasks.

    pip install fastapi uvicorn httpx task-event-bridge
    BRIDGE_CONFIG=bridge.toml uvicorn app:app --port 8000

The providers are configured in the file named by BRIDGE_CONFIG, or in the environment, as for `taskbridge
serve`. Run one process only: a second one would poll every task again. Pages open
`new EventSource("/bridge/v1/tasks/qingbo/YOUR_TASK_ID/events")`; the browser sends the session cookie.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import httpx
import jwt
from fastapi import Cookie, Depends, FastAPI, HTTPException, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.app import Bridge
from bridge.settings import load

ISSUER = "this app"
AUDIENCE = "task-event-bridge"
SECRET = secrets.token_urlsafe(32)  # never leaves this process
TOKEN_SECONDS = 900  # then a stream ends; browsers reconnect with their cursor and are authenticated again

sessions: dict[str, str] = {}  # replace with your own sign-in
owners: dict[str, str] = {}  # replace with your database: the owner of each task

config = os.environ.get("BRIDGE_CONFIG")
bridge = Bridge(
    load(Path(config) if config else None, auth="token", token_issuer=ISSUER, token_secrets=[SECRET])
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with bridge.running():
        drain_on_signal()
        yield


def drain_on_signal() -> None:
    """End streams at the signal: the server waits for them before it shuts the app down."""
    loop, previous = asyncio.get_running_loop(), {}

    def drain() -> None:
        app.state.drain = loop.create_task(bridge.drain())

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(drain)
        previous[number](number, frame)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handle)


app = FastAPI(lifespan=lifespan)


def token(user: str, scope: str, tasks: list[str]) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": user, "scope": scope, "tasks": tasks}
    return jwt.encode(claims | {"exp": int(time.time()) + TOKEN_SECONDS}, SECRET, algorithm="HS256")


class SignedIn:
    """Middleware in front of the bridge: signed-in users may read their own tasks and nothing else."""

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = sessions.get(HTTPConnection(scope).cookies.get("session", ""))
        headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        if user is not None:
            own_tasks = [task for task, owner in owners.items() if owner == user]
            headers.append((b"authorization", f"Bearer {token(user, 'read', own_tasks)}".encode()))
        await self.inner(scope | {"headers": headers}, receive, send)


app.mount("/bridge", SignedIn(bridge))


def signed_in(session: Annotated[str | None, Cookie()] = None) -> str:
    if session not in sessions:
        raise HTTPException(401, "sign in first")
    return sessions[session]


class SignIn(BaseModel):
    user: Annotated[str, Field(min_length=1, max_length=100)]


class RenderRequest(BaseModel):
    prompt: Annotated[str, Field(min_length=1, max_length=2000)]


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("index.html"))


@app.post("/sign-in", status_code=204)
async def sign_in(body: SignIn, response: Response) -> None:
    """Accept any name: a real sign-in checks a password."""
    session = secrets.token_urlsafe()
    sessions[session] = body.user
    response.set_cookie("session", session, httponly=True, samesite="lax")


@app.post("/renders", status_code=201)
async def render(body: RenderRequest, user: Annotated[str, Depends(signed_in)]) -> dict[str, str]:
    """Submit to the bridge inside this process."""
    created = await submit(user, {"model": "veo3", "prompt": body.prompt})
    task = created["state"]["task"]
    owners[task] = user
    return {"task": task, "events": "/bridge" + created["links"]["events"]}


async def submit(user: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token(user, 'submit', ['qingbo/*'])}"}
    transport = httpx.ASGITransport(bridge)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://bridge", headers=headers, timeout=None
    ) as http:
        response = await http.post("/v1/tasks/qingbo", json=body)
    if not response.is_success:
        raise HTTPException(response.status_code, response.json()["detail"])
    return response.json()
