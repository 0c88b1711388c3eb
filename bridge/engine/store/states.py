"""Recording states: the checks in their order, and what is written in the same step."""

from __future__ import annotations

from bridge.engine.base import ENTRY_BYTES, Applied, Apply, ApplyOutcome, End, Mode, Past, StateEntry
from bridge.engine.store.log import Log
from bridge.engine.store.tasks import TaskRecord, Tasks

_ENTRY_BYTES = 300  # of a state in a task's history, besides its documents


def judge(task: TaskRecord | None, state: Apply, *, session: str, alive: bool) -> ApplyOutcome:
    """What becomes of a state, with the checks in the order of their documentation."""
    if task is not None and task.version and (task.stamp == state.stamp or task.digest == state.digest):
        return ApplyOutcome.DUPLICATE
    if not alive or (state.mode is Mode.OWNER and (task is None or task.owner != session)):
        return ApplyOutcome.FENCED
    if task is None:
        return ApplyOutcome.RECORDED
    if task.end is not End.OPEN and state.mode is not Mode.AMEND:
        replaces_lost = task.end is End.LOST and state.end is End.ENDED
        if not replaces_lost:
            return ApplyOutcome.FINAL
    builds_on_another = task.version and task.version != state.expect
    builds_on_forgotten = task.forgotten and not task.version and state.stamp.version > 1
    return ApplyOutcome.STALE if builds_on_another or builds_on_forgotten else ApplyOutcome.RECORDED


def _amends(task: TaskRecord, state: Apply) -> bool:
    """Whether a state only adds to one that has ended; a lost task may really end."""
    if state.mode is not Mode.AMEND or task.end is End.OPEN:
        return False
    return task.end is End.ENDED or state.end is not End.ENDED


def answer(outcome: ApplyOutcome, task: TaskRecord | None, state: Apply) -> Applied:
    """The answer to a state that is not recorded."""
    if task is None:
        task = TaskRecord(state.key, 0)
    if outcome is ApplyOutcome.DUPLICATE:
        return Applied(outcome, task.offset, task.version)
    return Applied(outcome, task.offset, task.version, task.record())


class States:
    """Writes states into records, histories and the log.

    Args:
        history: States kept of a task.
        raw_bytes: A larger document of the provider is not kept.
    """

    def __init__(self, tasks: Tasks, log: Log, *, history: int, raw_bytes: int) -> None:
        self._tasks = tasks
        self._log = log
        self._history = history
        self._raw_bytes = raw_bytes

    def record(self, task: TaskRecord, state: Apply, now: int) -> StateEntry:
        """Record a state: record, history, listings and log entry."""
        offset = self._log.next_offset(now)
        amended = _amends(task, state)
        raw = state.raw if state.raw is not None and len(state.raw) <= self._raw_bytes else None
        details = self._details(task, state)
        task.version, task.session = state.stamp
        task.digest = state.digest
        if not amended:
            task.offset, task.end = offset, state.end
        task.document, task.raw = state.document, raw
        fits = len(state.document) + len(raw or b"") <= ENTRY_BYTES
        # Thirty large ones of each task would fill the memory: the record has the newest.
        self._remember(task, Past(task.offset, state.document, raw if fits else None))
        if not task.first_seen:
            task.first_seen = offset
            self._tasks.listings.add(task.key, offset, task.details)
        if not amended:
            self._tasks.listings.change(task.key, final=task.end is not End.OPEN)
        self._tasks.touch(task, now)
        entry = StateEntry(
            offset=offset,
            previous=self._log.head,
            key=task.key,
            stamp=task.stamp,
            end=task.end,
            digest=state.digest,
            document=state.document if fits else None,
            raw=raw if fits else None,
            whole=fits,
            amended=amended,
            details=details,
        )
        self._log.append(entry)
        return entry

    def register(self, task: TaskRecord, details: bytes) -> None:
        """Set what a task is registered with."""
        if task.first_seen:
            self._tasks.listings.relist(task.key, task.first_seen, task.details, details)
        self._resize(task, len(details) - len(task.details or b""))
        task.details = details

    def _details(self, task: TaskRecord, state: Apply) -> bytes | None:
        """Set the details, if they change; returns them if the log entry carries them."""
        changed = state.details is not None and state.details != task.details
        if state.details is not None and changed:
            self.register(task, state.details)
        return task.details if changed or not task.first_seen else None

    def _remember(self, task: TaskRecord, past: Past) -> None:
        change = _size(past)
        if task.past and task.past[-1].offset == past.offset:
            change -= _size(task.past.pop())  # amended
        task.past.append(past)
        while len(task.past) > self._history:
            change -= _size(task.past.popleft())
        self._resize(task, change)

    def _resize(self, task: TaskRecord, change: int) -> None:
        task.size += change
        self._tasks.size += change


def _size(past: Past) -> int:
    return _ENTRY_BYTES + len(past.document) + len(past.raw or b"")
