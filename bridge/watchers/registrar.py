"""Tasks that were submitted elsewhere: kept from the moment they are registered, and forgotten on request.

Rule 1: a task is recorded before it is answered for, and so outlives a crash right after the answer.
Rule 2: what is registered may not exist. Until a source has shown the task, two 404s delete it
        (`core.watch`, rules of a task never seen), and no webhook is called.
Rule 3: a state is recorded by the registration only where none is on its way: it must not go back.
Rule 4: without the shared engine nothing is begun: what is shown unrecorded is recorded once it is back, when
        the caller has been refused long ago. If it goes away meanwhile, the answer says that it may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bridge.clock import Clock
from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.core.merge import registered
from bridge.core.task import Status, TaskKey
from bridge.errors import Conflict, EngineUnavailable, InvalidRequest, Superseded, TaskNotFound, UnknownTask
from bridge.journal.base import Journal
from bridge.watchers.pool import Pool
from bridge.watchers.submitter import Submitter

MAX_ATTEMPTS = 5
"""How often it is tried again because another source recorded a state at the same moment."""


@dataclass(slots=True, eq=False)
class _Turn:
    """The requests that change one task: one holds the lock, the others wait for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Registrar:
    """Registers tasks, and forgets ended ones.

    Args:
        submitter: Delivers the end of a task to a webhook that was named after it.
        has_engine: Whether the engine that this bridge shares with others is there; True without one.
    """

    def __init__(
        self,
        pool: Pool,
        journal: Journal,
        clock: Clock,
        submitter: Submitter,
        has_engine: Callable[[], bool] = lambda: True,
    ) -> None:
        self._pool = pool
        self._journal = journal
        self._clock = clock
        self._submitter = submitter
        self._has_engine = has_engine
        self._turns: dict[TaskKey, _Turn] = {}

    def check_engine(self) -> None:
        """Check that something can be recorded.

        Raises:
            EngineUnavailable: The engine that this bridge shares with others is away.
        """
        if not self._has_engine():
            raise EngineUnavailable("the engine that this bridge shares with others is away")

    async def register(self, key: TaskKey, details: TaskDetails) -> bool:
        """Record a task, or replace what a known one is known by; an open one is watched to its end.

        Returns:
            Whether it was not known before.

        Raises:
            TaskNotFound: The id cannot be one of this provider.
            UnknownUpstream: No such upstream is configured.
            Unauthenticated: The key of the account is not registered, or the provider rejected it.
            JournalError: It was not recorded.
        """
        upstream = self._pool.upstream(key.upstream, key.account)
        try:
            upstream.dialect.status_request(key.task_id)
        except InvalidRequest as error:
            raise TaskNotFound(str(error)) from error
        async with self._turn(key):
            for _ in range(MAX_ATTEMPTS):
                (known,) = await self._journal.latest([key])
                if known is not None:
                    await self._replace(known, details)
                    return False
                if await self._record(key, details):
                    return True
            raise Superseded("the task changes too quickly to be registered")

    async def _record(self, key: TaskKey, details: TaskDetails) -> bool:
        """Record the first state of a task; False if another source does."""
        watcher = self._pool.attend(key)
        await watcher.hydrate()
        if watcher.watch.known is not None or watcher.watch.registered:
            # Its first state is on its way into the journal, or its last 404 out of it.
            await self._pool.wait_polled(key)
            return False
        self.check_engine()
        before = self._journal.details(key)
        self._journal.describe(key, before.replaced(details))
        try:
            event = await self._journal.append(
                key,
                registered(unix_time=self._clock.time()),
                observed_at=self._clock.monotonic(),
                free=True,
            )
        except Superseded:
            return False
        except BaseException:
            self._journal.describe(key, before)
            raise
        if event.cursor.shown:
            raise EngineUnavailable(
                "the engine that this bridge shares with others went away: the task may be registered, or may"
                " be once it is back; register it again to be sure"
            )
        watcher.registered(event)
        self._pool.keep_registered(key, details.deadline_seconds)
        return True

    async def _replace(self, known: Event, details: TaskDetails) -> None:
        """Replace the words of a known task."""
        key = known.key
        (before,) = await self._journal.details_of([key])
        now = before.replaced(details)
        if now != before:
            await self._journal.register(key, now)
        if not known.state.status.final:
            self._pool.keep_registered(key, details.deadline_seconds)
        if details.webhook is None or details.webhook in before.webhooks:
            return
        # The end may have been recorded without it.
        (newest,) = await self._journal.latest([key])
        if newest is not None and newest.state.status.final:
            await self._submitter.ended_before(newest, TaskDetails(webhook=details.webhook))

    async def forget(self, key: TaskKey) -> None:
        """Delete an ended task with all its states.

        Raises:
            UnknownTask: There is none.
            Conflict: It has not ended.
            JournalError: It was not deleted.
        """
        async with self._turn(key):
            (known,) = await self._journal.latest([key])
            if known is None:
                raise UnknownTask("no such task is recorded here")
            if not known.state.status.final:
                raise Conflict("the task has not ended: cancel it, or wait for its end")
            # First: a lost task is still polled, and what a poll shows would be recorded again.
            self._pool.forget(key)
            if known.state.status is Status.LOST:
                (known,) = await self._journal.latest([key])
            if known is not None:
                await self._journal.forget(key)

    @asynccontextmanager
    async def _turn(self, key: TaskKey) -> AsyncIterator[None]:
        """One registration of a task after the other."""
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]
