"""Receives webhooks of a bridge: verifies each, removes duplicates, answers at once, works afterwards.

WEBHOOK_SECRETS='whsec_YOUR_SECRET' uvicorn receiver:app --port 9099

Needs `starlette`, `uvicorn` and `standardwebhooks`. WEBHOOK_SECRETS has one secret, or several separated by
spaces while one is replaced. DATABASE is the file for what was received.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

WEBHOOKS = [Webhook(secret) for secret in os.environ["WEBHOOK_SECRETS"].split()]
MAX_BYTES = 32 * 1024 * 1024
KEPT_SECONDS = 3 * 86_400  # the bridge repeats a delivery for a day; redelivery by hand may come later
RETRY_SECONDS = 5

log = logging.getLogger("uvicorn.error")


class Inbox:
    """What was received, in SQLite: the primary key recognizes duplicates, also after a restart."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(
            """
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = FULL; -- a delivery that was answered must survive a power failure
            CREATE TABLE IF NOT EXISTS deliveries (
                number INTEGER PRIMARY KEY,
                id TEXT UNIQUE NOT NULL,
                body BLOB,
                received REAL NOT NULL,
                due REAL -- when it is worked on; NULL once that is done
            );
            CREATE INDEX IF NOT EXISTS waiting ON deliveries (due) WHERE due IS NOT NULL;
            CREATE INDEX IF NOT EXISTS past ON deliveries (received) WHERE due IS NULL;
            CREATE TABLE IF NOT EXISTS tasks (
                task TEXT PRIMARY KEY, changed_at TEXT NOT NULL, state TEXT NOT NULL
            );
            """
        )

    def add(self, delivery: str, body: bytes) -> bool:
        """Record a delivery; False if it is here already."""
        with self._lock, self._db:
            now = time.time()
            forget = "DELETE FROM deliveries WHERE due IS NULL AND received < ?"
            self._db.execute(forget, (now - KEPT_SECONDS,))
            insert = "INSERT OR IGNORE INTO deliveries (id, body, received, due) VALUES (?, ?, ?, ?)"
            return self._db.execute(insert, (delivery, body, now, now)).rowcount == 1

    def next(self) -> tuple[int, dict[str, Any]] | None:
        """The oldest delivery that is due, and its number."""
        query = "SELECT number, body FROM deliveries WHERE due <= ? ORDER BY number LIMIT 1"
        with self._lock:
            row = self._db.execute(query, (time.time(),)).fetchone()
        return None if row is None else (row[0], json.loads(row[1]))

    def finish(self, number: int, state: dict[str, Any]) -> None:
        """Record the result of the work, and that it is done, in one transaction."""
        with self._lock, self._db:
            self._db.execute(
                # A task's deliveries arrive in order, but one whose work failed is repeated after newer ones.
                "INSERT INTO tasks VALUES (?, ?, ?) ON CONFLICT (task) DO UPDATE"
                " SET changed_at = excluded.changed_at, state = excluded.state"
                " WHERE excluded.changed_at >= tasks.changed_at",
                (state["task"], state["changed_at"], json.dumps(state)),
            )
            self._db.execute("UPDATE deliveries SET due = NULL, body = NULL WHERE number = ?", (number,))

    def postpone(self, number: int) -> None:
        """Try again later; other deliveries do not wait for this one."""
        with self._lock, self._db:
            due = time.time() + RETRY_SECONDS
            self._db.execute("UPDATE deliveries SET due = ? WHERE number = ?", (due, number))

    def tasks(self) -> dict[str, Any]:
        """The newest state of each task."""
        with self._lock:
            rows = self._db.execute("SELECT task, state FROM tasks").fetchall()
        return {task: json.loads(state) for task, state in rows}


inbox = Inbox(os.environ.get("DATABASE", "inbox.db"))
arrived = asyncio.Event()


async def work(event: dict[str, Any]) -> None:
    """Your work. It must bear being repeated: the process may end after it, and before `finish`."""
    state = event["data"]
    print(event["type"], state["task"], state["status"], flush=True)
    # Download state["outputs"] here: links of providers expire.


async def keep_working() -> None:
    """Work on what was received, also before the last restart."""
    while True:
        arrived.clear()
        while (found := await run_in_threadpool(inbox.next)) is not None:
            number, event = found
            try:
                await work(event)
                await run_in_threadpool(inbox.finish, number, event["data"])
            except Exception:
                log.exception("a delivery will be tried again in %d s", RETRY_SECONDS)
                await run_in_threadpool(inbox.postpone, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(arrived.wait(), RETRY_SECONDS)


def verified(body: bytes, headers: dict[str, str]) -> bool:
    """Whether one of the secrets signed exactly these bytes, within the last five minutes."""
    for webhook in WEBHOOKS:
        with contextlib.suppress(WebhookVerificationError, ValueError):
            webhook.verify(body, headers, json_parse=False)
            return True
    return False


async def receive(request: Request) -> Response:
    """Record a delivery before answering: once answered with 2xx, it is not sent again."""
    body = bytearray()
    async for chunk in request.stream():  # the raw bytes: parsed and written again, they would differ
        body += chunk
        if len(body) > MAX_BYTES:
            return Response(status_code=413)
    if not verified(bytes(body), dict(request.headers)):
        return Response(status_code=401)
    if not json.loads(body)["type"].startswith("task."):
        return Response(status_code=204)  # a test
    if await run_in_threadpool(inbox.add, request.headers["webhook-id"], bytes(body)):
        arrived.set()
    return Response(status_code=204)


async def tasks(_: Request) -> Response:
    """The newest state of each task."""
    return JSONResponse(await run_in_threadpool(inbox.tasks))


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Work while the server runs."""
    working = asyncio.create_task(keep_working())
    yield
    working.cancel()


app = Starlette(
    lifespan=lifespan,
    routes=[Route("/webhooks", receive, methods=["POST"]), Route("/tasks", tasks)],
)
