"""Where webhooks leave from: one bridge with a file, three on one engine, one with three workers; each can be
killed in parts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp

from tests.chaos.site import Site, get
from tests.conftest import missing
from tests.harness import PATIENCE
from tests.replicas.engines import EngineProcess, Missing, engine_process, program
from tests.replicas.fleet import fleet
from tests.webhooks.provider import Provider, provider
from tests.webhooks.receiver import Receiver, Request, receiver

SECRET = "whsec_dGhlIHNlY3JldCBvZiB0aGUgdGVzdHMsIDMyIGJ5dGVz"
Kind = Literal["one", "three", "workers"]
QUICK = {"poll_min_seconds": 0.05, "poll_max_seconds": 0.2}


@dataclass(eq=False)
class Place:
    """What a test plays with.

    Attributes:
        sites: The bridges; one with workers is one.
        front: Where clients go; the balancer, if there are several.
    """

    kind: Kind
    provider: Provider
    receiver: Receiver
    http: aiohttp.ClientSession
    sites: list[Site]
    front: str
    engine: EngineProcess | None = None
    fleet: Any = None

    async def submit(
        self, at: str | None = None, *, query: str = "", headers: dict[str, str] | None = None, **body: Any
    ) -> tuple[int, Any]:
        """One submit; status and document."""
        url = f"{at or self.front}/v1/tasks/qingbo{query}"
        async with self.http.post(url, json={"model": "wan2.7", **body}, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def task(self, **body: Any) -> str:
        """Submit, and the ref of the task."""
        status, said = await self.submit(**body)
        assert status == 201, said
        return str(said["state"]["task"])

    def move(self, ref: str, status: str, progress: int = 0) -> None:
        """The provider shows that from now on."""
        self.provider.move(ref.partition("/")[2], status, progress)

    async def shows(self, ref: str, status: str, at: str | None = None) -> dict[str, Any]:
        """Wait until the bridge has recorded a status."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    code, state = await get(self.http, f"{at or self.front}/v1/tasks/{ref}")
                    if code == 200 and state["status"] == status:
                        return dict(state)
                await asyncio.sleep(0.02)

    def pids(self) -> list[int]:
        """Of all processes that may send."""
        found = []
        for site in self.sites:
            if site._bridge is not None:
                found += [site.pid, *descendants(site.pid)]
        return found

    def sender(self, request: Request) -> int:
        """The process that holds the other end of a request's connection."""
        pid = holder(self.pids(), request.peer[1], self.receiver.port)
        assert pid is not None, f"nobody holds {request.peer}"
        return pid

    async def kill(self, pid: int) -> None:
        """kill -9 a bridge or a worker; one alone is started again, a worker is replaced by its parent."""
        for site in self.sites:
            if site._bridge is not None and site.pid == pid:
                if self.fleet is not None:
                    await self.fleet.kill(next(one for one in self.fleet.replicas if one.site is site))
                else:
                    await site.end(signal.SIGKILL)
                    await site.start()
                return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async def kill_all(self) -> None:
        """kill -9 every process of the bridges, and start them again."""
        for site in self.sites:
            # All at one moment: a worker that outlives the others by an instant answers what it was asked.
            freeze(site.pid)
            pids = descendants(site.pid)
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            await site.end(signal.SIGKILL)
        await asyncio.gather(*(site.start() for site in self.sites))

    async def api(self, method: str, path: str, at: str | None = None, **more: Any) -> tuple[int, Any]:
        """One request to the bridge; status and document or text."""
        async with self.http.request(method, (at or self.front) + path, **more) as answer:
            is_json = "json" in answer.headers.get("Content-Type", "")
            return answer.status, await answer.json(content_type=None) if is_json else await answer.text()


def freeze(pid: int) -> None:
    """SIGSTOP: it does nothing more, its connections stay."""
    os.kill(pid, signal.SIGSTOP)


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


def holder(pids: Iterable[int], port: int, to: int) -> int | None:
    """The process that has a TCP connection from one local port to another."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if (int(words[1].rpartition(":")[2], 16), int(words[2].rpartition(":")[2], 16)) == (port, to):
            inodes.add(f"socket:[{words[9]}]")
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(fd.readlink()) in inodes:
                        return pid
    return None


def endpoint(at: Receiver, path: str = "/hook", **more: Any) -> dict[str, Any]:
    """A webhook in the configuration."""
    return {"url": at.url + path, "secret": SECRET} | more


@asynccontextmanager
async def place(kind: Kind, folder: Path, *, count: int = 3, **settings: Any) -> AsyncIterator[Place]:
    """A provider, a receiver, and bridges that tell it of every end (`webhooks` in the settings: of more)."""
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(provider())
        sink = await stack.enter_async_context(receiver(SECRET))
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        http = await stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE))
        )
        wishes: dict[str, Any] = {
            "webhooks": {"main": endpoint(sink)},
            "private_hosts": ["127.0.0.1"],
        } | settings
        if callable(wishes["webhooks"]):
            wishes["webhooks"] = wishes["webhooks"](sink)
        upstream = QUICK | wishes.pop("upstream", {})
        if kind == "three":
            try:
                program("valkey")
            except Missing as reason:
                missing(str(reason))
            engine = await stack.enter_async_context(engine_process("valkey"))
            bridges = await stack.enter_async_context(
                fleet(source.url, engine, count=count, upstream=upstream, **wishes)
            )
            sites = [one.site for one in bridges.replicas]
            yield Place(kind, source, sink, http, sites, bridges.url, engine, bridges)
            return
        if kind == "workers":
            wishes["workers"] = count
        site = Site(source.url, folder / "bridge.db", upstream=upstream, **wishes)
        stack.push_async_callback(site.close)
        await site.start()
        yield Place(kind, source, sink, http, [site], site.url)
        assert not site.complaints(), "".join(site.complaints())
