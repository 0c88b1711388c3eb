"""The engine as a worker sees it: every call goes to the keeper in the parent process."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Self, cast

import msgspec

from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import (
    DEFAULT_JOB_LIMITS,
    MAX_TASKS,
    Applied,
    Apply,
    Called,
    Census,
    Entry,
    Held,
    Job,
    JobLimits,
    Lent,
    Listing,
    Operation,
    Past,
    Put,
    Record,
    Release,
    Released,
    Report,
    Take,
    Waiting,
    Want,
    Wanted,
    Welcome,
)
from bridge.engine.keeper.wire import (
    DONE,
    OPERATIONS,
    PUSHED,
    READ,
    FrameSplitter,
    MalformedFrame,
    decode_entries,
    decode_result,
    encode,
    frame,
)
from bridge.engine.keeper.wire import NUMBERS as _N
from bridge.errors import EngineUnavailable

MAX_AHEAD = 20_000  # entries that were not read; beyond them the log is read again later

_MAX_NUMBER = 0xFFFFFFFF
_GONE = "the process that holds what workers share has ended"


class _WaitingCall(NamedTuple):
    """A call without an answer yet."""

    what: int
    answer: asyncio.Future[Any]
    until: float


class KeeperEngine:
    """Satisfies `bridge.engine.base.Engine`. One reader of the log at a time.

    Raises:
        EngineUnavailable: No answer came in time: the parent process is stopped, or busy. Or the connection
            has ended, which it does only once: this process ends then too.
    """

    def __init__(self, answer_seconds: float) -> None:
        self._timeout = answer_seconds
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._number = 0
        self._waiting: dict[int, _WaitingCall] = {}
        self._outgoing: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._lost = ""
        self._ahead: deque[Entry] = deque()
        self._more = asyncio.Event()
        self._reading = 0  # number of the read whose entries are pushed
        self._read_to = -1

    @classmethod
    async def open(cls, end: socket.socket, *, answer_seconds: float = 1.0) -> Self:
        """Over this process's end of a connection that the keeper made.

        Args:
            answer_seconds: The longest an answer may take.
        """
        end.setblocking(False)
        engine = cls(answer_seconds)
        loop = asyncio.get_running_loop()
        engine._transport, _ = await loop.create_connection(lambda: _KeeperProtocol(engine), sock=end)
        return engine

    async def read(self, after: int, *, block: float, limit: int = 1000) -> list[Entry]:
        """See `Engine`. What follows is pushed: to continue where the last read ended needs no call."""
        if after != self._read_to or (block <= 0 and not self._ahead):
            self._ahead.clear()
            self._reading = self._number % _MAX_NUMBER + 1
            self._read_to = after
            try:
                entries: list[Entry] = await self._call(READ, after, limit)
            except BaseException:
                self._read_to = -1  # the answer, should it still come, is lost
                raise
            self._ahead.extendleft(reversed(entries))
        if not self._ahead and block > 0:
            self._more.clear()
            if self._lost:
                raise EngineUnavailable(self._lost)
            try:
                async with asyncio.timeout(block):
                    await self._more.wait()
            except TimeoutError:
                pass
        if not self._ahead:
            if self._lost:
                raise EngineUnavailable(self._lost)
            return []
        found = [self._ahead.popleft() for _ in range(min(limit, len(self._ahead)))]
        self._read_to = found[-1].offset
        return found

    async def close(self) -> None:
        """End the connection, and with it the sessions opened over it."""
        self._transport.close()
        self.end("the connection is closed")

    def end(self, reason: str) -> None:
        """Fail every call, now and later. Idempotent."""
        if self._lost:
            return
        self._lost = reason
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(EngineUnavailable(reason))
        self._waiting.clear()
        self._more.set()

    # Calls

    async def _call(self, what: int, *arguments: Any) -> Any:
        if self._lost:
            raise EngineUnavailable(self._lost)
        self._number = number = self._number % _MAX_NUMBER + 1
        try:
            body = encode(arguments)
        except (ValueError, TypeError, OverflowError) as error:  # such as a name with unpaired surrogates
            raise EngineUnavailable(f"the call cannot be encoded: {error}") from None
        if not self._outgoing:
            self._loop.call_soon(self._flush)  # with the other calls of this turn
        self._outgoing.append(frame(number, what, body))
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[number] = _WaitingCall(what, answer, self._loop.time() + self._timeout)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._check)
        return await answer

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if not self._lost:
            self._transport.write(b"".join(outgoing))

    def _check(self) -> None:
        """Fail calls that have timed out; the oldest come first."""
        self._timer = None
        now = self._loop.time()
        while self._waiting:
            number, waiting = next(iter(self._waiting.items()))
            if waiting.until > now:
                self._timer = self._loop.call_at(waiting.until, self._check)
                return
            del self._waiting[number]
            if not waiting.answer.done():
                waiting.answer.set_exception(EngineUnavailable(f"no answer within {self._timeout:g} seconds"))

    def received(self, number: int, what: int, body: memoryview) -> None:
        """A frame of the keeper.

        Raises:
            MalformedFrame: It is none that it may send.
        """
        if what == PUSHED:
            # That of an earlier read is left over.
            if number == self._reading and self._read_to >= 0:
                self._ahead.extend(decode_entries(body))
                if len(self._ahead) > MAX_AHEAD:
                    self._ahead.clear()
                    self._read_to = -1
                self._more.set()
            return
        waiting = self._waiting.get(number)
        if waiting is None or waiting.answer.done():
            self._waiting.pop(number, None)
            return  # it timed out, or the caller was cancelled
        if what != DONE:
            sentence = msgspec.msgpack.decode(body, type=str)
            waiting.answer.set_exception(EngineUnavailable(f"the engine failed: {sentence[:500]}"))
        elif waiting.what == READ:
            waiting.answer.set_result(decode_entries(body))
        else:
            waiting.answer.set_result(decode_result(OPERATIONS[waiting.what], body))
        del self._waiting[number]  # only now: if it cannot be decoded, the call fails with all others

    # The operations

    async def session(
        self, session: str, *, ttl: float, known_head: int, new_epoch: str, about: bytes, opens: bool
    ) -> Welcome:
        """See `Engine`."""
        done: Welcome = await self._call(_N["session"], session, ttl, known_head, new_epoch, about, opens)
        return done

    async def leave(self, session: str) -> None:
        """See `Engine`."""
        await self._call(_N["leave"], session)

    async def bury(self, *, limit: int, spacing: float) -> int:
        """See `Engine`."""
        done: int = await self._call(_N["bury"], limit, spacing)
        return done

    async def want(self, session: str, wants: Sequence[Want], *, linger: float) -> list[Wanted]:
        """See `Engine`."""
        done: list[Wanted] = await self._call(_N["want"], session, wants, linger)
        return done

    async def owned(self, session: str, *, after: TaskKey | None, limit: int) -> list[TaskKey]:
        """See `Engine`."""
        done: list[TaskKey] = await self._call(_N["owned"], session, after, limit)
        return done

    async def rewant(self, keys: Sequence[TaskKey], *, linger: float) -> None:
        """See `Engine`."""
        await self._call(_N["rewant"], keys, linger)

    async def keep(self, session: str, key: TaskKey, *, called_back: bool) -> None:
        """See `Engine`."""
        await self._call(_N["keep"], session, key, called_back)

    async def claim(self, session: str, *, account: str, limit: int) -> list[Record]:
        """See `Engine`."""
        done: list[Record] = await self._call(_N["claim"], session, account, limit)
        return done

    async def release(self, session: str, releases: Sequence[Release], *, transfer: bool) -> list[Released]:
        """See `Engine`."""
        done: list[Released] = await self._call(_N["release"], session, releases, transfer)
        return done

    async def call(
        self, session: str, key: TaskKey, *, called_back: bool = False
    ) -> tuple[Called, TaskKey | None]:
        """See `Engine`."""
        done: tuple[Called, TaskKey | None] = await self._call(_N["call"], session, key, called_back)
        return done

    async def apply(
        self, session: str, states: Sequence[Apply], *, limits: JobLimits = DEFAULT_JOB_LIMITS
    ) -> list[Applied]:
        """See `Engine`."""
        done: list[Applied] = await self._call(_N["apply"], session, states, limits)
        return done

    async def records(self, keys: Sequence[TaskKey]) -> list[Record]:
        """See `Engine`."""
        done: list[Record] = await self._call(_N["records"], keys)
        return done

    async def history(self, key: TaskKey, after: int) -> list[Past]:
        """See `Engine`."""
        done: list[Past] = await self._call(_N["history"], key, after)
        return done

    async def newest(self, upstream: str, account: str, *, final: bool, limit: int) -> list[TaskKey]:
        """See `Engine`."""
        done: list[TaskKey] = await self._call(_N["newest"], upstream, account, final, limit)
        return done

    async def listing(
        self,
        upstream: str,
        account: str,
        *,
        tag: str = "",
        group: str = "",
        before: int = 0,
        limit: int = MAX_TASKS,
    ) -> list[Listing]:
        """See `Engine`."""
        done: list[Listing] = await self._call(_N["listing"], upstream, account, tag, group, before, limit)
        return done

    async def accounts(self, upstream: str) -> list[str]:
        """See `Engine`."""
        done: list[str] = await self._call(_N["accounts"], upstream)
        return done

    async def oldest(self, upstream: str, account: str, *, after: int, limit: int) -> list[Listing]:
        """See `Engine`."""
        done: list[Listing] = await self._call(_N["oldest"], upstream, account, after, limit)
        return done

    async def forget(self, session: str, key: TaskKey) -> bool:
        """See `Engine`."""
        done: bool = await self._call(_N["forget"], session, key)
        return done

    async def register(self, session: str, key: TaskKey, details: bytes) -> int:
        """See `Engine`."""
        done: int = await self._call(_N["register"], session, key, details)
        return done

    async def announce(self, session: str, key: TaskKey, code: str, body: bytes | None) -> int:
        """See `Engine`."""
        done: int = await self._call(_N["announce"], session, key, code, body)
        return done

    async def confirm(self, session: str, confirmed: Sequence[tuple[TaskKey, Confirmation]]) -> None:
        """See `Engine`."""
        await self._call(_N["confirm"], session, confirmed)

    async def take(self, session: str, take: Take) -> Lent:
        """See `Engine`."""
        done: Lent = await self._call(_N["take"], session, take)
        return done

    async def report(
        self, session: str, credential: str, report: Report, *, seconds: float = 0.0
    ) -> tuple[int, int]:
        """See `Engine`."""
        done: tuple[int, int] = await self._call(_N["report"], session, credential, report, seconds)
        return done

    async def probe(self, session: str, credential: str, *, seconds: float) -> bool:
        """See `Engine`."""
        done: bool = await self._call(_N["probe"], session, credential, seconds)
        return done

    async def learn(self, name: str, samples: Sequence[bytes], *, keep: int) -> None:
        """See `Engine`."""
        await self._call(_N["learn"], name, samples, keep)

    async def learned(self, names: Sequence[str]) -> list[list[bytes]]:
        """See `Engine`."""
        done: list[list[bytes]] = await self._call(_N["learned"], names)
        return done

    async def put(
        self, name: str, value: bytes | None, *, expect: int | None, seconds: float, announced: bool = False
    ) -> Put:
        """See `Engine`."""
        done: Put = await self._call(_N["put"], name, value, expect, seconds, announced)
        return done

    async def get(self, names: Sequence[str]) -> list[tuple[int, bytes | None]]:
        """See `Engine`."""
        done: list[tuple[int, bytes | None]] = await self._call(_N["get"], names)
        return done

    async def begin(self, session: str, name: str, digest: bytes, *, seconds: float) -> Operation:
        """See `Engine`."""
        done: Operation = await self._call(_N["begin"], session, name, digest, seconds)
        return done

    async def finish(self, session: str, name: str, answer: bytes | None) -> bool:
        """See `Engine`."""
        done: bool = await self._call(_N["finish"], session, name, answer)
        return done

    async def add_jobs(self, jobs: Sequence[Job], *, limits: JobLimits = DEFAULT_JOB_LIMITS) -> int:
        """See `Engine`."""
        done: int = await self._call(_N["add_jobs"], jobs, limits)
        return done

    async def claim_jobs(
        self, session: str, queue: str, *, limit: int, lease: float, ahead: float = 0.0
    ) -> list[Job]:
        """See `Engine`."""
        done: list[Job] = await self._call(_N["claim_jobs"], session, queue, limit, lease, ahead)
        return done

    async def finish_job(
        self, session: str, queue: str, job: str, *, retry_at: int = 0, attempted: bool = True
    ) -> bool:
        """See `Engine`."""
        done: bool = await self._call(_N["finish_job"], session, queue, job, retry_at, attempted)
        return done

    async def waiting(self, queues: Sequence[str]) -> list[Waiting]:
        """See `Engine`."""
        done: list[Waiting] = await self._call(_N["waiting"], queues)
        return done

    async def drop_queue(self, queue: str) -> int:
        """See `Engine`."""
        done: int = await self._call(_N["drop_queue"], queue)
        return done

    async def hold(self, counter: str, hold: str, amount: float, *, limit: float, window: float) -> Held:
        """See `Engine`."""
        done: Held = await self._call(_N["hold"], counter, hold, amount, limit, window)
        return done

    async def settle(self, counter: str, hold: str, amount: float) -> None:
        """See `Engine`."""
        await self._call(_N["settle"], counter, hold, amount)

    async def census(self) -> Census:
        """See `Engine`."""
        done: Census = await self._call(_N["census"])
        return done


class _KeeperProtocol(asyncio.Protocol):
    """Hands frames to the engine."""

    def __init__(self, engine: KeeperEngine) -> None:
        self._engine = engine
        self._frames = FrameSplitter()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it, to end it."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Complete calls, and take entries in."""
        try:
            for number, what, body in self._frames.split(data):
                self._engine.received(number, what, body)
        except (MalformedFrame, msgspec.MsgspecError) as error:
            self._engine.end(f"the keeper sent a malformed answer: {error}")
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The keeper is gone."""
        del exc
        self._engine.end(_GONE)
