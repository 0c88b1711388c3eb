"""The two connections of a bridge to the engine, and how its operations are asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from bridge.engine.base import ANSWER_BYTES, MAX_ANSWERS
from bridge.engine.redis.connect import (
    EngineUnfit,
    Facts,
    ServerAccess,
    check_facts,
    find_server,
    open_connection,
    read_facts,
    server_name,
)
from bridge.engine.redis.follow import LogReader
from bridge.engine.redis.keys import Keys, task_text
from bridge.engine.redis.replies import UnreadableRecord, UnreadableReply
from bridge.engine.redis.scripts import load_scripts
from bridge.engine.redis.wire import NOT_PERMITTED, Argument, CallConnection, Command, WrongData, abort
from bridge.errors import EngineUnavailable

logger = logging.getLogger(__name__)

Given = ParamSpec("Given")
Result = TypeVar("Result")

MICROSECONDS = 1_000_000
BLANK_SECONDS = 60.0
"""How long a task without a state is remembered after it was last of use."""

FORMAT = "1"
"""How keys, records and entries are written. A bridge reads its own and the one before."""

READABLE_FORMATS = (FORMAT,)

MAX_MENDED = 3
"""How often one operation is tried again because it met keys that no bridge wrote."""

_SHOWN = 100
_MAX_MICROSECONDS = 2**52  # beyond it, adding to the time is inexact


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What the engine keeps.

    Args:
        history: States of a task.
        log: Entries of the log, about.
        raw_bytes: Of a provider's own document; a larger one is not kept.
        retention_seconds: After the end of a task; an open one is kept a week at least.
        max_answers: Above this the answer of an operation that would be forgotten next is.
        answer_bytes: The same for the memory of all answers.
    """

    history: int = 32
    log: int = 50_000
    raw_bytes: int = 65_536
    retention_seconds: float = 86_400.0
    max_answers: int = MAX_ANSWERS
    answer_bytes: int = ANSWER_BYTES


DEFAULT_LIMITS = EngineLimits()


class EngineLink:
    """Connections, keys and scripts.

    Args:
        name: Of the service.
        now: Microseconds, for tests; None for the server's clock.
    """

    def __init__(
        self,
        access: ServerAccess,
        *,
        name: str = "bridge",
        limits: EngineLimits = DEFAULT_LIMITS,
        now: Callable[[], int] | None = None,
    ) -> None:
        self.name = name
        self.where = "the engine"
        self.keys = Keys(name)
        self.limits = limits
        self.facts = Facts()
        self._access = access
        self._now = now
        self.scripts = load_scripts(READABLE_FORMATS)
        self._wire: CallConnection | None = None
        self._reader: LogReader | None = None
        self._reason = "the engine is not connected"

    async def connect(self) -> None:
        """Find the server, connect, and check that the bridge can use it. Again, once it has broken.

        Raises:
            EngineUnfit: The server cannot be used as it is.
            EngineUnavailable: It cannot be reached.
        """
        await self.close()
        host, port = await find_server(self._access)
        self.where = where = server_name(self._access, host, port)
        calls = await open_connection(self._access, host, port)
        try:
            async with asyncio.timeout(self._access.timeout * 3):
                self.facts = await read_facts(calls, where)
            check_facts(self.facts, where, sentinels=bool(self._access.address.service))
            following = await open_connection(self._access, host, port)
        except BaseException as error:
            abort(calls)
            if isinstance(error, TimeoutError):
                raise EngineUnavailable(f"{where} did not answer in time") from None
            raise
        timeout = self._access.timeout
        self._wire = CallConnection(calls, timeout=timeout, where=where, broke=self._break_off)
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
        return Command((len(keys), *keys, now, *arguments), self.scripts[script])

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

    async def check(self) -> None:
        """Find out whether the user may do what the bridge needs, and whether the data is of this version.

        Raises:
            EngineUnfit: It cannot be used as it is.
            EngineUnavailable: There counts as none.
        """
        scratch = [self.keys.named("check", kind) for kind in ("hash", "set", "sorted", "list", "stream")]
        try:
            refused = [line.decode() for line in await self.run("check", scratch)]
        except EngineUnavailable as error:
            if NOT_PERMITTED not in str(error):
                raise
            needs = f"+eval, +evalsha and the keys ~{{{self.name}}}:*"
            raise EngineUnfit(f"{error}: {needs}") from None
        commands = sorted({line.split(" ")[1].lower() for line in refused if line.startswith("command")})
        if commands:
            raise EngineUnfit(
                f"{self.where} does not permit the user: {' '.join('+' + one for one in commands)}"
            )
        if refused:
            raise EngineUnfit(f"{self.where} does not permit the user these keys: ~{{{self.name}}}:*")
        (found,) = await self.plain(("HGET", self.keys.meta, "format"))
        if found is not None and found.decode("ascii", "replace") not in READABLE_FORMATS:
            raise EngineUnfit(other_format(found))

    async def mend(self, wrong: WrongData) -> bool:
        """Check keys that a command could not use; one of a single task, account or queue is deleted.

        A state that another program wrote over is lost already: who polls the task records it again. Of a
        queue all jobs are lost.

        Returns:
            Whether the command may be tried again.

        Raises:
            EngineUnfit: A key that everything depends on holds what no bridge wrote.
        """
        keys = list(dict.fromkeys(wrong.keys))
        kinds = [self.keys.kind(key) for key in keys]
        arguments = [argument for kind, deleted in kinds for argument in (kind, int(deleted))]
        found = [int(place) - 1 for place in await self.run("mend", keys, *arguments)]
        for place in found:
            name = keys[place].decode("utf-8", "replace")[:_SHOWN]
            if not kinds[place][1]:
                raise self.reject(
                    f"{self.where} holds the key {name!r} in a form that only another program writes:"
                    " delete it, or choose another engine_name",
                    lasting=True,
                )
            logger.warning("engine key that no bridge wrote deleted", extra={"key": name})
            queue = self.keys.queue_of(keys[place])
            if queue is not None:
                await self.run("drop_queue", (self.keys.queues, *self.keys.queue(queue)), queue)
        return bool(found)

    def reject(self, reason: str, *, lasting: bool = False) -> EngineUnavailable:
        """What the server holds cannot be used: drop the connections. Returns the error to raise."""
        self._break_off(reason)
        return EngineUnfit(reason) if lasting else EngineUnavailable(reason)


async def _mending(
    operation: Callable[Given, Awaitable[Result]], *args: Given.args, **options: Given.kwargs
) -> Result:
    """Carry out an operation, once more if it met a key that no bridge wrote and that is gone now."""
    link = args[0]
    assert isinstance(link, EngineLink), "it is a method of one"
    for _ in range(MAX_MENDED):
        try:
            return await operation(*args, **options)
        except WrongData as wrong:
            if not await link.mend(wrong):
                raise link.reject(str(wrong)) from None
        except UnreadableRecord as unreadable:
            record = WrongData(str(unreadable))
            record.keys = [link.keys.record(task_text(unreadable.key))]
            if not await link.mend(record):
                raise
    return await operation(*args, **options)


def reads_answer(
    operation: Callable[Given, Awaitable[Result]],
) -> Callable[Given, Coroutine[Any, Any, Result]]:
    """An operation whose answer, if it is not what a bridge of this version wrote, counts as none."""

    @wraps(operation)
    async def read(*args: Given.args, **options: Given.kwargs) -> Result:
        try:
            return await _mending(operation, *args, **options)
        except (UnreadableReply, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
            link = args[0]
            assert isinstance(link, EngineLink), "it is a method of one"
            kind = type(error).__name__
            raise link.reject(
                f"{link.where} answered {operation.__name__} with what cannot be read ({kind})"
            ) from None

    return read


def other_format(found: bytes) -> str:
    """The error about data that another version wrote."""
    shown = found[:20].decode("ascii", "replace")
    return (
        f"the engine holds data in format {shown}, and this bridge reads format {FORMAT}:"
        " another version wrote it; run that one, or choose another engine_name"
    )


def in_microseconds(seconds: float) -> int:
    """A time as scripts are given it; what is not a number is 0, and infinity is long."""
    if not seconds > 0:
        return 0
    return int(min(seconds * MICROSECONDS + 0.999, _MAX_MICROSECONDS))
