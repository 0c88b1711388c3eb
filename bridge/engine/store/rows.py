"""Parts of a store as small rows, and back: everything but states, sessions, interest and budgets.

A row that cannot be read is left out: it may be of another version, or damaged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from bridge.core.event import Confirmation, read_confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import LEARNED_SECONDS, End, Job
from bridge.engine.store.changes import Name, PartKind
from bridge.engine.store.documents import Reserved, SampleList, SharedDocument, Undertaking, ends_at
from bridge.engine.store.jobs import JOB_MICROSECONDS, RestoredJob
from bridge.engine.store.store import Store
from bridge.engine.store.tasks import TaskRecord

_SEPARATOR = b"\0"
_DETAILS = 9  # in the row of a task


class StoreRow(NamedTuple):
    """One part of a store.

    Args:
        expires: Microseconds; 0 for never.
        value: None if it is no longer there.
    """

    kind: str
    name: bytes
    expires: int
    value: bytes | None


def dump(store: Store, kind: PartKind, name: Name) -> StoreRow:
    """A part as it is now."""
    value, expires = _DUMPS[kind](store, name)
    encoded = orjson.dumps(value) if value is not None else None
    return StoreRow(kind.value, _row_name(name), expires, encoded)


def job_row(job: Job, order: int, written: int) -> StoreRow:
    """The row of a job that a store will hold with this order, written then (microseconds)."""
    value, expires = _job_value(job, order, written)
    return StoreRow(PartKind.JOB.value, _row_name((job.queue, job.id)), expires, orjson.dumps(value))


def restore(store: Store, rows: Iterable[StoreRow], now: int) -> dict[TaskKey, list[Any]]:
    """Put rows back into an empty store; those of tasks are returned, for `read_task`."""
    tasks: dict[TaskKey, list[Any]] = {}
    jobs: list[RestoredJob] = []
    for row in rows:
        if row.value is None or 0 < row.expires <= now:
            continue
        try:
            name = tuple(part.decode("utf-8", "surrogatepass") for part in row.name.split(_SEPARATOR))
            value = orjson.loads(row.value)
            if row.kind == PartKind.TASK:
                upstream, account, task_id = name
                tasks[TaskKey(upstream, task_id, account)] = value
            elif row.kind == PartKind.JOB:
                jobs.append(_read_job(name, value, now))
            else:
                # Lists of samples of an older version have no end yet.
                expires = row.expires or ends_at(LEARNED_SECONDS, now)
                _RESTORES[PartKind(row.kind)](store, name, value, expires)
        except (ValueError, TypeError, AttributeError, LookupError):
            continue
    store.jobs.restore(jobs)
    return tasks


def _read_job(name: Name, value: list[Any], now: int) -> RestoredJob:
    """From a row; versions before wrote five values, without age. After a restart a job is due at once."""
    queue, id_ = name
    order, body, ordering, due, attempts, *later = value
    replaceable, offset, written = later or (False, 0, now)
    job = Job(
        queue,
        id_,
        _raw(body),
        _unwrap(ordering),
        min(int(due), now),
        int(attempts),
        bool(replaceable),
        int(offset),
    )
    return RestoredJob(int(order), job, int(written))


def _restore_document(store: Store, name: Name, value: list[Any], expires: int) -> None:
    version, content = value
    store.documents.restore(name[0], SharedDocument(int(version), _raw(content), expires))


def _restore_samples(store: Store, name: Name, value: list[Any], expires: int) -> None:
    store.samples.restore(name[0], SampleList([_raw(sample) for sample in value], expires))


def _restore_operation(store: Store, name: Name, value: list[Any], expires: int) -> None:
    session, digest, done, answer = value
    undertaking = Undertaking(str(session), _raw(digest), bool(done), _maybe_raw(answer), expires)
    store.operations.restore(name[0], undertaking)


def _restore_hold(store: Store, name: Name, value: list[Any], expires: int) -> None:
    counter, hold = name
    number, amount = value
    store.counters.restore(counter, hold, Reserved(int(number), float(amount), expires))


_RESTORES = {
    PartKind.DOCUMENT: _restore_document,
    PartKind.SAMPLES: _restore_samples,
    PartKind.OPERATION: _restore_operation,
    PartKind.HOLD: _restore_hold,
}


def read_task(task: TaskRecord, value: list[Any]) -> None:
    """Set what a row says of a task, besides its states.

    Raises:
        ValueError, TypeError, AttributeError: It is not what `dump` wrote; the task may be changed in part.
    """
    version, session, offset, digest, kept, called_back, notices, confirmation, first_seen, details, end = (
        value
    )
    task.version, task.session, task.offset = int(version), str(session), int(offset)
    task.digest, task.end = _raw(digest), End(end)
    task.persistent, task.called_back = bool(kept), bool(called_back)
    task.notices = {_unwrap(code): _raw(body) for code, body in notices.items()}
    task.confirmation, task.first_seen = _confirmation(confirmation), int(first_seen)
    task.details = _maybe_raw(details)


def details_of(value: bytes) -> bytes | None:
    """What the row of a task says that it was registered with; None for nothing, or if it cannot be read."""
    try:
        return _maybe_raw(orjson.loads(value)[_DETAILS])
    except (ValueError, TypeError, AttributeError, LookupError):
        return None


def document_of(value: bytes) -> bytes | None:
    """The small document of a row; None if it cannot be read."""
    try:
        return _raw(orjson.loads(value)[1])
    except (ValueError, TypeError, AttributeError, LookupError):
        return None


def with_details(value: bytes | None, details: bytes) -> bytes:
    """The row of a task with these details.

    Args:
        value: As it was; None for none. Then the row says nothing of the task's states: they are read
            where they are.
    """
    try:
        fields = list(orjson.loads(value or b"null"))
        fields[_DETAILS] = _text(details)
    except (ValueError, TypeError, LookupError):
        fields = [0, "", 0, "", False, False, {}, None, 0, _text(details), int(End.OPEN)]
    return orjson.dumps(fields)


def _confirmation(value: Any) -> Confirmation | None:
    """From a row; versions before wrote a number alone, and 0.0 for none."""
    if isinstance(value, list):
        return read_confirmation(*value)
    return read_confirmation(value) if value else None


Dumped = tuple[Any, int]


def _dump_task(store: Store, name: Name) -> Dumped:
    upstream, account, task_id = name
    task = store.tasks.get(TaskKey(upstream, task_id, account))
    if task is None or (task.forgotten and not task.has_content and not task.persistent):
        return None, 0
    return [
        task.version,
        task.session,
        task.offset,
        _text(task.digest),
        task.persistent,
        task.called_back,
        {_wrap(code): _text(body) for code, body in task.notices.items()},
        None if task.confirmation is None else list(task.confirmation),
        task.first_seen,
        _maybe_text(task.details),
        int(task.end),
    ], 0


def _dump_document(store: Store, name: Name) -> Dumped:
    document = store.documents.peek(name[0])
    return (
        ([document.version, _text(document.value)], document.expires) if document is not None else (None, 0)
    )


def _dump_samples(store: Store, name: Name) -> Dumped:
    known = store.samples.peek(name[0])
    return ([_text(sample) for sample in known.samples], known.expires) if known is not None else (None, 0)


def _dump_operation(store: Store, name: Name) -> Dumped:
    operation = store.operations.get(name[0])
    if operation is None:
        return None, 0
    value = [operation.session, _text(operation.digest), operation.done, _maybe_text(operation.answer)]
    return value, operation.expires


def _dump_job(store: Store, name: Name) -> Dumped:
    pending = store.jobs.get(*name)
    if pending is None:
        return None, 0
    return _job_value(pending.job, pending.order, pending.written)


def _job_value(job: Job, order: int, written: int) -> Dumped:
    value = [order, _text(job.body), _wrap(job.ordering), job.due, job.attempts]
    value += [job.replaceable, job.offset, written]
    return value, written + JOB_MICROSECONDS


def _dump_hold(store: Store, name: Name) -> Dumped:
    held = store.counters.get(*name)
    return ([held.window, held.amount], held.expires) if held is not None else (None, 0)


_DUMPS = {
    PartKind.TASK: _dump_task,
    PartKind.DOCUMENT: _dump_document,
    PartKind.SAMPLES: _dump_samples,
    PartKind.OPERATION: _dump_operation,
    PartKind.JOB: _dump_job,
    PartKind.HOLD: _dump_hold,
}


# Bytes as JSON: each byte is the character of that number. Texts likewise: they may hold unpaired surrogates.


def _row_name(name: Name) -> bytes:
    return _SEPARATOR.join(map(_encoded, name))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _maybe_text(value: bytes | None) -> str | None:
    return None if value is None else _text(value)


def _raw(text: str) -> bytes:
    return text.encode("latin-1")


def _maybe_raw(text: str | None) -> bytes | None:
    return None if text is None else _raw(text)


def _wrap(text: str) -> str:
    return _text(_encoded(text))


def _unwrap(text: str) -> str:
    return _raw(text).decode("utf-8", "surrogatepass")
