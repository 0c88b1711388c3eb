"""The newest states of tasks as a text file, one task a line: from one journal or engine to another.

The first line names the format, the last one the number of tasks, so that a file that was cut is noticed
before anything of it is used. After the tasks comes what ended ones taught about run times, and the webhooks
that were added while a bridge ran.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from bridge.core.details import decode_details
from bridge.core.learned import Run
from bridge.core.task import State, TaskKey
from bridge.errors import InvalidRequest, JournalError
from bridge.journal.learned import decode_run, encode_run
from bridge.journal.sqlite.codec import decode, encode

FORMAT = 3
_READ = (1, 2, FORMAT)  # 1: without what was learned; 2: without details and webhooks
_HEAD = "taskbridge_tasks"
_RUN = "learned"
_WEBHOOKS = "webhooks"
_END = "tasks"


class TaskCopy(NamedTuple):
    """A task as it is moved.

    Args:
        details: What it was submitted with, encoded; None for nothing.
    """

    key: TaskKey
    state: State
    details: bytes | None = None


class TaskFileWriter:
    """Writes a new file, which appears under its name only when it is complete.

    Use as a context manager; after an error the file is deleted. Only our user can read it: it contains links
    to results, and the secrets of webhooks.

    Raises:
        JournalError: The file exists, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.tasks = self.runs = 0
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._file: IO[str]

    def __enter__(self) -> Self:
        taken = next((one for one in (self._path, self._part) if os.path.lexists(one)), None)
        if taken is not None:
            raise JournalError(f"{taken} already exists; give the file a name of its own")
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"cannot write {self._part}: {error.strerror}") from error
        self._file = os.fdopen(descriptor, "w", encoding="ascii")
        self._put({_HEAD: FORMAT})
        return self

    def write(self, task: TaskCopy) -> None:
        """Add a task."""
        key, state, details = task
        fields = {
            "upstream": key.upstream,
            "account": key.account,
            "task_id": key.task_id,
            "state": _text(encode(state)),
            "raw": None if state.raw is None else _text(state.raw),
        }
        if details is not None:
            fields["details"] = _text(details)
        self._put(fields)
        self.tasks += 1

    def write_run(self, upstream: str, run: Run) -> None:
        """Add what an ended task taught, after the tasks."""
        data = encode_run(run)
        if data is not None:
            self._put({_RUN: upstream, "run": data.decode()})
            self.runs += 1

    def write_webhooks(self, document: bytes) -> None:
        """Add the webhooks that were added while a bridge ran, after the tasks."""
        self._put({_WEBHOOKS: _text(document)})

    def _put(self, fields: dict[str, Any]) -> None:
        try:
            # ASCII: any id and any byte of a provider survives, as an escape
            self._file.write(json.dumps(fields, separators=(",", ":")) + "\n")
        except OSError as error:
            raise JournalError(f"cannot write {self._part}: {error.strerror}") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                if kind is None:
                    self._put({_END: self.tasks})
                    self._file.flush()
                    os.fsync(self._file.fileno())
            if kind is None:
                self._part.rename(self._path)
        except OSError as failure:
            raise JournalError(f"cannot write {self._part}: {failure.strerror}") from failure
        finally:
            self._part.unlink(missing_ok=True)


def read_tasks(path: Path) -> Iterator[TaskCopy]:
    """The tasks of a file, in its order.

    Raises:
        JournalError: It cannot be read, is of another format, or is not complete; named with the line.
    """
    return (found for found in _lines(path) if isinstance(found, TaskCopy))


def read_runs(path: Path) -> Iterator[tuple[str, Run]]:
    """What ended tasks taught, each with its upstream; errors as `read_tasks`.

    A run that makes no sense here, such as one of another version, is left out.
    """
    return ((found.upstream, found.run) for found in _lines(path) if isinstance(found, _LearnedRun))


def read_webhooks(path: Path) -> bytes | None:
    """The webhooks that were added while a bridge ran; None for none. Errors as `read_tasks`."""
    return next((found for found in _lines(path) if isinstance(found, bytes)), None)


class _LearnedRun(NamedTuple):
    upstream: str
    run: Run


def _lines(path: Path) -> Iterator[TaskCopy | _LearnedRun | bytes]:
    try:
        with path.open(encoding="utf-8") as file:
            if not file.seekable():
                raise JournalError(f"{path} is read twice, so it must be a file, not a pipe")
            yield from _parsed(file, path)
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise JournalError(f"{path} is not a file of tasks") from None


def _parsed(file: IO[str], path: Path) -> Iterator[TaskCopy | _LearnedRun | bytes]:
    count, ended = 0, False
    for number, line in enumerate(file, start=1):
        try:
            fields = json.loads(line)
            if number == 1:
                _check_head(fields, path)
            elif _END in fields:
                ended = _is_complete(fields[_END], count)
            elif _RUN in fields:
                run = decode_run(str(fields["run"]).encode())
                if run is not None:
                    yield _LearnedRun(str(fields[_RUN]), run)
            elif _WEBHOOKS in fields:
                yield _bytes(fields[_WEBHOOKS])
            else:
                task = _task(fields, ended=ended)
                count += 1
                yield task
        except (ValueError, TypeError, LookupError, JournalError, InvalidRequest) as error:
            if number == 1 and not isinstance(error, JournalError):
                raise JournalError(f"{path} is not a file of tasks") from error
            raise JournalError(f"{path}, line {number} cannot be read: {error}") from error
    if not ended:
        raise JournalError(f"{path} is not complete: its last line is missing")


def _task(fields: dict[str, Any], *, ended: bool) -> TaskCopy:
    if ended:
        raise ValueError("it comes after the last one")
    raw = fields["raw"]
    state = decode(_bytes(fields["state"]), None if raw is None else _bytes(raw))
    key = TaskKey.parse(f"{fields['upstream']}/{fields['task_id']}", fields["account"])
    details = fields.get("details")
    if details is None:
        return TaskCopy(key, state)
    # `since` is an offset of the history that was left.
    return TaskCopy(key, state, decode_details(_bytes(details))._replace(since=0).encode())


def _is_complete(tasks: Any, count: int) -> bool:
    if tasks != count:
        raise ValueError(f"{count} tasks before it, and {tasks} were written")
    return True


def _check_head(fields: Any, path: Path) -> None:
    found = fields[_HEAD]
    if found not in _READ:
        raise JournalError(f"{path} has the format {found!r}; this version reads up to {FORMAT}")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
