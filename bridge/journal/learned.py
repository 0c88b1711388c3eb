"""What ended tasks taught, as bytes: runs in lists, one for each kind of an upstream, and an index of them.

The lists are those of `Engine.learn`, and the index is a small document beside them, so that a journal's
file, the keeper and a shared engine hold the same. What is read may be of another version, damaged or made
up: what makes no sense is left out.

Rule 1: names are hashes, because model names come from clients.
Rule 2: a run is forgotten after a week; after a day only the newest of its kind count.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

from bridge.core.learned import MAX_KINDS, MAX_RUNS, MEASURES, Measurement, Run, TaskKind
from bridge.engine.base import LEARNED_SECONDS

FORMAT = 1
MAX_NAME = 512
"""Characters of a model or an action."""

MAX_RUN_BYTES = 16 * 1024
MAX_INDEX_BYTES = 64 * 1024
MAX_VALUE = 1e8
"""Three years of seconds; a ratio or a count above it is as little one."""

OLD_SECONDS = 86_400.0
OLD_RUNS = 16
"""Of a kind: so many of the runs older than a day are used."""

_PREFIX = "runs:"
_DIGEST = re.compile("[0-9a-f]{32}")
_TAG = re.compile("[0-9a-f]{1,32}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_UNIX_TIME = 1e11


class LearnedStore(Protocol):
    """Keeps the runs of this process.

    Attributes:
        runs_forgotten: Called on the event loop with an upstream and all its runs that are left, when the
            operator had some forgotten.
    """

    runs_forgotten: Callable[[str, Sequence[Run]], None]

    def learned(self, upstream: str) -> Sequence[Run]:
        """What was stored when the process started, oldest first."""

    def learn(self, upstream: str, run: Run) -> None:
        """Store a run in the next seconds."""


class Choice(NamedTuple):
    """Kinds of one upstream.

    Args:
        model: None for all.
        action: The same.
    """

    upstream: str
    model: str | None = None
    action: str | None = None

    def covers(self, kind: TaskKind) -> bool:
        """Whether a kind is one of them."""
        return self.model in (None, kind.model) and self.action in (None, kind.action)


def encode_run(run: Run) -> bytes | None:
    """A run as JSON in ASCII; None if it is not one that `decode_run` takes."""
    samples = {
        name: [_short(sample.value), _short(sample.scale)] if sample.scale != 1 else [_short(sample.value)]
        for name, sample in run.samples.items()
        if _plausible(sample.value) and _plausible(sample.scale)
    }
    fields = [FORMAT, run.kind.model, run.kind.action, round(run.ended_at, 3), samples]
    data = json.dumps(fields, separators=(",", ":")).encode()
    return data if decode_run(data) is not None else None


def decode_run(data: bytes) -> Run | None:
    """The run that was encoded; None if it is of another version, damaged, or makes no sense."""
    if len(data) > MAX_RUN_BYTES:
        return None
    try:
        version, model, action, ended_at, measured = json.loads(data)
        if version != FORMAT or not all(map(_is_name, (model, action))) or not isinstance(measured, dict):
            return None
        if not _is_number(ended_at) or not 0 <= ended_at <= _MAX_UNIX_TIME:
            return None
        samples = {name: _measurement(*parts) for name, parts in measured.items() if name in MEASURES}
    except (ValueError, TypeError, RecursionError):
        return None
    return Run(TaskKind(model, action), float(ended_at), samples) if samples else None


def _measurement(value: Any, scale: Any = 1.0) -> Measurement:
    if not (_is_number(value) and _is_number(scale) and _plausible(value) and _plausible(scale)):
        raise ValueError("neither seconds nor a ratio")
    return Measurement(float(value), float(scale))


def _is_name(name: Any) -> bool:
    if isinstance(name, str):
        # No JSON that is sent can hold an unpaired surrogate.
        return len(name) <= MAX_NAME and not _SURROGATE.search(name)
    return name is None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plausible(value: float) -> bool:
    return 0 <= value <= MAX_VALUE  # false for NaN too


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def kind_digest(kind: TaskKind) -> str:
    """Names a kind in storage."""
    return blake2b(json.dumps([kind.model, kind.action]).encode(), digest_size=16).hexdigest()


def list_name(upstream: str, digest: str) -> str:
    """Of the list with the runs of one kind."""
    return f"{_PREFIX}{upstream}/{digest}"


def index_name(upstream: str) -> str:
    """Of the document with the index of an upstream."""
    return f"{_PREFIX}{upstream}"


def decode_list(digest: str, samples: Iterable[bytes]) -> list[Run]:
    """The runs of one list, without what makes no sense or is there twice, in the order of the list."""
    # Twice: a call without an answer was repeated.
    runs = map(decode_run, list(dict.fromkeys(samples))[-MAX_RUNS:])
    return [run for run in runs if run is not None and kind_digest(run.kind) == digest]


def unexpired(runs: Iterable[Run], now: float) -> list[Run]:
    """The runs that are not too old or too many, oldest first.

    Args:
        now: Unix seconds. A run that ended later, by a wrong clock, counts as new.
    """
    by_kind: defaultdict[TaskKind, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=_ended_at):
        if now - run.ended_at <= LEARNED_SECONDS:
            by_kind[run.kind].append(run)
    newest: list[list[Run]] = []
    for known in by_kind.values():
        old = sum(now - run.ended_at > OLD_SECONDS for run in known)
        newest.append(known[max(old - OLD_RUNS, 0) :][-MAX_RUNS:])
    newest.sort(key=lambda known: known[-1].ended_at)
    return sorted((run for known in newest[-MAX_KINDS:] for run in known), key=_ended_at)


def _ended_at(run: Run) -> float:
    return run.ended_at


class IndexEntry(NamedTuple):
    """When the list of a kind changed.

    Args:
        tag: Another one after each change.
        at: Unix seconds.
    """

    tag: str
    at: float


class LearnedIndex:
    """The kinds of one upstream that have a list.

    Attributes:
        id: Another one after the storage has lost it.
        kinds: By digest; the one that changed last comes last.
    """

    def __init__(self) -> None:
        self.id = ""
        self.kinds: dict[str, IndexEntry] = {}

    @classmethod
    def read(cls, document: bytes | None) -> LearnedIndex:
        """The index that was encoded; without the entries that make no sense."""
        index = cls()
        if document is None or len(document) > MAX_INDEX_BYTES:
            return index
        try:
            fields = json.loads(document)
            name, entries = fields["id"], fields["kinds"]
            if fields["version"] != FORMAT or not _TAG.fullmatch(name):
                return index
            index.id = name
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            return index
        for entry in entries[-MAX_KINDS:] if isinstance(entries, list) else ():
            if not isinstance(entry, list) or len(entry) != 3:
                continue
            digest, tag, at = entry
            named = all(isinstance(text, str) for text in (digest, tag))
            timed = _is_number(at) and math.isfinite(at)
            if named and timed and _DIGEST.fullmatch(digest) and _TAG.fullmatch(tag):
                index.kinds[digest] = IndexEntry(tag, float(at))
        return index

    def encode(self) -> bytes:
        """As a document."""
        kinds = [[digest, *entry] for digest, entry in self.kinds.items()]
        fields = {"version": FORMAT, "id": self.id, "kinds": kinds}
        return json.dumps(fields, separators=(",", ":")).encode()

    def change(self, digests: Iterable[str], tag: str, now: float) -> list[str]:
        """The lists of some kinds are others now.

        Args:
            tag: Random.

        Returns:
            The kinds that are no longer in the index, because they are old or too many.
        """
        self.id = self.id or tag
        for digest in digests:
            self.kinds.pop(digest, None)
            self.kinds[digest] = IndexEntry(tag, round(now, 3))
        excess = len(self.kinds) - MAX_KINDS
        gone = [
            digest
            for number, (digest, entry) in enumerate(self.kinds.items())
            if number < excess or now - entry.at > LEARNED_SECONDS
        ]
        for digest in gone:
            del self.kinds[digest]
        return gone


def chosen_lists(lists: Mapping[str, Sequence[bytes]], choice: Choice) -> list[str]:
    """The digests of the lists, of one upstream, whose kinds were chosen."""
    everything = choice.model is None and choice.action is None
    return [
        digest
        for digest, samples in lists.items()
        if everything or any(choice.covers(run.kind) for run in decode_list(digest, samples))
    ]
