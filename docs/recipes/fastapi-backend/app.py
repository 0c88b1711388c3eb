"""A backend that submits renders and returns to each page the URL of its stream.

The bridge runs as a separate process; browsers reach it at BRIDGE_PUBLIC_URL, and its `allowed_origins` must
contain this page's origin.

    pip install fastapi uvicorn httpx
    uvicorn app:app --port 8000

With BRIDGE_TOKEN (scopes `read submit`, tasks `qingbo/*`) the page gets a ticket, which can read this
task for ten minutes, and never sees a key. Without it, for trying out, the bridge has no authentication.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from fastapi import Cookie, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

BRIDGE_URL = os.environ.get("BRIDGE_URL", "http://127.0.0.1:8080")
BRIDGE_PUBLIC_URL = os.environ.get("BRIDGE_PUBLIC_URL", BRIDGE_URL)
BRIDGE_TOKEN = os.environ.get("BRIDGE_TOKEN")
TICKET_SECONDS = int(os.environ.get("TICKET_SECONDS", "600"))
SUBMIT_SECONDS = 90.0  # the bridge waits up to 60 s for the provider

sessions: dict[str, str] = {}  # replace with your own sign-in
owners: dict[str, str] = {}  # replace with your database: the owner of each task


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    headers = {"Authorization": f"Bearer {BRIDGE_TOKEN}"} if BRIDGE_TOKEN else {}
    async with httpx.AsyncClient(base_url=BRIDGE_URL, headers=headers, timeout=SUBMIT_SECONDS) as bridge:
        app.state.bridge = bridge
        yield


app = FastAPI(lifespan=lifespan)


def signed_in(session: Annotated[str | None, Cookie()] = None) -> str:
    if session not in sessions:
        raise HTTPException(401, "sign in first")
    return sessions[session]


User = Annotated[str, Depends(signed_in)]


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
async def render(body: RenderRequest, user: User, request: Request) -> dict[str, str]:
    """Submit. Never retried automatically: each submit may be billed."""
    created = await call(request, "/v1/tasks/qingbo", {"model": "veo3", "prompt": body.prompt})
    task = created["state"]["task"]
    owners[task] = user
    return {"task": task}


@app.post("/renders/{task:path}/stream")
async def stream(task: str, user: User, request: Request, response: Response) -> dict[str, str]:
    """Return the address of the stream. The page requests a new one when the ticket expires."""
    if owners.get(task) != user:
        raise HTTPException(404, "no such render")  # the same response for tasks of other users
    response.headers["Cache-Control"] = "no-store"
    if BRIDGE_TOKEN is None:
        return {"events": f"{BRIDGE_PUBLIC_URL}/v1/events?task={quote(task)}"}
    ticket = await call(request, "/v1/tickets", {"tasks": [task], "seconds": TICKET_SECONDS})
    return {"events": BRIDGE_PUBLIC_URL + ticket["links"]["events"]}


async def call(request: Request, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Call the bridge, and map its errors to errors for the page."""
    bridge: httpx.AsyncClient = request.app.state.bridge
    try:
        response = await bridge.post(path, json=body)
    except httpx.TransportError:
        raise HTTPException(503, "the bridge is unreachable; the task may or may not exist") from None
    if response.is_success:
        return response.json()
    if response.headers.get("content-type") != "application/problem+json":
        raise HTTPException(502, f"the bridge returned {response.status_code}")
    problem = response.json()
    if response.status_code in {401, 403}:  # our token is at fault, not the user
        raise HTTPException(502, f"the bridge rejected this backend: {problem['code']}")
    raise HTTPException(response.status_code, problem["detail"])
