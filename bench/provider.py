"""A minimal provider: submits, status calls and ByteSpike's stream, driven by a control connection.

The first submit is answered with the task t0, the next with t1, each with what a status call would show.

Shares no code with the bridge. Without an HTTP library a core serves tens of thousands of calls per second.

Control, one command per line:
    p FROM COUNT BATCH   publish states FROM .. FROM+COUNT-1, BATCH per turn of the event loop
    f FROM COUNT BATCH   the same, with final states
    e FROM COUNT         end the tasks FROM .. FROM+COUNT-1
    s                    return the request counts as JSON
    z                    reset the request counts
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter, defaultdict
from typing import cast

import uvloop

from bench.tokens import Lines, pick, token

_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class ProviderState:
    """Every task of the provider and its open streams."""

    def __init__(self, tasks: int, size: int, *, dated: bool = False) -> None:
        self.tasks = tasks
        self.created_at = int(time.time()) if dated else None  # noqa: TID251 - no bridge here
        self.size = size
        self.marks = [token(0)] * tasks
        # Changed but not polled yet: the time stamp of the token is set when the poll is answered.
        self.fresh: dict[int, int] = {}
        self.final: set[int] = set()
        self.submitted = 0
        self.ready: dict[tuple[str, int], bytes] = {}
        self.streams: defaultdict[int, set[asyncio.Transport]] = defaultdict(set)
        self.calls: Counter[str] = Counter()
        self.tenths: Counter[int] = Counter()

    def count(self, call: str) -> None:
        """Count one call."""
        self.calls[call] += 1
        if call == "status":
            self.tenths[time.monotonic_ns() // 100_000_000] += 1

    def status(self, provider: str, task: int) -> bytes:
        """Return the response of a status call; the same bytes until the task changes."""
        if (seq := self.fresh.pop(task, None)) is not None:
            self._change(task, seq)
        answer = self.ready.get((provider, task))
        if answer is None:
            body = self._body(provider, task)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            answer = self.ready[provider, task] = head % len(body) + body
        return answer

    def submit(self, provider: str) -> bytes:
        """Return the response of a submit."""
        task = self.submitted
        self.submitted += 1
        return self.status(provider, task) if task < self.tasks else _NOT_FOUND

    def end(self, first: int, count: int) -> None:
        """Make tasks final; their next status call shows it."""
        for task in range(first, first + count):
            self.final.add(task)
            self._change(task, 0)

    def many(self, names: list[str]) -> bytes:
        """Return the response of a call about many tasks; unknown ones are left out."""
        known = (int(name[1:]) for name in names if name[1:].isdecimal() and int(name[1:]) < self.tasks)
        bodies = [self.status("qingbo", task).partition(b"\r\n\r\n")[2] for task in known]
        body = b'{"items":[%b]}' % b",".join(bodies)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        return head % len(body) + body

    def frame(self, task: int) -> bytes:
        """Return one event of the stream as an HTTP chunk."""
        event = b"data: %b\n\n" % self._body("bytespike", task)
        return b"%x\r\n%b\r\n" % (len(event), event)

    def publish(self, first: int, count: int, *, final: bool) -> None:
        """Change tasks and write to their streams, one write each."""
        written: defaultdict[int, list[bytes]] = defaultdict(list)
        for seq in range(first, first + count):
            task = pick(seq, self.tasks)
            if final:
                self.final.add(task)
            if self.streams.get(task):
                self._change(task, seq)
                written[task].append(self.frame(task))
            else:
                self.fresh[task] = seq
        for task, frames in written.items():
            data = b"".join(frames)
            for transport in self.streams[task]:
                transport.write(data)

    def reset(self) -> None:
        """Reset the counts."""
        self.calls.clear()
        self.tenths.clear()

    def statistics(self) -> dict[str, object]:
        """Return the request counts."""
        seconds: Counter[int] = Counter()
        for tenth, number in self.tenths.items():
            seconds[tenth // 10] += number
        return {
            "status": self.calls["status"],
            "streams_opened": self.calls["stream"],
            "streams": sum(len(streams) for streams in self.streams.values()),
            "peak_tenth": max(self.tenths.values(), default=0),
            "peak_second": max(seconds.values(), default=0),
        }

    def _change(self, task: int, seq: int) -> None:
        self.marks[task] = token(seq)
        for provider in ("qingbo", "bytespike"):
            self.ready.pop((provider, task), None)

    def _body(self, provider: str, task: int) -> bytes:
        open_word = "processing" if provider == "qingbo" else "running"
        fields: dict[str, object] = {
            "task_id": f"t{task}",
            "status": open_word,
            "model": self.marks[task],
            "progress": 42,
        }
        if self.created_at is not None:
            fields["created_at"] = self.created_at
        if task in self.final:
            fields |= {"status": "completed", "progress": 100}
            fields["output"] = [{"url": "https://cdn.example/v.mp4", "type": "video"}]
        body = json.dumps(fields | {"prompt": ""}, separators=(",", ":"))
        return (body[:-2] + "x" * (self.size - len(body)) + body[-2:]).encode()


class ProviderConnection(asyncio.Protocol):
    """One connection of the bridge."""

    def __init__(self, state: ProviderState) -> None:
        self._state = state
        self._rest = b""
        self._transport: asyncio.Transport
        self._task: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(
            "asyncio.Transport", transport
        )  # uvloop's class does not derive from asyncio's

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self._rest += data
        while (end := self._rest.find(b"\r\n\r\n")) >= 0:
            head = self._rest[:end]
            size = 0
            if head.startswith(b"POST"):
                at = head.lower().find(b"content-length:")
                size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._rest) < end + 4 + size:
                return
            body = self._rest[end + 4 : end + 4 + size]
            self._rest = self._rest[end + 4 + size :]
            self._answer(head.split(b" ", 2)[1].decode(), body)

    def connection_lost(self, error: Exception | None) -> None:
        del error
        if self._task is not None:
            self._state.streams[self._task].discard(self._transport)

    def _answer(self, path: str, body: bytes) -> None:
        _, provider, *rest = path.split("/")
        name = rest[-1]
        if provider == "bytespike" and rest[:3] == ["v1", "tasks", "stream"]:
            self._stream(self._number(name))
            return
        if name.startswith("many?ids="):
            self._state.count("many")
            self._transport.write(self._state.many(name.removeprefix("many?ids=").split(",")))
            return
        if provider == "qingbo" and name == "tasks":
            self._state.count("submit")
            self._transport.write(self._state.submit(provider))
            return
        self._state.count("status")
        task = self._number(json.loads(body).get("task_id", "") if provider == "bytespike" else name)
        self._transport.write(_NOT_FOUND if task is None else self._state.status(provider, task))

    def _stream(self, task: int | None) -> None:
        if task is None:
            self._transport.write(_NOT_FOUND)
            return
        self._state.count("stream")
        self._task = task
        self._transport.write(_STREAM_HEAD + self._state.frame(task))
        self._state.streams[task].add(self._transport)

    def _number(self, name: str) -> int | None:
        number = int(name[1:]) if name[1:].isdecimal() else self._state.tasks
        return number if number < self._state.tasks else None


async def controlled(
    state: ProviderState, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve one control connection until it ends."""

    async def handle(word: str, numbers: list[int]) -> None:
        if word == "s":
            writer.write(json.dumps(state.statistics()).encode() + b"\n")
        elif word == "z":
            state.reset()
        elif word == "e":
            state.end(numbers[0], numbers[1])
        else:
            first, count, batch = numbers
            for begin in range(first, first + count, batch):
                state.publish(begin, min(batch, first + count - begin), final=word == "f")
                await asyncio.sleep(0)

    lines = Lines(handle)
    while data := await reader.read(65_536):
        await lines.feed(data)
    writer.close()


async def serve(port: int, control: int, state: ProviderState, seconds: float) -> None:
    """Serve for at most `seconds`."""
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: ProviderConnection(state), "127.0.0.1", port, backlog=4096)
    await asyncio.start_server(
        lambda reader, writer: controlled(state, reader, writer), "127.0.0.1", control, limit=1 << 20
    )
    print("provider listening", flush=True)
    await asyncio.sleep(seconds)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("control", type=int)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--size", type=int, default=300, help="bytes of one state")
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--dated", action="store_true", help="tasks have a time of creation: the start")
    config = parser.parse_args()
    state = ProviderState(config.tasks, config.size, dated=config.dated)
    uvloop.run(serve(config.port, config.control, state, config.seconds))


if __name__ == "__main__":
    main()
