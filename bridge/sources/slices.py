"""Parses what providers send in slices of time, so that no flood of theirs blocks the event loop.

aiohttp parses what the kernel hands over in one go, 256 KiB at a time: ten thousand `103 Early Hints` take
over a second. Here its protocol gets them in pieces, and a connection above its rate is not read from.
Nothing is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from bridge.clock import SystemClock, thread_seconds
from bridge.core.loop_time import SLICE_SECONDS, ConnectionTime, LoopTime

_END_OF_HEAD = b"\r\n\r\n"
_MAX_QUEUED = 64  # messages that aiohttp has parsed and no reader has taken: an idle connection
_PARSED_AND_READ = 2  # for tiny chunks, taking them from the buffer costs as much as parsing
_SMALL = 2048  # what a response about one task has, with its head
_QUICK_SECONDS = SLICE_SECONDS / 8
_CLOCK = SystemClock().monotonic
_TRANSPORT_ERRORS = (AttributeError, NotImplementedError, RuntimeError)  # closed, or without flow control


class Turns:
    """The turns of one connection, or of one reader of what came over it.

    Args:
        shared: The time of all connections.
        clock: Monotonic seconds.
        work: CPU seconds of the calling thread, which are billed: on a busy machine a short piece of work may
            be interrupted for long.
    """

    __slots__ = ("_clock", "_shared", "_since", "_time", "work")

    def __init__(
        self,
        shared: LoopTime,
        clock: Callable[[], float] = _CLOCK,
        work: Callable[[], float] = thread_seconds,
    ) -> None:
        self._shared = shared
        self._time = ConnectionTime(shared)
        self._since = clock()
        self._clock = clock
        self.work = work

    def anew(self) -> Turns:
        """Those of the next response on the same connection."""
        return Turns(self._shared, self._clock, self.work)

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    @property
    def rest(self) -> float:
        """Seconds until the next turn; 0 for now."""
        return self._time.rest(self._clock())

    @property
    def piece(self) -> int:
        """How many bytes to parse next."""
        return self._time.piece

    def bill(self, size: int, began: float, times: int = 1) -> float:
        """Bill the work since `began`, in which so many bytes were parsed; returns its seconds.

        Args:
            began: What `work` said then.
            times: How often to bill it: what is parsed here may take as long again elsewhere.
        """
        seconds = self.work() - began
        self.spend(seconds * times)
        self._time.measured(size, seconds)
        return seconds

    def spend(self, seconds: float) -> None:
        """Bill so much time."""
        self._time.spend(seconds, self._clock())

    async def pause(self) -> None:
        """Wait for the next turn, and let others run when this reader has not for a whole slice."""
        now = self._clock()
        seconds = self._time.rest(now)
        if seconds > 0 or now - self._since > SLICE_SECONDS:
            await asyncio.sleep(seconds)
            self._since = self._clock()

    async def pieces(self, chunk: bytes) -> AsyncIterator[bytes]:
        """The chunk cut into what one turn can parse, each in its turn; the caller bills them."""
        at = 0
        while at < len(chunk):
            await self.pause()
            piece = chunk[at : at + self.piece]
            at += len(piece)
            yield piece


class SlicedConnection(ResponseHandler):
    """aiohttp's protocol of one connection, which parses in turns.

    Args:
        turns: Those of this connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, turns: Turns) -> None:
        super().__init__(loop)
        self._turns = turns
        self._turns_used = False
        self._held = bytearray()
        self._next: asyncio.Handle | None = None
        self._is_slowed = False
        self._awaited = True  # nothing has come of the response
        self._head_awaited = True
        self._idle = False
        self._lost: tuple[BaseException | None] | None = None

    def data_received(self, data: bytes) -> None:
        """Parse it, or hold it back until the next turn."""
        if not data:
            # aiohttp continues with what it has, such as a body to decompress.
            began = self.turns.work()
            super().data_received(data)
            self.turns.bill(0, began, _PARSED_AND_READ)
            return
        if self._idle:
            self.close()  # a second answer, or a 408: the next request would get it as its own
            return
        if self._awaited and len(data) <= _SMALL and self._next is None and self._may_parse():
            self._parse_small(data)
            return
        self._awaited = False
        self._held += data
        if self._next is None:
            self._parse()

    def set_response_params(self, *args: Any, **more: Any) -> None:  # the signature differs between versions
        """A request begins: another task's response does not rest for what the one before it took."""
        self._idle = self._turns_used = False
        self._awaited = self._head_awaited = True
        super().set_response_params(*args, **more)

    @property
    def turns(self) -> Turns:
        """Those of the response that is received."""
        if not self._turns_used:
            # Not for each: a small response never needs them.
            self._turns, self._turns_used = self._turns.anew(), True
        return self._turns

    def resume_reading(self, *args: Any, **more: Any) -> None:  # the signature differs between versions
        """Read again, in turns; aiohttp calls this for every chunk that is taken."""
        if not self._reading_paused:
            return
        super().resume_reading(*args, **more)
        if self._next is None:
            self._continue()
        else:
            self._slow()

    def connection_lost(self, exc: BaseException | None) -> None:
        """What was received before is parsed first."""
        if self._held and self.transport is not None:
            self._lost = (exc,)
            return
        self._forget()
        super().connection_lost(exc)

    def close(self) -> None:
        """Close it; what is held is not read."""
        self._drop()
        super().close()

    def abort(self) -> None:
        """Close it at once."""
        self._drop()
        super().abort()

    @property
    def should_close(self) -> bool:
        """Whether it cannot be used for another request: it holds bytes that answer no request.

        aiohttp asks when a response has ended. Until the next request nothing is expected.
        """
        self._idle = not self._held and not super().should_close
        return not self._idle

    def _parse_small(self, data: bytes) -> None:
        """The begin of a response, usually all of it, at once; nothing is held.

        Thousands of them come in a second, and what is quick is not billed: no more of it is parsed for each
        request of ours. Elapsed time is read much faster than that of the thread, and is not less.
        """
        self._awaited = False
        began = self._turns.now()
        head, rest = data, b""
        end = data.find(_END_OF_HEAD)
        if end >= 0:
            end += len(_END_OF_HEAD)
            head, rest = data[:end], data[end:]  # for the reason given in `_size_of_piece`
            self._head_awaited = False
        super().data_received(head)
        if rest and not self._may_parse():
            self._held += rest
        elif rest:
            super().data_received(rest)
            if self._idle and len(self):
                self.close()
                return
        took = self._turns.now() - began
        if took > _QUICK_SECONDS:
            self.turns.spend(took * _PARSED_AND_READ)
            self._continue()
        elif self._held:
            self._continue()

    def _parse(self) -> None:
        """One slice of what is held."""
        self._next = None
        left = SLICE_SECONDS
        while self._held and left > 0 and self._may_parse() and not self.turns.rest:
            piece = bytes(self._held[: self._size_of_piece()])
            del self._held[: len(piece)]
            began = self.turns.work()
            super().data_received(piece)
            left -= self.turns.bill(len(piece), began, _PARSED_AND_READ)
            if self._idle and len(self):
                self.close()  # the piece had the end of the response, and another one
                return
        self._continue()

    def _size_of_piece(self) -> int:
        """Bytes to parse next: a head without what follows it.

        aiohttp forgets a head if what it parses together with it is not valid, such as the body of a 204.
        """
        size = self.turns.piece
        if self._head_awaited:
            end = self._held.find(_END_OF_HEAD, 0, size)
            if end >= 0:
                self._head_awaited = False
                return end + len(_END_OF_HEAD)
        return size

    def _may_parse(self) -> bool:
        return not self._reading_paused and len(self) <= _MAX_QUEUED

    def _continue(self) -> None:
        """Arrange the next slice, or read on."""
        rest = self.turns.rest
        if self._held and len(self) > _MAX_QUEUED:
            rest = max(rest, SLICE_SECONDS * 5)
        if rest > 0:
            self._slow()
            self._next = self._loop.call_later(rest, self._parse)
        elif self._held and not self._reading_paused:
            self._slow()
            self._next = self._loop.call_soon(self._parse)
        elif self._held:
            self._slow()  # until the reader has taken what aiohttp holds
        elif self._lost is not None:
            self.connection_lost(self._lost[0])
        elif self._is_slowed:
            self._is_slowed = False
            if not self._reading_paused and self.transport is not None:
                with suppress(*_TRANSPORT_ERRORS):
                    self.transport.resume_reading()

    def _slow(self) -> None:
        self._is_slowed = True
        if self.transport is not None:
            with suppress(*_TRANSPORT_ERRORS):
                self.transport.pause_reading()

    def _forget(self) -> None:
        self._held.clear()
        self._lost = None
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _drop(self) -> None:
        lost = self._lost
        self._forget()
        if lost is not None:
            super().connection_lost(lost[0])


def slice_connections(connector: aiohttp.BaseConnector, shared: LoopTime) -> None:
    """Let all connections of a connector parse in turns."""
    loop = asyncio.get_running_loop()
    # The library has no setting for its protocol class; a test fails when this name is another.
    connector._factory = lambda: SlicedConnection(loop, Turns(shared))  # type: ignore[assignment]  # noqa: SLF001 - see above
