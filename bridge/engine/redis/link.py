"""The two connections of a bridge to the engine, and how its operations are asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.engine.redis.connect import (
    Access,
    Facts,
    check_facts,
    find_server,
    open_connection,
    read_facts,
    server_name,
)
from bridge.engine.redis.follow import LogReader
from bridge.engine.redis.keys import Keys
from bridge.engine.redis.replies import UnreadableReply
from bridge.engine.redis.scripts import load_scripts
from bridge.engine.redis.wire import Argument, Command, Wire, abort
from bridge.errors import EngineUnavailable

logger = logging.getLogger(__name__)

MICROSECONDS = 1_000_000
BLANK_SECONDS = 60.0
"""How long a task without a state is remembered after it was last of use."""

_MAX_MICROSECONDS = 2**52  # beyond it, adding to the time is not exact any more


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What the engine keeps.

    Args:
        history: States of a task.
        log: Entries of the log, about.
        raw_bytes: Of a provider's own document; a larger one is not kept.
        retention_seconds: After the end of a task; an open one is kept a week at least.
    """

    history: int = 32
    log: int = 50_000
    raw_bytes: int = 65_536
    retention_seconds: float = 86_400.0


DEFAULT_LIMITS = EngineLimits()


class EngineLink:
    """Connections, keys and scripts.

    Args:
        name: Of the service.
        now: Microseconds, for tests; None for the server's clock.
    """

    def __init__(
        self,
        access: Access,
        *,
        name: str = "bridge",
        limits: EngineLimits = DEFAULT_LIMITS,
        now: Callable[[], int] | None = None,
    ) -> None:
        self.keys = Keys(name)
        self.limits = limits
        self.facts = Facts()
        self._access = access
        self._now = now
        self._scripts = load_scripts()
        self._wire: Wire | None = None
        self._reader: LogReader | None = None
        self._reason = "the engine is not connected"
        self._said_no_facts = False

    async def connect(self) -> None:
        """Find the server, connect, and check that the bridge can use it. Again, once it has broken.

        Raises:
            EngineUnfit: The server cannot be used as it is.
            EngineUnavailable: It cannot be reached.
        """
        await self.close()
        host, port = await find_server(self._access)
        where = server_name(self._access, host, port)
        calls = await open_connection(self._access, host, port)
        try:
            async with asyncio.timeout(self._access.timeout * 3):
                self.facts = await read_facts(calls, where)
            check_facts(self.facts, where)
            if not self.facts.product and not self._said_no_facts:
                self._said_no_facts = True
                logger.warning("the engine does not permit INFO: its failover is noticed only by a lost log")
            following = await open_connection(self._access, host, port)
        except BaseException as error:
            abort(calls)
            if isinstance(error, TimeoutError):
                raise EngineUnavailable(f"{where} did not answer in time") from None
            raise
        timeout = self._access.timeout
        self._wire = Wire(calls, timeout=timeout, where=where, broke=self._break_off)
        self._reader = LogReader(
            following, self.keys.log, timeout=timeout, where=where, broke=self._break_off
        )

    async def close(self) -> None:
        """Close both connections. Sessions are not ended: their leases end them."""
        self._reason = "the engine is not connected"
        wire, self._wire = self._wire, None
        reader, self._reader = self._reader, None
        if wire is not None:
            await wire.close()
        if reader is not None:
            await reader.close()

    def _break_off(self, reason: str) -> None:
        """One of them broke: with the other one alone, a bridge would be half deaf."""
        self._reason = reason
        if self._wire is not None:
            self._wire.break_off(reason)
        if self._reader is not None:
            self._reader.break_off(reason)

    @property
    def reader(self) -> LogReader:
        """The connection on which the log is read.

        Raises:
            EngineUnavailable: There is none.
        """
        if self._reader is None:
            raise EngineUnavailable(self._reason)
        return self._reader

    async def run(self, script: str, keys: Sequence[bytes], *arguments: Argument) -> Any:
        """Run a script; its first argument, the time, is put before the others.

        Raises:
            EngineUnavailable: It was run or not.
        """
        (answer,) = await self.ask([self.command(script, keys, *arguments)])
        return answer

    def command(self, script: str, keys: Sequence[bytes], *arguments: Argument) -> Command:
        """A script as a command."""
        now = str(self._now()) if self._now is not None else ""
        return Command((len(keys), *keys, now, *arguments), self._scripts[script])

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands next to each other.

        Raises:
            EngineUnavailable: They were carried out or not.
        """
        if self._wire is None:
            raise EngineUnavailable(self._reason)
        return await self._wire.ask(commands)

    async def plain(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Commands that are not scripts.

        Raises:
            EngineUnavailable: They were carried out or not.
        """
        return await self.ask([Command(command) for command in commands])

    def reject(self, reason: str) -> EngineUnavailable:
        """What the server holds cannot be used: drop the connections. Returns the error to raise."""
        self._break_off(reason)
        return EngineUnavailable(reason)

    def read_answer(self, read: Callable[..., Any], *answers: Any) -> Any:
        """What `read` makes of answers.

        Raises:
            EngineUnavailable: They are not what a bridge of this version wrote.
        """
        try:
            return read(*answers)
        except (UnreadableReply, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise self.reject(f"the engine answered what cannot be read ({type(error).__name__})") from None


def in_microseconds(seconds: float) -> int:
    """A time as scripts are given it; nonsense is none, and infinity is long."""
    if not seconds > 0:
        return 0
    return int(min(seconds * MICROSECONDS + 0.999, _MAX_MICROSECONDS))
