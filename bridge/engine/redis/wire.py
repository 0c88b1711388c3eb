"""One connection for calls: what several callers ask at the same time goes to the server together.

Rule 1: nothing is sent twice, but for a script that the server does not know (NOSCRIPT): it was not run.
Rule 2: any error, and any answer that is late, breaks the wire for good: what was asked has happened or not.
        Only an error about what is stored does not: its caller handles that (`WrongData`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from bridge.engine.redis.scripts import ServerScript
from bridge.errors import EngineRefused, EngineUnavailable

Argument = bytes | str | int
GROUP = 64
"""Most commands that are sent together."""

NOT_PERMITTED = "does not permit the user a command or key that the bridge needs"

_SHOWN = 160


class WrongData(EngineRefused):
    """A key holds what no bridge wrote: another type, or no number where one should be.

    Attributes:
        keys: Those that the command is about.
    """

    keys: Sequence[bytes] = ()


class _Never(Exception):
    """Never raised."""


def pack(*arguments: Argument) -> bytes:
    """A command as it is sent."""
    return hiredis.pack_command(arguments)  # type: ignore[arg-type, no-any-return] # its stub knows one argument


class Command:
    """A command that waits for its answer.

    Args:
        script: What it runs, if it runs one: its arguments are those after the script.
    """

    __slots__ = ("answer", "arguments", "script")

    def __init__(self, arguments: tuple[Argument, ...], script: ServerScript | None = None) -> None:
        self.arguments = arguments
        self.script = script
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @property
    def keys(self) -> Sequence[bytes]:
        """The keys it is about."""
        if self.script is None:
            return [key for key in self.arguments[1:2] if isinstance(key, bytes)]
        count = self.arguments[0]
        assert isinstance(count, int), "a script's arguments begin with their number"
        return [key for key in self.arguments[1 : 1 + count] if isinstance(key, bytes)]

    def packed(self, *, whole: bool = False) -> bytes:
        """As it is sent: a script by its name, or as a `whole`."""
        if self.script is None:
            return pack(*self.arguments)
        head = ("EVAL", self.script.text) if whole else ("EVALSHA", self.script.digest)
        return pack(*head, *self.arguments)


class CallConnection:
    """A connection for calls.

    Args:
        connection: Connected.
        timeout: Seconds within which a group of commands must be answered.
        where: The server, for errors.
        broke: Called once, when it breaks.
    """

    def __init__(
        self, connection: AbstractConnection, *, timeout: float, where: str, broke: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._timeout = timeout
        self._where = where
        self._broke = broke
        self._waiting: deque[Command] = deque()
        self._work = asyncio.Event()
        self._reason: str | None = None
        self._pump = asyncio.create_task(self._run(), name="engine calls")

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, next to each other, and wait for all answers.

        Raises:
            EngineRefused: The answer is an error.
            EngineUnavailable: There is none.
        """
        if self._reason is not None:
            raise EngineUnavailable(self._reason)
        self._waiting.extend(commands)
        self._work.set()
        try:
            return [await command.answer for command in commands]
        finally:
            for command in commands:
                # No caller waits: of several that fail, one was raised.
                if not command.answer.cancel() and not command.answer.cancelled():
                    command.answer.exception()

    def break_off(self, reason: str) -> None:
        """Give up the connection; all calls that wait fail with the reason."""
        if self._reason is not None:
            return
        self._reason = reason
        for command in self._waiting:
            _fail(command, EngineUnavailable(reason))
        self._waiting.clear()
        self._pump.cancel()
        abort(self._connection)

    async def close(self) -> None:
        """Close the connection."""
        self.break_off(f"the connection to {self._where} was closed")
        await asyncio.gather(self._pump, return_exceptions=True)

    async def _run(self) -> None:
        group: list[Command] = []
        try:
            while True:
                await self._work.wait()
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), GROUP))]
                if not self._waiting:
                    self._work.clear()
                async with asyncio.timeout(self._timeout):
                    await self._exchange(group, whole=False)
                    if unknown := [command for command in group if not command.answer.done()]:
                        await self._exchange(unknown, whole=True)
                group = []
        except asyncio.CancelledError:
            reason = self._reason or f"the connection to {self._where} was closed"
            raise
        except TimeoutError:
            reason = f"{self._where} did not answer within {self._timeout:g} s"
        except (RedisError, OSError, hiredis.HiredisError) as error:
            reason = explain(error, self._where)
        except Exception as error:  # noqa: BLE001 - a library that fails: no answer
            reason = f"the connection to {self._where} failed: {type(error).__name__}"
        finally:
            for command in group:
                _fail(command, EngineUnavailable(reason))
        self.break_off(reason)
        self._broke(reason)

    async def _exchange(self, group: Sequence[Command], *, whole: bool) -> None:
        """Send a group and read its answers; a script that the server does not know stays without one."""
        await self._connection.send_packed_command(
            [command.packed(whole=whole) for command in group], check_health=False
        )
        refused: ResponseError | None = None
        for command in group:
            try:
                answer = await self._connection.read_response(disable_decoding=True)
            except NoScriptError as error:
                if whole:
                    raise
                del error
            except ResponseError as error:
                if _is_about_data(error):
                    wrong = WrongData(explain(error, self._where))
                    wrong.keys = command.keys
                    _fail(command, wrong)
                    continue
                # The others of the group have their answers behind it.
                refused = refused or error
                _fail(command, EngineRefused(explain(error, self._where)))
            else:
                if not command.answer.done():
                    command.answer.set_result(answer)
        if refused is not None:
            raise refused


def _is_about_data(error: ResponseError) -> bool:
    """Whether a command failed because of what is stored."""
    text = str(error)
    return text.startswith("WRONGTYPE") or "WRONGTYPE Operation" in text or ": attempt to " in text


def abort(connection: AbstractConnection) -> None:
    """Close a connection at once, with all it waits for."""
    writer = connection._writer  # noqa: SLF001 - disconnect() waits for a TLS peer that may be gone
    if writer is not None:
        writer.transport.abort()
    connection._close()  # type: ignore[no-untyped-call] # noqa: SLF001 - else it warns that it was left open


def explain(error: Exception, where: str) -> str:
    """One sentence about an error; no argument of a command is in it."""
    text = " ".join(str(error).split())
    for kind, code, meaning in _MEANINGS:
        # From within a script, older servers have the code in the middle of their own sentence.
        if isinstance(error, kind) or text.startswith(code) or f"-{code} " in text:
            return f"{where} {meaning}"
    if isinstance(error, ResponseError):
        text = text.partition(" script: ")[0].partition(", with args")[0][:_SHOWN]
        return f"{where} refused a command: {text}"
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return f"{where} did not answer in time"
    text = text[:_SHOWN].rstrip(".")
    return f"the connection to {where} broke: {text}" if text else f"the connection to {where} broke"


_MEANINGS: tuple[tuple[type[Exception], str, str], ...] = (
    (OutOfMemoryError, "OOM", "is full: its memory has reached maxmemory"),
    (ReadOnlyError, "READONLY", "is a replica, not the master"),
    (MasterDownError, "MASTERDOWN", "is a replica whose master is down"),
    (BusyLoadingError, "LOADING", "is still loading its data"),
    (AskError, "MOVED", "is part of a cluster and does not serve the slot of these keys"),
    (ClusterDownError, "CLUSTERDOWN", "is part of a cluster that is down"),
    (NoPermissionError, "NOPERM", NOT_PERMITTED),
    (_Never, "MISCONF", "cannot save its data to disk, and accepts no writes (MISCONF)"),
    (_Never, "NOREPLICAS", "accepts no writes: it has too few replicas (min-replicas-to-write)"),
    (_Never, "BUSY", "is busy with a script"),
)


def _fail(command: Command, error: EngineUnavailable) -> None:
    if not command.answer.done():
        command.answer.set_exception(error)
