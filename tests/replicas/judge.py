"""The judge of several bridges on one engine: one history, whichever bridge answers.

Beyond the rules of `tests.chaos.judge`, for one client over all its connections:

- a state is the same as another if its content is: a client that came back with its cursor is told no content
  twice;
- the epoch may change under an open connection, to a later one; offsets grow in each;
- a state without an id, on a many-task stream, may come late; a state that is not recorded yet bears the
  offset of the one before, and its cursor says so (`~`);
- nothing goes back, even after `reset`: the bridges together still hold what one of them has told.

What a client may see all the same is written as an exception here, and counted, never passed over silently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.judge import RANKS, Account, Judge, Sight

NOT_CONTENT = frozenset(
    {"cursor", "observed_at", "changed_at", "eta_seconds", "eta_at", "eta_by", "source", "alias"}
)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A time in which the bridges could not agree.

    Args:
        split: Whether two engines took writes: then what one told the other may not know.
    """

    since: float
    until: float
    split: bool = False


class SharedJudge(Judge):
    """Keeps the accounts of clients of several bridges on one engine.

    Attributes:
        resets_expected: Whether the engine's history has changed; if not, no client may be told `reset`.
        disturbances: When the engine could not be reached by all.
        kills: When a bridge was killed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.resets_expected = False
        self.disturbances: list[Disturbance] = []
        self.kills: list[float] = []
        self.tolerated: list[str] = []

    @property
    def kind(self) -> type[SharedAccount]:
        """The class of the accounts."""
        return SharedAccount

    def disturbed(self, since: float, now: float, *, split: bool = False) -> bool:
        """Whether any disturbance touches this span of time."""
        return any(
            one.since <= now and since <= one.until and (one.split or not split) for one in self.disturbances
        )

    def killed_meanwhile(self, since: float, now: float) -> bool:
        """Whether a bridge was killed while the engine could not be reached by all, within this time."""
        return any(
            since <= at <= now and one.since <= at <= one.until
            for one in self.disturbances
            for at in self.kills
        )

    def waiting(self, ref: str) -> int:
        """How many clients do not hold the end of a task."""
        return sum(
            ref in one.refs and not one.left and not (ref in one.known and one.known[ref].final)
            for one in self.accounts
        )

    def tolerate(self, what: str) -> None:
        """What the last row of the design's table allows."""
        self.counts["tolerated"] += 1
        self.tolerated.append(what)


@dataclass(eq=False, slots=True)
class SharedAccount(Account):
    """What one client saw, at whichever bridge.

    Attributes:
        news: When each task last had news, on the loop's clock, and the longest it had to wait for it.
    """

    contents: dict[str, object] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    _told_at: dict[str, float] = field(default_factory=dict)
    _id: tuple[str, int] | None = None  # the newest on this connection
    _epochs: list[str] = field(default_factory=list)
    _recorded: dict[str, tuple[str, int]] = field(default_factory=dict)
    _unrecorded: set[str] = field(default_factory=set)  # of these the newest was told before it was recorded
    _here: set[str] = field(default_factory=set)  # of these tasks a state came since it began here

    def connected(self, *, cursor: str | None) -> None:
        """A connection begins."""
        Account.connected(self, cursor=cursor)
        self._id = None
        self._here = set()

    def reset(self) -> None:
        """The bridge cannot honour the cursor."""
        Account.reset(self)
        self._here = set()
        self._id = None
        self._ended = set()
        judge = self._judge
        if not judge.resets_expected:
            judge.find(f"{self.name}: a reset, and the engine has lost nothing")

    def state(self, document: Mapping[str, Any], event_id: str | None = None) -> None:
        """A state came."""
        ref, new = document["task"], Sight.of(document)
        recorded = "~" not in document["cursor"]
        self.judge.states += 1
        if ref not in self.refs:
            self._wrong(ref, "was never asked for")
        if event_id is not None and _without_mark(event_id) != document["cursor"]:
            self._wrong(ref, f"came under the id {event_id} with the cursor {document['cursor']}")
        if new.offset == 0 and recorded:  # the placeholder of a task nobody has seen
            if ref in self._here or new.status != "unknown":
                self._wrong(ref, f"a placeholder after a state: {new}")
            return
        self._positions(ref, new, recorded=recorded, has_id=event_id is not None)
        self._content(ref, new, _content_of(document))
        self._here.add(ref)
        self._unrecorded.discard(ref)
        if not recorded:
            self._unrecorded.add(ref)
        if new.final:
            self._ended.add(ref)
        self.known[ref] = new
        now = asyncio.get_running_loop().time()
        self._told_at[ref] = now
        self.times.setdefault(ref, []).append(now)

    @property
    def _judge(self) -> SharedJudge:
        assert isinstance(self.judge, SharedJudge)
        return self.judge

    def _positions(self, ref: str, new: Sight, *, recorded: bool, has_id: bool) -> None:
        """Offsets grow: those with an id on one connection, those of a task over all of them."""
        if ref in self._ended:
            self._wrong(ref, f"a state after its end: {new}")
        if new.epoch not in self._epochs:
            self._epochs.append(new.epoch)
        elif self._id is not None and self._id[0] != new.epoch and new.epoch < self._id[0]:
            self._wrong(ref, f"{new.epoch}-{new.offset} after {self._id} on one connection")
        if has_id:
            if self._id is not None and self._id[0] == new.epoch:
                back = new.offset < self._id[1] or (new.offset == self._id[1] and recorded)
                if back and not self._completes(ref, new):
                    self._wrong(ref, f"{new.epoch}-{new.offset} after {self._id} on one connection")
            self._id = (new.epoch, new.offset)
        before = self._recorded.get(ref)
        several = len(self.refs) > 1  # among several a bridge may show what it sees though others know more
        if before is not None and before[0] == new.epoch and new.offset < before[1]:
            if recorded or not several:
                self._wrong(ref, f"offset {new.offset} after {before[1]}")
            return
        if recorded:
            self._recorded[ref] = (new.epoch, new.offset)

    def _completes(self, ref: str, new: Sight) -> bool:
        """Whether the state was shown before it was recorded, and now bears the id of its record."""
        return ref in self.known and self.known[ref].final and new.final

    def _content(self, ref: str, new: Sight, content: object) -> None:
        """Nothing twice, nothing back."""
        old, held = self.known.get(ref), self.contents.get(ref)
        self.contents[ref] = content
        if old is None:
            return
        first_here = ref not in self._here
        if content == held:
            if not (first_here and (self.repeats or self._anew)):
                self.judge.counts["twice"] += 1
                self._twice(ref, new)
            return
        other_end = old.final and old.status != "lost" and old.ending != new.ending
        if other_end and new.final:
            self._wrong(ref, f"{old.ending} was final and became {new.ending}")
        elif other_end or RANKS[new.status] < RANKS[old.status] or new.progress < old.progress:
            # Back after a reset is for the split alone: there both sides went on.
            told_at, now = self._told_at[ref], asyncio.get_running_loop().time()
            if self._anew and self._judge.disturbed(told_at, now, split=True):
                self._judge.tolerate(f"{self.name}: {ref}: {new} after {old}, after a reset")
            else:
                self._back(ref, old, new)

    def _twice(self, ref: str, new: Sight) -> None:
        """A state shown in an outage by a bridge that was killed before it could be recorded."""
        if self._judge.killed_meanwhile(self._told_at[ref], asyncio.get_running_loop().time()):
            self._judge.tolerate(f"{self.name}: {ref}: {new} twice")
        else:
            self._wrong(ref, f"{new} twice")

    def _back(self, ref: str, old: Sight, new: Sight) -> None:
        """Many tasks on one stream that moved in an outage: what was shown unrecorded may go back."""
        told_at, now = self._told_at[ref], asyncio.get_running_loop().time()
        # Who polls a failed task for the first time does not know how far it was: only the number differs.
        same_end = (
            new.final and new.status in {"failed", "cancelled"} and old.status in {new.status, "processing"}
        )
        moved = self.repeats and (ref in self._unrecorded or same_end) and self._judge.disturbed(told_at, now)
        if moved or self._judge.killed_meanwhile(told_at, now):
            self._judge.tolerate(f"{self.name}: {ref}: {new} after {old}")
        else:
            self._wrong(ref, f"{new} after {old}")


def _without_mark(event_id: str) -> str:
    """`<epoch>-<n>[.<list>][~<shown>]` without the list."""
    text, tilde, shown = event_id.partition("~")
    return text.partition(".")[0] + tilde + shown


def _content_of(document: Mapping[str, Any]) -> object:
    outputs = [
        {name: str(value).partition("?")[0] if name.endswith("url") else value for name, value in one.items()}
        for one in document.get("outputs") or []
    ]
    rest = {name: value for name, value in document.items() if name not in NOT_CONTENT and name != "outputs"}
    return (sorted(rest.items(), key=lambda item: item[0]), outputs)
