"""What ended tasks taught, in a journal's file: in the rows in which the keeper of several workers stores it.

So one process and several workers can take turns on a file. The rows of an upstream are read into a store of
their own, changed there, and written as that store dumps them.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import secrets
import sqlite3
from collections import defaultdict, deque
from collections.abc import Iterable

from bridge.clock import Clock
from bridge.core.learned import MAX_RUNS, Run, TaskKind
from bridge.engine.base import LEARNED_SECONDS
from bridge.engine.store import Store
from bridge.engine.store.changes import Changes, PartKind
from bridge.engine.store.rows import StoreRow, dump, restore
from bridge.journal.learned import (
    Choice,
    LearnedIndex,
    chosen_lists,
    decode_list,
    encode_run,
    index_name,
    kind_digest,
    list_name,
    unexpired,
)
from bridge.journal.sqlite.storage import Transaction

_MICROSECONDS = 1_000_000
_REQUEST = "forget"
_COLUMNS = "kind, name, expires, value"
# Another program's texts need not be UTF-8: reading one would fail the whole statement.
_TYPED = "typeof(name) = 'blob' AND typeof(expires) = 'integer' AND typeof(value) = 'blob'"
_ALL = f"""SELECT {_COLUMNS} FROM engine WHERE kind IN ('{PartKind.DOCUMENT}', '{PartKind.SAMPLES}')
    AND name >= CAST('runs:' AS BLOB) AND name < CAST('runs;' AS BLOB) AND {_TYPED}"""  # noqa: S608 - built from constants
_ONE = f"SELECT {_COLUMNS} FROM engine WHERE kind = ? AND name = ? AND {_TYPED}"  # noqa: S608 - the same
_PUT = f"INSERT OR REPLACE INTO engine ({_COLUMNS}) VALUES (?, ?, ?, ?)"  # noqa: S608 - the same
_DELETE = "DELETE FROM engine WHERE kind = ? AND name = ?"
_REQUESTS = f"SELECT name FROM engine WHERE kind = '{_REQUEST}' AND {_TYPED}"  # noqa: S608 - the same

_INDEX = re.compile(rb"runs:([a-z0-9-]+)")
_EXPIRED = "DELETE FROM engine WHERE expires > 0 AND expires < ?"

WRITTEN_SECONDS = 5.0
"""Between two writes; a kill costs the runs learned since the last one."""

WRITTEN_KINDS = 32
"""In one write: states wait for it."""

MAX_PENDING = 10_000

logger = logging.getLogger(__name__)


class LearnedRows:
    """Runs on their way from the event loop into the file, and what was forgotten, on its way back.

    `put` is called on the event loop, the rest in the thread that writes the file. No failure here is one of
    the journal: states are recorded all the same.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pending: deque[tuple[str, Run]] = deque(maxlen=MAX_PENDING)
        self._due = 0.0
        self._failed = False

    def put(self, upstream: str, run: Run) -> None:
        """Write a run soon."""
        self._pending.append((upstream, run))

    def pending(self, upstream: str) -> list[Run]:
        """The runs of an upstream that are not written yet."""
        return [run for name, run in tuple(self._pending) if name == upstream]

    def read(self, connection: sqlite3.Connection) -> dict[str, list[Run]]:
        """What is stored; nothing if it cannot be read."""
        self._due = self._clock.monotonic() + WRITTEN_SECONDS
        try:
            with Transaction(connection):
                take_requests(connection)  # fulfilled in the file already
            return read_runs(connection, self._clock.time())
        except sqlite3.Error as error:
            self._report(error)
            return {}

    def write(self, connection: sqlite3.Connection, *, at_once: bool = False) -> dict[str, list[Run]]:
        """Write what is pending, if it is time.

        Returns:
            Of each upstream of which the operator had something forgotten, the runs that are left.
        """
        if not at_once and self._clock.monotonic() < self._due:
            return {}
        self._due = self._clock.monotonic() + WRITTEN_SECONDS
        runs, rest = self._take(MAX_PENDING if at_once else WRITTEN_KINDS)
        now = self._clock.time()
        try:
            if not runs and connection.execute(_REQUESTS).fetchone() is None:
                return {}
            # Unsynced: a power failure costs a few runs, and the next state recorded syncs them anyway.
            connection.execute("PRAGMA synchronous = NORMAL")
            with Transaction(connection):
                choices = take_requests(connection)
                for choice in choices:
                    _forget(connection, choice, now)
                rest = _without(rest, choices)
                add_runs(connection, _without(runs, choices), now)
                connection.execute(_EXPIRED, (round(now * _MICROSECONDS),))
            left = read_runs(connection, now) if choices else {}
            self._failed = False
            return {choice.upstream: left.get(choice.upstream, []) for choice in choices}
        except sqlite3.Error as error:
            rest = [*runs, *rest]
            self._report(error)
            return {}
        finally:
            self._pending.extendleft(reversed(rest))
            # In a transaction that could not be rolled back, the next probe does it.
            if not connection.in_transaction:
                connection.execute("PRAGMA synchronous = FULL")

    def _take(self, max_kinds: int) -> tuple[list[tuple[str, Run]], list[tuple[str, Run]]]:
        """What is pending of so many kinds, and the rest, which is written a second later."""
        runs: list[tuple[str, Run]] = []
        rest: list[tuple[str, Run]] = []
        kinds: set[tuple[str, TaskKind]] = set()
        for _ in range(len(self._pending)):
            upstream, run = self._pending.popleft()
            if len(kinds) < max_kinds:
                kinds.add((upstream, run.kind))
            (runs if (upstream, run.kind) in kinds else rest).append((upstream, run))
        if rest:
            self._due = 0.0
        return runs, rest

    def _report(self, error: sqlite3.Error) -> None:
        if not self._failed:
            # Once, not every few seconds.
            self._failed = True
            logger.warning("learned run times not stored", extra={"error": str(error)})


def _without(runs: list[tuple[str, Run]], choices: list[Choice]) -> list[tuple[str, Run]]:
    return [
        (upstream, run)
        for upstream, run in runs
        if not any(choice.upstream == upstream and choice.covers(run.kind) for choice in choices)
    ]


def read_runs(connection: sqlite3.Connection, now: float) -> dict[str, list[Run]]:
    """The runs of each upstream that are kept, oldest first.

    Args:
        now: Unix seconds.

    Raises:
        sqlite3.Error: They cannot be read.
    """
    rows = connection.execute(_ALL).fetchall()
    store = _restored(rows, now)
    indexes = [_INDEX.fullmatch(name) for kind, name, *_ in rows if kind == PartKind.DOCUMENT]
    upstreams = [match[1].decode() for match in indexes if match is not None]
    return {upstream: unexpired(_runs(store, upstream, now), now) for upstream in upstreams}


def add_runs(connection: sqlite3.Connection, added: Iterable[tuple[str, Run]], now: float) -> None:
    """Store runs, within a transaction; a run that is stored already stays once.

    Raises:
        sqlite3.Error: The transaction has to be rolled back.
    """
    by_list: defaultdict[str, defaultdict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for upstream, run in added:
        by_list[upstream][kind_digest(run.kind)].append(run)
    names = [(PartKind.DOCUMENT, index_name(upstream)) for upstream in by_list]
    names += [
        (PartKind.SAMPLES, list_name(one, digest)) for one, lists in by_list.items() for digest in lists
    ]
    rows = [row for kind, name in names for row in connection.execute(_ONE, (kind.value, name.encode()))]
    store, time = _restored(rows, now), round(now * _MICROSECONDS)
    for upstream, lists in by_list.items():
        for digest, runs in lists.items():
            name = list_name(upstream, digest)
            known = decode_list(digest, store.samples.learned(name, time))
            encoded = dict.fromkeys(filter(None, map(encode_run, unexpired([*known, *runs], now))))
            store.learn(name, (), keep=0, now=time)
            store.learn(name, list(encoded), keep=MAX_RUNS, now=time)
        _change_index(store, upstream, list(lists), now)
    _write_changes(connection, store)


def forget_runs(connection: sqlite3.Connection, choice: Choice, now: float) -> list[TaskKind]:
    """Forget the runs of some kinds, within a transaction, and leave word of it for a bridge that is running.

    Returns:
        The kinds something was known of.

    Raises:
        sqlite3.Error: The transaction has to be rolled back.
    """
    expires = round((now + LEARNED_SECONDS) * _MICROSECONDS)
    connection.execute(_PUT, (_REQUEST, json.dumps(choice).encode(), expires, b"[]"))
    return _forget(connection, choice, now)


def take_requests(connection: sqlite3.Connection) -> list[Choice]:
    """What operators had forgotten since the last call, within a transaction.

    Raises:
        sqlite3.Error: The transaction has to be rolled back.
    """
    names = [name for (name,) in connection.execute(_REQUESTS)]
    if names:
        connection.executemany(_DELETE, [(_REQUEST, name) for name in names])
    return [choice for choice in map(_choice, names) if choice is not None]


def forget_in_store(store: Store, choice: Choice, now: int) -> list[TaskKind]:
    """Delete the lists of some kinds; returns the kinds something was known of.

    Args:
        now: Microseconds.
    """
    index = _index(store, choice.upstream, now)
    lists = {digest: store.samples.learned(list_name(choice.upstream, digest), now) for digest in index.kinds}
    kinds: list[TaskKind] = []
    chosen = chosen_lists(lists, choice)
    for digest in chosen:
        kinds += [run.kind for run in decode_list(digest, lists[digest])[-1:]]
        del index.kinds[digest]
        store.learn(list_name(choice.upstream, digest), (), keep=0, now=now)
    if chosen:
        _put_index(store, choice.upstream, index, now)
    return kinds


def _forget(connection: sqlite3.Connection, choice: Choice, now: float) -> list[TaskKind]:
    store = _restored(connection.execute(_ALL), now)
    forgotten = forget_in_store(store, choice, round(now * _MICROSECONDS))
    _write_changes(connection, store)
    return forgotten


def _choice(name: object) -> Choice | None:
    try:
        upstream, model, action = json.loads(name)  # type: ignore[arg-type]
    except (ValueError, TypeError, RecursionError):
        return None
    return Choice(str(upstream), model, action)


def _restored(rows: Iterable[tuple[str, bytes, int, bytes]], now: float) -> Store:
    store = Store()
    restore(store, itertools.starmap(StoreRow, rows), round(now * _MICROSECONDS))
    store.changes = Changes()
    return store


def _runs(store: Store, upstream: str, now: float) -> list[Run]:
    time = round(now * _MICROSECONDS)
    return [
        run
        for digest in _index(store, upstream, time).kinds
        for run in decode_list(digest, store.samples.learned(list_name(upstream, digest), time))
    ]


def _index(store: Store, upstream: str, now: int) -> LearnedIndex:
    document = store.documents.get(index_name(upstream), now)
    return LearnedIndex.read(None if document is None else document.value)


def _change_index(store: Store, upstream: str, digests: list[str], now: float) -> None:
    time = round(now * _MICROSECONDS)
    index = _index(store, upstream, time)
    for gone in index.change(digests, secrets.token_hex(8), now):
        store.learn(list_name(upstream, gone), (), keep=0, now=time)
    _put_index(store, upstream, index, time)


def _put_index(store: Store, upstream: str, index: LearnedIndex, now: int) -> None:
    store.put(index_name(upstream), index.encode(), expect=None, seconds=LEARNED_SECONDS, now=now)


def _write_changes(connection: sqlite3.Connection, store: Store) -> None:
    assert store.changes is not None
    for kind, name in store.changes.take()[1]:
        row = dump(store, kind, name)
        if row.value is None:
            connection.execute(_DELETE, (row.kind, row.name))
        else:
            connection.execute(_PUT, row)
