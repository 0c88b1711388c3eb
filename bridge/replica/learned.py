"""What ended tasks taught, of one upstream at all replicas: sent to the engine, and read from it.

Each replica knows the runs it saw itself at once, and those of the others after the next exchange.

Rule 1: an exchange costs one read of the index; only kinds that changed cost more, and few a time.
Rule 2: what left the index is forgotten here. What an engine lost is still known here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

from bridge.clock import Clock
from bridge.core.learned import MAX_RUNS, LearnedRuns, Run
from bridge.engine.base import LEARNED_SECONDS
from bridge.journal.learned import (
    LearnedIndex,
    decode_list,
    encode_run,
    index_name,
    kind_digest,
    list_name,
    unexpired,
)
from bridge.replica.connection import Connection

EXCHANGE_SECONDS = 10.0
"""Between two exchanges."""

MAX_UNSENT = 2_000
MAX_SENT_KINDS = 32
"""In one exchange; the rest waits for the next."""

LISTS_PER_CALL = 16
RUNS_PER_TURN = 200
"""Taken in at one turn of the event loop."""

INDEX_ATTEMPTS = 3
"""Other replicas may change it meanwhile."""


class SharedRuns:
    """The runs of one upstream, here and in the engine.

    Args:
        learned: What this replica knows.
    """

    def __init__(self, upstream: str, learned: LearnedRuns, connection: Connection, clock: Clock) -> None:
        self._upstream = upstream
        self._learned = learned
        self._connection = connection
        self._clock = clock
        self._unsent: deque[Run] = deque(maxlen=MAX_UNSENT)
        self._exchanging = asyncio.Lock()
        self._changed: set[str] = set()  # their lists were, and the index not yet
        self._index = ""
        self._tags: dict[str, str] = {}
        self._known: dict[str, set[int]] = {}  # hashes of the samples that were read or sent
        learned.taught = self._keep

    def _keep(self, run: Run) -> None:
        self._unsent.append(run)

    async def exchange(self) -> None:
        """Send what was learned here, and read what was learned elsewhere.

        Raises:
            EngineUnavailable: The next exchange continues where this one ended.
        """
        async with self._exchanging:
            await self._exchange()

    async def _exchange(self) -> None:
        ((version, document),) = await self._connection.call(
            "get", lambda engine: engine.get([index_name(self._upstream)])
        )
        index = LearnedIndex.read(document)
        if index.id != self._index:
            self._index, self._tags = index.id, {}
        gone = self._tags.keys() - index.kinds.keys()
        if gone:
            # Forgotten on request, or because they are old or too many: with what was not sent yet.
            unsent = [run for run in self._unsent if kind_digest(run.kind) not in gone]
            self._unsent.clear()
            self._unsent.extend(unsent)
        index = await self._send(index, version)
        await self._receive(index, reload=bool(gone))

    async def _send(self, index: LearnedIndex, version: int) -> LearnedIndex:
        """Add what is unsent to the lists; returns the index with that."""
        by_kind: defaultdict[str, list[Run]] = defaultdict(list)
        for run in self._unsent:
            digest = kind_digest(run.kind)
            if digest in by_kind or len(by_kind) < MAX_SENT_KINDS:
                by_kind[digest].append(run)
        for digest, runs in by_kind.items():
            encoded = [data for run in runs if (data := encode_run(run)) is not None][-MAX_RUNS:]
            await self._learn(digest, encoded, MAX_RUNS)
            sent = set(map(id, runs))
            unsent = [run for run in self._unsent if id(run) not in sent]
            self._unsent.clear()
            self._unsent.extend(unsent)
            self._known.setdefault(digest, set()).update(map(hash, encoded))
            self._changed.update([digest] if encoded else [])
        for _ in range(INDEX_ATTEMPTS if self._changed else 0):
            gone = index.change(self._changed, secrets.token_hex(8), self._clock.time())
            document = index.encode()
            put = await self._connection.call(
                "put",
                lambda engine, document=document, version=version: engine.put(  # type: ignore[misc]
                    index_name(self._upstream), document, expect=version, seconds=LEARNED_SECONDS
                ),
            )
            if put.written:
                self._changed.clear()
                self._index = index.id
                for digest in gone:
                    await self._learn(digest, (), 0)
                break
            version, index = put.version, LearnedIndex.read(put.value)
        return index

    async def _learn(self, digest: str, samples: Sequence[bytes], keep: int) -> None:
        name = list_name(self._upstream, digest)
        await self._connection.call("learn", lambda engine: engine.learn(name, samples, keep=keep))

    async def _receive(self, index: LearnedIndex, *, reload: bool) -> None:
        """Take in the lists that changed; all of them, in place of what is known, to forget some."""
        tags = {digest: entry.tag for digest, entry in index.kinds.items()}
        changed = [digest for digest in tags if reload or self._tags.get(digest) != tags[digest]]
        known: dict[str, set[int]] = {} if reload else self._known
        runs: list[Run] = []
        hashes: dict[str, set[int]] = {}
        for digests in _portions(changed):
            names = [list_name(self._upstream, digest) for digest in digests]
            lists = await self._connection.call(
                "learned",
                lambda engine, names=names: engine.learned(names),  # type: ignore[misc]
            )
            for digest, samples in zip(digests, lists, strict=True):
                old = known.get(digest, set())
                runs += decode_list(digest, [sample for sample in samples if hash(sample) not in old])
                hashes[digest] = set(map(hash, samples))
        # Only now: an exchange that broke off before is repeated as a whole.
        self._tags = tags
        kinds = tags.keys() | self._changed
        self._known = {digest: one for digest, one in (self._known | hashes).items() if digest in kinds}
        if reload:
            self._learned.load(self._unsent)
        for number, run in enumerate(unexpired(runs, self._clock.time())):
            self._learned.add(run)
            if number % RUNS_PER_TURN == RUNS_PER_TURN - 1:
                await asyncio.sleep(0)


def _portions(digests: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(digests), LISTS_PER_CALL):
        yield digests[start : start + LISTS_PER_CALL]
