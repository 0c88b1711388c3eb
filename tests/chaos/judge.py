"""The judge is one sentence: each client that stayed or came back holds the same final state as the provider,
and saw states in order.

In order means, for what one client saw:

- on one connection offsets grow, each state comes at most once, and nothing of a task comes after its end;
- over all its connections offsets of a task never go back within an epoch, and a one-task stream that came
  back with its cursor sees no state twice;
- a status never goes back, progress never falls within an epoch, and what was final once stays as it was;
- `end` and 204 come only when everything asked for is final.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FINAL = frozenset({"completed", "failed", "cancelled", "lost"})
RANKS = {"unknown": 0, "queued": 1, "processing": 2, "input_required": 2} | dict.fromkeys(FINAL, 3)
_MOST_FAULTS = 50


@dataclass(frozen=True, slots=True)
class Ending:
    """How a task ended: what a client must hold, and what the provider says."""

    status: str
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """One state as one client saw it."""

    epoch: str
    offset: int
    status: str
    progress: float
    url: str | None

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Sight:
        recorded, _, _ = str(state["cursor"]).partition("~")
        epoch, _, offset = recorded.rpartition("-")
        outputs = state["outputs"]
        url = outputs[0].get("url") if outputs else None
        return cls(epoch, int(offset), state["status"], state["progress"] or 0, url)

    @property
    def final(self) -> bool:
        return self.status in FINAL

    @property
    def ending(self) -> Ending:
        return Ending(self.status, self.url)


class Judge:
    """Keeps an account for each client, and everything that was wrong.

    Args:
        histories: How many bridges stand behind the address, each with a journal of its own. What one has
            seen, another may not have looked at yet: then a new epoch may begin further back, even before an
            end, and only what a client holds in the end is judged across it.

    Attributes:
        states: How many states were seen by everybody together.
        counts: What else happened, by name.
    """

    def __init__(self, *, histories: int = 1) -> None:
        self.histories = histories
        self.accounts: list[Account] = []
        self.faults: list[str] = []
        self.states = 0
        self.counts: Counter[str] = Counter()

    @property
    def kind(self) -> type[Account]:
        """The class of the accounts."""
        return Account

    def account(self, name: str, refs: Iterable[str], *, repeats: bool = False) -> Account:
        """A new client.

        Args:
            repeats: Whether it may see again what it saw before it came back, as on many-task streams.
        """
        made = self.kind(self, name, tuple(refs), repeats=repeats)
        self.accounts.append(made)
        return made

    def find(self, fault: str) -> None:
        """Something was wrong."""
        self.counts["faults"] += 1
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(fault)

    def announced(self) -> dict[str, Sight]:
        """Every final state that some client was told."""
        return {
            ref: seen
            for account in self.accounts
            for ref, seen in account.known.items()
            if seen.final and seen.status != "lost"
        }

    def verdict(self, truth: Mapping[str, Ending]) -> list[str]:
        """Everything that was wrong; empty when the sentence holds."""
        missing = [fault for account in self.accounts for fault in account.missing(truth)]
        return [*self.faults, *missing]


@dataclass(eq=False, slots=True)
class Account:
    """What one client saw.

    Attributes:
        known: The newest state of each task.
        left: It went for good and holds nothing any more.
        over: It was told that nothing more will come.
    """

    judge: Judge
    name: str
    refs: tuple[str, ...]
    repeats: bool = False
    left: bool = False
    over: bool = False
    known: dict[str, Sight] = field(default_factory=dict)
    _newest: tuple[str, int] | None = None  # on this connection
    _ended: set[str] = field(default_factory=set)  # on this connection
    _seen: set[str] = field(default_factory=set)  # on this connection
    _anew: bool = True  # it sent no cursor, or was told to begin again

    @property
    def complete(self) -> bool:
        """Whether everything it asked for is final."""
        return len(self.known) == len(self.refs) and all(one.final for one in self.known.values())

    def connected(self, *, cursor: str | None) -> None:
        """A connection begins."""
        self._newest = None
        self._ended = set()
        self._seen = set()
        self._anew = cursor is None
        self.judge.counts["connections"] += 1

    def reset(self) -> None:
        """The bridge cannot honour the cursor."""
        self._anew = True
        self.judge.counts["resets"] += 1

    def state(self, document: Mapping[str, Any], event_id: str | None = None) -> None:
        """A state came."""
        ref, new = document["task"], Sight.of(document)
        self.judge.states += 1
        if ref not in self.refs:
            self._wrong(ref, "was never asked for")
        if event_id is not None and event_id.partition(".")[0] != document["cursor"]:
            self._wrong(ref, f"came under the id {event_id} with the cursor {document['cursor']}")
        if new.offset == 0:  # the placeholder of a task nobody has seen; it is no recorded state
            if ref in self._seen or new.status != "unknown":
                self._wrong(ref, f"a placeholder after a state: {new}")
            return
        self._in_order_here(ref, new)
        old = self.known.get(ref)
        if old is not None:
            self._in_order(ref, old, new)
        self.known[ref] = new

    def done(self, ref: str, status: str) -> None:
        """One task is said to be over."""
        old = self.known.get(ref)
        if old is None or old.status != status or not old.final:
            self._wrong(ref, f"`done` says {status} after {old}")

    def ended(self, how: str) -> None:
        """Nothing more will come: `end`, or 204."""
        self.judge.counts[how] += 1
        self.over = True
        if not self.complete:
            self._wrong(", ".join(self.refs[:3]), f"{how} before everything was final")

    def missing(self, truth: Mapping[str, Ending]) -> list[str]:
        """Where it does not hold what the provider says."""
        if self.left:
            return []
        return [
            f"{self.name}: {ref}: holds {seen and seen.ending}, the provider says {truth[ref]}"
            for ref in self.refs
            if (seen := self.known.get(ref)) is None or seen.ending != truth[ref]
        ]

    def _in_order_here(self, ref: str, new: Sight) -> None:
        if ref in self._ended:
            self._wrong(ref, f"a state after its end: {new}")
        if self._newest is not None and (self._newest[0] != new.epoch or self._newest[1] >= new.offset):
            self._wrong(ref, f"{new.epoch}-{new.offset} after {self._newest} on one connection")
        self._newest = (new.epoch, new.offset)
        self._seen.add(ref)
        if new.final:
            self._ended.add(ref)

    def _in_order(self, ref: str, old: Sight, new: Sight) -> None:
        if old.epoch != new.epoch and self.judge.histories > 1:
            return
        latched = old.final and old.status != "lost"
        if latched and old.ending != new.ending:
            self._wrong(ref, f"{old.ending} was final and became {new.ending}")
        if RANKS[new.status] < RANKS[old.status]:
            self._wrong(ref, f"{new.status} after {old.status}")
        if old.epoch != new.epoch:
            return
        if new.offset < old.offset or (new.offset == old.offset and not (self.repeats or self._anew)):
            self._wrong(ref, f"offset {new.offset} after {old.offset}")
        if new.progress < old.progress:
            self._wrong(ref, f"progress {new.progress} after {old.progress}")

    def _wrong(self, ref: str, what: str) -> None:
        self.judge.find(f"{self.name}: {ref}: {what}")
