"""A backend that submits renders and hands each page the address of its own stream.

The page never sees a key: it gets a ticket, which reads this one task for ten minutes. The bridge is a
program of its own; browsers reach it at BRIDGE_PUBLIC_URL, and it names this page's origin in
`allowed_origins`.

    pip install fastapi uvicorn httpx
    BRIDGE_TOKEN=... uvicorn app:app --port 8000

BRIDGE_TOKEN has the scope `read submit` and the tasks `qingbo/*`: `bridge token mint` makes one.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
from fastapi import Cookie, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

BRIDGE_URL = os.environ.get("BRIDGE_URL", "http://127.0.0.1:8080")
BRIDGE_PUBLIC_URL = os.environ.get("BRIDGE_PUBLIC_URL", BRIDGE_URL)
BRIDGE_TOKEN = os.environ["BRIDGE_TOKEN"]
TICKET_SECONDS = int(os.environ.get("TICKET_SECONDS", "600"))
SUBMIT_SECONDS = 90.0  # the bridge waits for the provider for 60

SESSIONS = {"session-of-ada": "ada", "session-of-bob": "bob"}  # your own sign-in goes here
owners: dict[str, str] = {}  # and your database here: whose task is it


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    headers = {"Authorization": f"Bearer {BRIDGE_TOKEN}"}
    async with httpx.AsyncClient(base_url=BRIDGE_URL, headers=headers, timeout=SUBMIT_SECONDS) as bridge:
        app.state.bridge = bridge
        yield


app = FastAPI(lifespan=lifespan)


def signed_in(session: Annotated[str | None, Cookie()] = None) -> str:
    if session not in SESSIONS:
        raise HTTPException(401, "sign in first")
    return SESSIONS[session]


User = Annotated[str, Depends(signed_in)]


class Wish(BaseModel):
    prompt: Annotated[str, Field(min_length=1, max_length=2000)]


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("index.html"))


@app.post("/renders", status_code=201)
async def render(wish: Wish, user: User, request: Request) -> dict[str, str]:
    """Submit. Nobody repeats this by itself: each submit may be a render that somebody pays for."""
    created = await ask(request, "/v1/tasks/qingbo", {"model": "veo3", "prompt": wish.prompt})
    task = created["state"]["task"]
    owners[task] = user
    return {"task": task}


@app.post("/renders/{task:path}/stream")
async def stream(task: str, user: User, request: Request, response: Response) -> dict[str, str]:
    """Where the page follows its task. It asks again when the ticket is over."""
    if owners.get(task) != user:
        raise HTTPException(404, "no such render")  # other people's look like none
    ticket = await ask(request, "/v1/tickets", {"tasks": [task], "seconds": TICKET_SECONDS})
    response.headers["Cache-Control"] = "no-store"
    return {"events": BRIDGE_PUBLIC_URL + ticket["links"]["events"]}


async def ask(request: Request, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """One call of the bridge; what goes wrong there is told as what it means to the page."""
    bridge: httpx.AsyncClient = request.app.state.bridge
    try:
        answer = await bridge.post(path, json=body)
    except httpx.TransportError:
        raise HTTPException(
            503, "the bridge is out of reach, and nobody knows whether the task exists"
        ) from None
    if answer.is_success:
        return answer.json()
    if answer.headers.get("content-type") != "application/problem+json":
        raise HTTPException(502, f"the bridge answered {answer.status_code}")
    problem = answer.json()
    if answer.status_code in {401, 403}:  # our token, not the user's doing
        raise HTTPException(502, f"the bridge refuses this backend: {problem['code']}")
    raise HTTPException(answer.status_code, problem["detail"])
