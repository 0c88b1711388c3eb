"""What ended tasks taught: where it is kept, listed and forgotten."""

from __future__ import annotations

import logging
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from bridge.app.storage import engine_of, has_engine_table, journal_file, opened_file
from bridge.clock import Clock
from bridge.config.effective import learned_sentence
from bridge.config.settings import Settings
from bridge.core.learned import MAX_RUNS, LearnedRuns, Run, TaskKind
from bridge.engine.base import LEARNED_SECONDS, Engine
from bridge.errors import JournalError
from bridge.journal.base import Journal
from bridge.journal.learned import (
    Choice,
    LearnedIndex,
    LearnedStore,
    chosen_lists,
    decode_list,
    encode_run,
    index_name,
    kind_digest,
    list_name,
    unexpired,
)
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.journal.sqlite.learned_rows import forget_runs, read_runs
from bridge.journal.sqlite.storage import Transaction
from bridge.replica.connection import Connect
from bridge.sources.upstream import Upstream

_ATTEMPTS = 5
_BUSY = "bridges write to the engine all the time; run the command again"

logger = logging.getLogger(__name__)


class LearnedRow(NamedTuple):
    """A kind of tasks as `taskbridge learned list` shows it.

    Args:
        newest: Unix seconds when the newest of its runs ended.
    """

    upstream: str
    model: str | None
    action: str | None
    samples: int
    p50_seconds: float | None
    p90_seconds: float | None
    newest: float


def keep_learned(journal: Journal, upstreams: Mapping[str, Upstream]) -> None:
    """Continue with what an earlier process learned, and store what this one learns, if the journal can.

    Replicas share it instead: `bridge.replica.learned`.
    """
    if not isinstance(journal, SqliteJournal):
        return
    store: LearnedStore = journal
    for name, upstream in upstreams.items():
        upstream.learned.load(store.learned(name))
        upstream.learned.taught = partial(store.learn, name)

    def left(name: str, runs: Sequence[Run]) -> None:
        if name in upstreams:
            upstreams[name].learned.load(runs)

    store.runs_forgotten = left


def report_unkept(settings: Settings) -> None:
    """Log that nothing is kept, where that costs something."""
    sentence = learned_sentence(settings)
    if sentence is not None:
        logger.info("learned run times not kept", extra={"reason": sentence})


async def list_learned(settings: Settings, clock: Clock, connect: Connect | None = None) -> list[LearnedRow]:
    """Every kind of tasks that something is known of; bridges may be running.

    Args:
        connect: Opens the engine; None for the one of the settings.

    Raises:
        JournalError: It cannot be read, and why.
    """
    found = await learned_runs(settings, clock, connect)
    return [row for name, runs in sorted(found.items()) for row in _rows(name, runs)]


async def learned_runs(
    settings: Settings, clock: Clock, connect: Connect | None = None
) -> dict[str, list[Run]]:
    """The runs that are stored, of each upstream, oldest first; arguments and errors as `list_learned`."""
    now = clock.time()
    if settings.has_shared_engine or connect is not None:
        async with engine_of(settings, connect) as engine:
            return {name: unexpired(await _runs_in_engine(engine, name), now) for name in settings.upstreams}
    with opened_file(journal_file(settings)) as connection:
        return read_runs(connection, now) if has_engine_table(connection) else {}


def _rows(upstream: str, runs: Sequence[Run]) -> Iterator[LearnedRow]:
    learned = LearnedRuns()
    learned.load(runs)
    newest = {run.kind: run.ended_at for run in runs}
    rows: list[dict[str, Any]] = learned.statistics()
    for row in sorted(rows, key=lambda row: (row["model"] or "", row["action"] or "")):
        kind = TaskKind(row["model"], row["action"])
        # The names as in the tuple: `statistics` may say more.
        values = {name: value for name, value in row.items() if name in LearnedRow._fields}
        yield LearnedRow(upstream=upstream, newest=newest[kind], **values)


async def forget_learned(
    settings: Settings, clock: Clock, choice: Choice, connect: Connect | None = None
) -> int:
    """Forget what was learned of some kinds of tasks; bridges that are running do so within seconds.

    Returns:
        Of how many kinds something was known.

    Raises:
        JournalError: Nothing was forgotten, and why.
    """
    if settings.has_shared_engine or connect is not None:
        async with engine_of(settings, connect) as engine:
            return await _forget_in_engine(engine, choice, clock.time())
    with opened_file(journal_file(settings)) as connection:
        if not has_engine_table(connection):
            return 0
        with Transaction(connection):
            return len(forget_runs(connection, choice, clock.time()))


async def _forget_in_engine(engine: Engine, choice: Choice, now: float) -> int:
    name = index_name(choice.upstream)
    for _ in range(_ATTEMPTS):
        ((version, document),) = await engine.get([name])
        index = LearnedIndex.read(document)
        lists = dict(zip(index.kinds, await _lists(engine, choice.upstream, list(index.kinds)), strict=True))
        chosen = chosen_lists(lists, choice)
        for digest in chosen:
            del index.kinds[digest]
        index.change((), secrets.token_hex(8), now)
        # The index first: a bridge that adds to a list from now on adds the list to the index again.
        if (
            not chosen
            or (await engine.put(name, index.encode(), expect=version, seconds=LEARNED_SECONDS)).written
        ):
            for digest in chosen:
                await engine.learn(list_name(choice.upstream, digest), (), keep=0)
            return len(chosen)
    raise JournalError(_BUSY)


async def add_to_engine(engine: Engine, runs: Iterable[tuple[str, Run]], now: float) -> int:
    """Add runs to what an engine holds; how many there were. One that is there already stays once."""
    count = 0
    by_upstream: defaultdict[str, defaultdict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for upstream, run in runs:
        by_upstream[upstream][kind_digest(run.kind)].append(run)
        count += 1
    for upstream, lists in by_upstream.items():
        stored = await _lists(engine, upstream, list(lists))
        for (digest, added), samples in zip(lists.items(), stored, strict=True):
            merged = map(encode_run, unexpired([*decode_list(digest, samples), *added], now))
            name = list_name(upstream, digest)
            await engine.learn(name, (), keep=0)
            await engine.learn(name, list(dict.fromkeys(filter(None, merged))), keep=MAX_RUNS)
        await _add_to_index(engine, upstream, list(lists), now)
    return count


async def _add_to_index(engine: Engine, upstream: str, digests: Sequence[str], now: float) -> None:
    for _ in range(_ATTEMPTS):
        ((version, document),) = await engine.get([index_name(upstream)])
        index = LearnedIndex.read(document)
        index.change(digests, secrets.token_hex(8), now)
        put = await engine.put(index_name(upstream), index.encode(), expect=version, seconds=LEARNED_SECONDS)
        if put.written:
            return
    raise JournalError(_BUSY)


async def _runs_in_engine(engine: Engine, upstream: str) -> list[Run]:
    ((_, document),) = await engine.get([index_name(upstream)])
    digests = list(LearnedIndex.read(document).kinds)
    lists = await _lists(engine, upstream, digests)
    return [
        run for digest, samples in zip(digests, lists, strict=True) for run in decode_list(digest, samples)
    ]


async def _lists(engine: Engine, upstream: str, digests: Sequence[str]) -> list[list[bytes]]:
    lists: list[list[bytes]] = []
    for start in range(0, len(digests), 16):
        names = [list_name(upstream, digest) for digest in digests[start : start + 16]]
        lists += await engine.learned(names)
    return lists
