"""Tasks to a file and from a file, at the place where the settings say that states are recorded."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from bridge.app.learned import add_to_engine, learned_runs
from bridge.app.storage import engine_of, journal_file
from bridge.app.stored_webhooks import add_webhooks, stored_webhooks
from bridge.clock import Clock
from bridge.config.settings import Settings
from bridge.core.cursor import new_epoch
from bridge.core.details import decode_details
from bridge.core.merge import digest_of
from bridge.engine.base import (
    MAX_STATES,
    MAX_TASKS,
    Apply,
    ApplyOutcome,
    Engine,
    Mode,
    SessionState,
    Stamp,
)
from bridge.errors import JournalError
from bridge.journal.portable import TaskCopy, TaskFileWriter, read_runs, read_tasks, read_webhooks
from bridge.journal.sqlite.codec import decode, encode
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.journal.sqlite.newest import newest_states
from bridge.replica.connection import Connect
from bridge.replica.memory import end_of

Item = TypeVar("Item")

SESSION_SECONDS = 60.0
RENEWAL_SECONDS = 10.0
KEEP_BATCH = 32


class Exported(NamedTuple):
    """How many tasks are in the file.

    Args:
        open: Of them, those that have not ended.
        unreadable: Left out, because their state is damaged.
        runs: Of ended tasks, what they taught about run times.
        webhooks: Those that were added while a bridge ran.
    """

    tasks: int
    open: int
    unreadable: int
    runs: int = 0
    webhooks: int = 0


class Imported(NamedTuple):
    """What became of the tasks of the file.

    Args:
        open: Of the imported ones, those that are watched until their end from now on.
        known: Left as they were: the target has a state of theirs.
        runs: Of what ended tasks taught about run times, all that the file has.
        webhooks: Those of the file that were not known.
    """

    tasks: int
    open: int
    known: int
    runs: int = 0
    webhooks: int = 0


async def export_tasks(
    settings: Settings, clock: Clock, path: Path, connect: Connect | None = None
) -> Exported:
    """Write the newest state of every task to a new file, what was learned, and the webhooks that were added.

    Bridges may be running. Deliveries that wait are not in the file.

    Args:
        connect: Opens the engine; None for the one of the settings.

    Raises:
        JournalError: It is not written, and why.
    """
    count = unreadable = 0
    with TaskFileWriter(path) as file:
        async for found in _tasks(settings, connect):
            if found is None:
                unreadable += 1
            else:
                file.write(found)
                count += not found.state.status.final
        for upstream, runs in (await learned_runs(settings, clock, connect)).items():
            for run in runs:
                file.write_run(upstream, run)
        webhooks = await stored_webhooks(settings, connect)
        if webhooks.endpoints:
            file.write_webhooks(webhooks.encode())
    return Exported(file.tasks, count, unreadable, file.runs, len(webhooks.endpoints))


async def import_tasks(
    settings: Settings, clock: Clock, path: Path, connect: Connect | None = None
) -> Imported:
    """Record the tasks of a file that are not known yet. Each open one is watched until its end.

    The file is read as a whole before anything is recorded. After an error a part may be recorded: the same
    import again records the rest. No webhook is sent what is imported, only what changes from then on.

    Raises:
        JournalError: The file cannot be read, or its tasks cannot be recorded.
    """
    for _ in read_tasks(path):
        pass
    if settings.has_shared_engine or connect is not None:
        async with engine_of(settings, connect) as engine:
            done = await _into_engine(engine, clock, read_tasks(path))
            runs = await add_to_engine(engine, read_runs(path), clock.time())
            webhooks = await add_webhooks(engine, read_webhooks(path))
            return done._replace(runs=runs, webhooks=webhooks)
    journal = await SqliteJournal.open(
        journal_file(settings), clock, retention_seconds=settings.retention_seconds
    )
    try:
        done = await _into_journal(journal, read_tasks(path))
        for upstream, run in read_runs(path):
            journal.learn(upstream, run)
            done = done._replace(runs=done.runs + 1)
        return done._replace(webhooks=await add_webhooks(journal.ledger, read_webhooks(path)))
    finally:
        await journal.close()


async def _tasks(settings: Settings, connect: Connect | None) -> AsyncIterator[TaskCopy | None]:
    if not settings.has_shared_engine and connect is None:
        for found in newest_states(journal_file(settings)):
            yield found
        return
    async with engine_of(settings, connect) as engine:
        for upstream in settings.upstreams:
            for account in await engine.accounts(upstream):
                async for found in _tasks_of(engine, upstream, account):
                    yield found


async def _tasks_of(engine: Engine, upstream: str, account: str) -> AsyncIterator[TaskCopy | None]:
    """The tasks of one account, oldest first: they are first seen in this order where they are imported."""
    after = 0
    while page := await engine.oldest(upstream, account, after=after, limit=MAX_TASKS):
        after = page[-1].first_seen
        for record in await engine.records([one.key for one in page]):
            if record.document is None:
                continue  # expired meanwhile
            try:
                yield TaskCopy(record.key, decode(record.document, record.raw), record.details)
            except JournalError:
                yield None


async def _into_journal(journal: SqliteJournal, tasks: Iterable[TaskCopy]) -> Imported:
    count = is_open = known = 0
    for batch in _batches(tasks, MAX_STATES):
        newest = await journal.latest([task.key for task in batch])
        new = [task for task, event in zip(batch, newest, strict=True) if event is None]
        for task in new:
            if task.details is not None:
                journal.describe(task.key, decode_details(task.details))
        await asyncio.gather(*(journal.append(task.key, task.state) for task in new))
        count += len(new)
        known += len(batch) - len(new)
        is_open += sum(not task.state.status.final for task in new)
    return Imported(count, is_open, known)


async def _into_engine(engine: Engine, clock: Clock, tasks: Iterable[TaskCopy]) -> Imported:
    session = secrets.token_hex(8)
    epoch = new_epoch(clock.time(), secrets.randbits(32))
    count = is_open = known = 0
    renewed_at = float("-inf")
    try:
        for batch in _batches(tasks, MAX_STATES):
            if clock.monotonic() - renewed_at > RENEWAL_SECONDS:
                opens, renewed_at = renewed_at < 0, clock.monotonic()
                welcome = await engine.session(
                    session, ttl=SESSION_SECONDS, known_head=0, new_epoch=epoch, about=b"", opens=opens
                )
                if welcome.state is SessionState.EXPIRED:
                    raise JournalError("the engine was away for too long; run the import again")
            applied = await engine.apply(session, [_apply(session, task) for task in batch])
            new = [
                task for task, one in zip(batch, applied, strict=True) if one.outcome is ApplyOutcome.RECORDED
            ]
            count += len(new)
            known += len(batch) - len(new)
            still_open = [task.key for task in new if not task.state.status.final]
            for keys in _batches(still_open, KEEP_BATCH):
                await asyncio.gather(*(engine.keep(session, key, called_back=False) for key in keys))
            is_open += len(still_open)
    finally:
        await engine.leave(session)
    return Imported(count, is_open, known)


def _batches(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    waiting = iter(items)
    while batch := list(islice(waiting, size)):
        yield batch


def _apply(session: str, task: TaskCopy) -> Apply:
    key, state, details = task
    return Apply(
        key,
        Mode.FREE,
        expect=0,
        stamp=Stamp(1, session),
        end=end_of(state),
        digest=digest_of(state),
        document=encode(state),
        raw=state.raw,
        details=details,
    )
