"""A TCP proxy with bad manners: what a network, a middlebox or a dying peer does to a connection.

Every verb works on one connection (`Line`) or, by `Proxy.behave`, on those that are open and those to come.
Nothing here is left to chance but by `Whims`, which is the same for the same seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

HOST = "127.0.0.1"
LINGER_0 = struct.pack("ii", 1, 0)
_READ = 16 * 1024
_HEAD = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How a connection is treated; what is not said is passed on at once, as it came.

    Args:
        deaf: Stop reading, on both sides; the senders' buffers fill.
        hole: Take everything and pass on nothing.
        split: Each byte is a write of its own.
        delay: Seconds before each write; before each byte when split. What comes meanwhile waits.
        latency: Seconds that each byte takes to pass, as over a long way: nothing waits for what is before.
        reset_after: Reset both sides once so many bytes of the answer were passed on.
        half_close_after: The same, but the asking side is only told that no more will come.
    """

    deaf: bool = False
    hole: bool = False
    split: bool = False
    delay: float = 0.0
    latency: float = 0.0
    reset_after: int | None = None
    half_close_after: int | None = None


GOOD = Manners()
DEAF = Manners(deaf=True)
HOLE = Manners(hole=True)
SPLIT = Manners(split=True)


class Line:
    """One connection through the proxy.

    Attributes:
        head: The first bytes of the asking side, by which a test knows what this is.
        answered: Bytes of the answer that were passed on.
    """

    def __init__(self, number: int, manners: Manners, moved: Callable[[], None]) -> None:
        self.number = number
        self.head = bytearray()
        self.answered = 0
        self._manners = manners
        self._changed = asyncio.Event()
        self._moved = moved
        self._writers: list[asyncio.StreamWriter] = []
        self._over = False
        self._arrivals: dict[asyncio.StreamWriter, float] = {}  # when what was read last arrives

    @property
    def manners(self) -> Manners:
        return self._manners

    def behave(self, manners: Manners) -> None:
        """From now on."""
        self._manners = manners
        self._changed.set()
        self._changed = asyncio.Event()

    def reset(self) -> None:
        """Both sides see a connection reset."""
        self._over = True
        for writer in self._writers:
            abort(writer)

    def half_close(self) -> None:
        """The asking side is told that no more will come; it may go on asking."""
        self._over = True
        with contextlib.suppress(OSError, RuntimeError):
            self._writers[0].write_eof()

    async def run(
        self,
        asking: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        answering: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass on until both sides have nothing more to say."""
        self._writers = [asking[1], answering[1]]
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(asking[0], answering[1], answer=False))
                both.create_task(self._pump(answering[0], asking[1], answer=True))
        finally:
            for writer in self._writers:
                writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answer: bool) -> None:
        try:
            while True:
                await self._hearing()
                data = await source.read(_READ)
                if not data:
                    break
                if not answer and len(self.head) < _HEAD:
                    self.head += data
                await self._hearing()
                if self._manners.latency or sink in self._arrivals:
                    self._pass_later(data, sink)
                elif not (self._manners.hole or (answer and self._over)):
                    await self._pass(data, sink, answer=answer)
                self._moved()
            if not (self._manners.hole or self._over):
                sink.write_eof()
        except OSError:
            self.reset()  # what one side did the other side feels

    def _pass_later(self, data: bytes, sink: asyncio.StreamWriter) -> None:
        """Write when it has arrived; in order, also when the way has become shorter meanwhile."""
        loop = asyncio.get_running_loop()
        at = max(loop.time() + self._manners.latency, self._arrivals.get(sink, 0.0) + 1e-6)
        self._arrivals[sink] = at

        def arrive() -> None:
            if not (self._over or self._manners.hole or sink.transport.is_closing()):
                with contextlib.suppress(RuntimeError):  # the other side has said its last meanwhile
                    sink.write(data)
            if self._arrivals.get(sink) == at and not self._manners.latency:
                del self._arrivals[sink]

        loop.call_at(at, arrive)

    async def _hearing(self) -> None:
        while self._manners.deaf:
            await self._changed.wait()

    async def _pass(self, data: bytes, sink: asyncio.StreamWriter, *, answer: bool) -> None:
        for part in self._parts(data):
            if self._manners.delay:
                await asyncio.sleep(self._manners.delay)
            piece, cut = self._allowed(part) if answer else (part, None)
            sink.write(piece)
            await sink.drain()
            if answer:
                self.answered += len(piece)
            if cut is not None:
                cut()
                return

    def _parts(self, data: bytes) -> list[bytes]:
        return [data[at : at + 1] for at in range(len(data))] if self._manners.split else [data]

    def _allowed(self, part: bytes) -> tuple[bytes, Callable[[], None] | None]:
        for limit, cut in (
            (self._manners.reset_after, self.reset),
            (self._manners.half_close_after, self.half_close),
        ):
            if limit is not None and self.answered + len(part) >= limit:
                return part[: max(limit - self.answered, 0)], cut
        return part, None


class Proxy:
    """Listens on an address of its own and relays to `target`, which may change at any time.

    Args:
        target: Where to; a function is asked for each connection.
        choose: How a new connection is treated, by its number; `behave` puts something else in its place.

    Attributes:
        lines: The connections that are open.
        opened: How many there have been.
    """

    def __init__(
        self,
        target: tuple[str, int] | Callable[[], tuple[str, int]],
        choose: Callable[[int], Manners] | None = None,
    ) -> None:
        self.target = target
        self.lines: dict[Line, asyncio.Task[None]] = {}
        self.opened = 0
        self.port = 0
        self._choose = choose or (lambda _: GOOD)
        self._server: asyncio.Server | None = None
        self._news = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def listening(self) -> bool:
        return self._server is not None

    def behave(self, manners: Manners, where: Callable[[Line], bool] = lambda _: True) -> None:
        """Treat what is open, where it is so, and everything that comes like this."""
        self._choose = lambda _: manners
        for line in list(self.lines):
            if where(line):
                line.behave(manners)

    def choose(self, choose: Callable[[int], Manners]) -> None:
        """Treat what comes as `choose` says."""
        self._choose = choose

    def reset_all(self) -> None:
        """Cut every open connection."""
        for line in list(self.lines):
            line.reset()

    async def listen(self) -> None:
        """Accept connections, again on the same port after `refuse`."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.port:
            listener.bind((HOST, self.port))
        else:
            self.port = bind_low(listener)
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=_READ, backlog=1024)

    def refuse(self) -> None:
        """Whoever connects from now on is refused; what is open stays."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        """Refuse, and drop what is open."""
        self.refuse()
        tasks = list(self.lines.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def until(self, true: Callable[[], bool], seconds: float) -> None:
        """Wait for something that bytes or connections bring about."""
        async with asyncio.timeout(seconds):
            while not true():
                await self._news.wait()

    def _moved(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        line = Line(self.opened, self._choose(self.opened), self._moved)
        task = asyncio.current_task()
        assert task is not None
        self.lines[line] = task
        self._moved()
        host, port = self.target() if callable(self.target) else self.target
        try:
            far = await asyncio.open_connection(host, port, limit=_READ)
        except OSError:
            abort(writer)
        else:
            with contextlib.suppress(asyncio.CancelledError):  # the server's own callback would log it
                await line.run((reader, writer), far)
        finally:
            del self.lines[line]
            writer.transport.abort()
            self._moved()


class Whims:
    """Manners by chance; the same seed gives the same ones to the same connections.

    Args:
        rate: The share of connections that are treated badly.
    """

    def __init__(self, seed: int, rate: float = 0.5) -> None:
        self._seed = seed
        self._rate = rate

    def __call__(self, number: int) -> Manners:
        chance = random.Random(f"{self._seed}/{number}")
        if chance.random() >= self._rate:
            return GOOD
        made = chance.choice(
            [
                Manners(reset_after=chance.randrange(1, 3000)),
                Manners(half_close_after=chance.randrange(1, 3000)),
                Manners(split=True, reset_after=chance.randrange(1000, 5000)),
                Manners(delay=chance.uniform(0.01, 0.3)),
                Manners(hole=True),
                Manners(deaf=True),
            ]
        )
        return replace(made, delay=made.delay or chance.choice([0.0, 0.01]))


@asynccontextmanager
async def proxied(url: str, choose: Callable[[int], Manners] | None = None) -> AsyncIterator[Proxy]:
    """A proxy in front of an http address."""
    place = url.removeprefix("http://").partition("/")[0]
    host, _, port = place.rpartition(":")
    proxy = Proxy((host, int(port)), choose)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.close()


def abort(writer: asyncio.StreamWriter) -> None:
    """End a connection by a reset, dropping what is buffered."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    writer.transport.abort()


def bind_low(listener: socket.socket) -> int:
    """Bind below the ports that the system gives to those who connect.

    A port from among those could be taken by a client while nobody listens on it; a client that
    tries to reach it may even meet itself.
    """
    for port in random.sample(range(18_000, 30_000), 200):
        with contextlib.suppress(OSError):
            listener.bind((HOST, port))
            return port
    raise OSError("no free port below those for outgoing connections")


def free_port() -> int:
    """A port that can be listened on again and again."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return bind_low(probe)
