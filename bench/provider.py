"""A provider that costs next to nothing: status calls and ByteSpike's stream, moved by a control connection.

It shares nothing with the bridge. No HTTP library: a core answers tens of thousands of calls a second.

Control, one command a line:
    p FROM COUNT BATCH   states FROM .. FROM+COUNT-1, BATCH in one turn of the loop
    f FROM COUNT BATCH   the same, final
    s                    answers what was asked of us, as JSON
    z                    forgets what was asked of us
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


class World:
    """Every task of the provider and who listens to it."""

    def __init__(self, tasks: int, size: int) -> None:
        self.tasks = tasks
        self.size = size
        self.marks = [token(0)] * tasks
        self.fresh: dict[
            int, int
        ] = {}  # changed, and not yet asked for: the stamp is the moment of answering
        self.final: set[int] = set()
        self.ready: dict[tuple[str, int], bytes] = {}
        self.streams: defaultdict[int, set[asyncio.Transport]] = defaultdict(set)
        self.calls: Counter[str] = Counter()
        self.tenths: Counter[int] = Counter()

    def counted(self, call: str) -> None:
        """One call more."""
        self.calls[call] += 1
        if call == "status":
            self.tenths[time.monotonic_ns() // 100_000_000] += 1

    def status(self, provider: str, task: int) -> bytes:
        """The answer of a status call, the same bytes until the task changes."""
        if (seq := self.fresh.pop(task, None)) is not None:
            self._change(task, seq)
        answer = self.ready.get((provider, task))
        if answer is None:
            body = self._body(provider, task)
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            answer = self.ready[provider, task] = head % len(body) + body
        return answer

    def frame(self, task: int) -> bytes:
        """One event of the stream, as a chunk."""
        event = b"data: %b\n\n" % self._body("bytespike", task)
        return b"%x\r\n%b\r\n" % (len(event), event)

    def publish(self, first: int, count: int, *, final: bool) -> None:
        """Change tasks and tell the streams, one write each."""
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

    def forget(self) -> None:
        """Count anew."""
        self.calls.clear()
        self.tenths.clear()

    def statistics(self) -> dict[str, object]:
        """What was asked of us."""
        seconds: Counter[int] = Counter()
        for tenth, number in self.tenths.items():
            seconds[tenth // 10] += number
        return {
            "status": self.calls["status"],
            "streams_opened": self.calls["stream"],
            "streams": sum(len(one) for one in self.streams.values()),
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
        if task in self.final:
            fields |= {"status": "completed", "progress": 100}
            fields["output"] = [{"url": "https://cdn.example/v.mp4", "type": "video"}]
        body = json.dumps(fields | {"prompt": ""}, separators=(",", ":"))
        return (body[:-2] + "x" * (self.size - len(body)) + body[-2:]).encode()


class Answering(asyncio.Protocol):
    """One connection of the bridge."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rest = b""
        self._transport: asyncio.Transport
        self._task: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
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
        """Gone."""
        del error
        if self._task is not None:
            self._world.streams[self._task].discard(self._transport)

    def _answer(self, path: str, body: bytes) -> None:
        _, provider, *rest = path.split("/")
        name = rest[-1]
        if provider == "bytespike" and rest[:3] == ["v1", "tasks", "stream"]:
            self._stream(self._number(name))
            return
        self._world.counted("status")
        task = self._number(json.loads(body).get("task_id", "") if provider == "bytespike" else name)
        self._transport.write(_NOT_FOUND if task is None else self._world.status(provider, task))

    def _stream(self, task: int | None) -> None:
        if task is None:
            self._transport.write(_NOT_FOUND)
            return
        self._world.counted("stream")
        self._task = task
        self._transport.write(_STREAM_HEAD + self._world.frame(task))
        self._world.streams[task].add(self._transport)

    def _number(self, name: str) -> int | None:
        number = int(name[1:]) if name[1:].isdecimal() else self._world.tasks
        return number if number < self._world.tasks else None


async def controlled(world: World, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Obey one control connection until it ends."""

    async def obey(word: str, numbers: list[int]) -> None:
        if word == "s":
            writer.write(json.dumps(world.statistics()).encode() + b"\n")
        elif word == "z":
            world.forget()
        else:
            first, count, batch = numbers
            for begin in range(first, first + count, batch):
                world.publish(begin, min(batch, first + count - begin), final=word == "f")
                await asyncio.sleep(0)

    lines = Lines(obey)
    while data := await reader.read(65_536):
        await lines.feed(data)
    writer.close()


async def serve(port: int, control: int, world: World, seconds: float) -> None:
    """Serve, and end by itself after `seconds` at the latest."""
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Answering(world), "127.0.0.1", port, backlog=4096)
    await asyncio.start_server(
        lambda reader, writer: controlled(world, reader, writer), "127.0.0.1", control, limit=1 << 20
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
    config = parser.parse_args()
    uvloop.run(serve(config.port, config.control, World(config.tasks, config.size), config.seconds))


if __name__ == "__main__":
    main()
