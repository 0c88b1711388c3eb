"""The obvious implementation: sse-starlette with a queue per client; garbage collector tuned like ours.

python -m bench.peers.naive PORT CONTROL_PORT TASKS
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from bench.tokens import Lines, document, pick, token

PORT, CONTROL, TASKS = (int(word) for word in sys.argv[1:4])
MAX_SECONDS = 900

queues: defaultdict[int, set[asyncio.Queue[tuple[int, str]]]] = defaultdict(set)
current: dict[int, tuple[int, str]] = {}


def state(task: int) -> tuple[int, str]:
    """Return the newest state of a task."""
    if task not in current:
        current[task] = (0, document(f"t{task}", token(0)).decode())
    return current[task]


async def events(request: Request) -> EventSourceResponse:
    """`GET /t{task}`."""
    task = request.path_params["task"]

    async def body() -> AsyncIterator[ServerSentEvent]:
        queue: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        queues[task].add(queue)
        try:
            number, text = state(task)
            yield ServerSentEvent(text, id=f"abcd1234-{number:06d}")
            while True:
                number, text = await queue.get()
                yield ServerSentEvent(text, id=f"abcd1234-{number:06d}")
        finally:
            queues[task].discard(queue)

    return EventSourceResponse(body(), sep="\n")


async def publish(word: str, numbers: list[int]) -> None:
    """`p FROM COUNT BATCH`."""
    del word
    first, count, batch = numbers
    for begin in range(first, first + count, batch):
        for seq in range(begin, min(begin + batch, first + count)):
            task = pick(seq, TASKS)
            current[task] = (seq, document(f"t{task}", token(seq)).decode())
            for queue in queues[task]:
                queue.put_nowait(current[task])
        await asyncio.sleep(0)


async def controlled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one control connection."""
    lines = Lines(publish)
    while data := await reader.read(65_536):
        await lines.feed(data)
    writer.close()


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """Listen for commands; tune the garbage collector as our server does."""
    server = await asyncio.start_server(controlled, "127.0.0.1", CONTROL)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    asyncio.get_running_loop().call_later(MAX_SECONDS, sys.exit)
    yield
    server.close()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    app = Starlette(routes=[Route("/t{task:int}", events)], lifespan=lifespan)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=PORT,
        http="httptools",
        loop="uvloop",
        backlog=4096,
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
