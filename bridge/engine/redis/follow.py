"""The connection on which the log is read: one blocked read at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from bridge.engine.base import Entry
from bridge.engine.redis.replies import UnreadableReply, read_entry
from bridge.engine.redis.wire import abort, explain, pack
from bridge.errors import EngineRefused, EngineUnavailable

MAX_BLOCK = 30.0


class LogReader:
    """Reads the log of the engine.

    A cancelled read stays at the server, which cannot cancel it. The next one waits for its answer, and uses
    it if it asks for the same.

    Args:
        connection: Connected; its own.
        log: The key.
        timeout: Seconds an answer may take beyond the time for which it was to wait.
        where: The server, for errors.
        broke: Called once, when it breaks.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        log: bytes,
        *,
        timeout: float,
        where: str,
        broke: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._log = log
        self._timeout = timeout
        self._where = where
        self._broke = broke
        self._reason: str | None = None
        self._pending: tuple[int, asyncio.Task[list[Entry]]] | None = None

    async def read(self, after: int, *, block: float, limit: int) -> list[Entry]:
        """See `Engine.read`."""
        if self._pending is not None:
            asked, task = self._pending
            entries = await asyncio.shield(task)
            self._pending = None
            if asked == after and entries:
                return entries
        if self._reason is not None:
            raise EngineUnavailable(self._reason)
        task = asyncio.create_task(
            self._ask(after, min(max(block, 0.0), MAX_BLOCK), limit), name="engine log"
        )
        self._pending = after, task
        entries = await asyncio.shield(task)
        self._pending = None
        return entries

    def break_off(self, reason: str) -> None:
        """Give up the connection."""
        if self._reason is None:
            self._reason = reason
            abort(self._connection)

    async def close(self) -> None:
        """Close the connection."""
        self.break_off(f"the connection to {self._where} was closed")
        if self._pending is not None:
            self._pending[1].cancel()
            await asyncio.gather(self._pending[1], return_exceptions=True)

    async def _ask(self, after: int, block: float, limit: int) -> list[Entry]:
        # BLOCK 0 would wait without limit.
        wait = ("BLOCK", max(round(block * 1000), 1)) if block else ()
        command = ("XREAD", "COUNT", limit, *wait, "STREAMS", self._log, f"{after}-0")
        kind = EngineUnavailable
        try:
            async with asyncio.timeout(block + self._timeout):
                await self._connection.send_packed_command(pack(*command), check_health=False)
                answer = await self._connection.read_response(disable_decoding=True)
            return self._entries(answer)
        except TimeoutError:
            reason = f"{self._where} did not answer within {self._timeout:g} s"
        except (RedisError, OSError, hiredis.HiredisError) as error:
            kind = EngineRefused if isinstance(error, ResponseError) else EngineUnavailable
            reason = explain(error, self._where)
        except UnreadableReply as error:
            reason = f"{self._where} has {error}"
        except Exception as error:  # noqa: BLE001 - what was written by somebody else may be anything
            reason = f"{self._where} has an entry that cannot be read ({type(error).__name__})"
        self.break_off(reason)
        self._broke(reason)
        raise kind(self._reason or reason)

    def _entries(self, answer: Any) -> list[Entry]:
        if answer is None:
            return []
        ((_, entries),) = answer
        return [read_entry(id_, fields) for id_, fields in entries if fields is not None]
