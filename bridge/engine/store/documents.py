"""Small documents, lists of samples, operations that happen once, and holds."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from bridge.engine.base import LEARNED_SECONDS, Held, Operation, OperationState, Put
from bridge.engine.store.due import DueQueue
from bridge.engine.store.sessions import MICROSECONDS, Sessions

MAX_LISTS = 20_000
MAX_COUNTERS = 50_000
OPERATION_BYTES = 600  # besides its name, digest and answer
_NEVER = 2**62


def ends_at(seconds: float, now: int) -> int:
    """When something that lasts so long ends; infinite is far away, what is not a number is now."""
    if not seconds > 0:
        return now
    return min(now + math.ceil(min(seconds, 1e12) * MICROSECONDS), _NEVER)


class SharedDocument(NamedTuple):
    """A small document; `expires` in microseconds."""

    version: int
    value: bytes
    expires: int


class Documents:
    """Small documents by name.

    A version is above every version its name had before, also over a deletion: who compares with an old one
    is never right by accident.
    """

    def __init__(self) -> None:
        self._documents: dict[str, SharedDocument] = {}
        self._expiry: DueQueue[str] = DueQueue()
        self._last_version = 0

    def get(self, name: str, now: int) -> SharedDocument | None:
        """A document that has not expired."""
        document = self._documents.get(name)
        return document if document is not None and now < document.expires else None

    def peek(self, name: str) -> SharedDocument | None:
        """A document, expired or not."""
        return self._documents.get(name)

    def put(self, name: str, value: bytes | None, *, expect: int | None, seconds: float, now: int) -> Put:
        """See `Engine.put`."""
        document = self.get(name, now)
        version = document.version if document is not None else 0
        if expect is not None and expect != version:
            return Put(written=False, version=version, value=document.value if document is not None else None)
        if value is None:
            self._delete(name)
            return Put(written=True, version=0, value=None)
        self._last_version = max(self._last_version + 1, now)
        self.restore(name, SharedDocument(self._last_version, value, ends_at(seconds, now)))
        return Put(written=True, version=self._last_version, value=value)

    def restore(self, name: str, document: SharedDocument) -> None:
        """Take a document as it was."""
        self._last_version = max(self._last_version, document.version)
        self._documents[name] = document
        self._expiry.add(name, document.expires)

    def expire(self, limit: int, now: int) -> list[str]:
        """Delete up to `limit` that have expired; returns their names."""
        expired: list[str] = []
        while len(expired) < limit and (name := self._expiry.pop(now)) is not None:
            self._delete(name)
            expired.append(name)
        return expired

    def _delete(self, name: str) -> None:
        self._documents.pop(name, None)
        self._expiry.remove(name)


class SampleList(NamedTuple):
    """Samples, oldest first; `expires` in microseconds."""

    samples: list[bytes]
    expires: int


class Samples:
    """Lists that keep their newest entries; of too many lists the one used least recently goes."""

    def __init__(self) -> None:
        self._lists: OrderedDict[str, SampleList] = OrderedDict()
        self._expiry: DueQueue[str] = DueQueue()

    def learn(self, name: str, samples: Sequence[bytes], keep: int, now: int) -> str | None:
        """See `Engine.learn`; returns the name of a list that had to go."""
        known = [] if keep <= 0 else [*self.learned(name, now), *samples][-keep:]
        if not known:
            self._delete(name)
            return None
        self.restore(name, SampleList(known, ends_at(LEARNED_SECONDS, now)))
        if len(self._lists) <= MAX_LISTS:
            return None
        oldest = next(iter(self._lists))
        self._delete(oldest)
        return oldest

    def learned(self, name: str, now: int) -> list[bytes]:
        """The samples of one list, oldest first."""
        known = self._lists.get(name)
        return known.samples.copy() if known is not None and now < known.expires else []

    def peek(self, name: str) -> SampleList | None:
        """A list, expired or not."""
        return self._lists.get(name)

    def restore(self, name: str, samples: SampleList) -> None:
        """Take a list as it was."""
        self._lists[name] = samples
        self._lists.move_to_end(name)
        self._expiry.add(name, samples.expires)

    def expire(self, limit: int, now: int) -> list[str]:
        """Delete up to `limit` that have expired; returns their names."""
        expired: list[str] = []
        while len(expired) < limit and (name := self._expiry.pop(now)) is not None:
            self._delete(name)
            expired.append(name)
        return expired

    def _delete(self, name: str) -> None:
        self._lists.pop(name, None)
        self._expiry.remove(name)


class Undertaking(NamedTuple):
    """An operation that was begun; `expires` in microseconds."""

    session: str
    digest: bytes
    done: bool
    answer: bytes | None
    expires: int


class Operations:
    """Operations that must happen once; of too many that are done those that end first are forgotten.

    Args:
        max_answers: Operations that are done.
        answer_bytes: The same for the memory they take.
    """

    def __init__(self, sessions: Sessions, *, max_answers: int, answer_bytes: int) -> None:
        self._sessions = sessions
        self._max_answers = max_answers
        self._answer_bytes = answer_bytes
        self._operations: dict[str, Undertaking] = {}
        self._expiry: DueQueue[str] = DueQueue()
        self._done: DueQueue[str] = DueQueue()
        self._size = 0

    def get(self, name: str) -> Undertaking | None:
        """An operation, expired or not."""
        return self._operations.get(name)

    def begin(self, session: str, name: str, digest: bytes, seconds: float, now: int) -> Operation:
        """See `Engine.begin`."""
        known = self._operations.get(name)
        if known is None or known.expires <= now:
            if not self._sessions.alive(session, now):
                return Operation(OperationState.PENDING)
            self.restore(name, Undertaking(session, digest, False, None, ends_at(seconds, now)))
            return Operation(OperationState.NEW)
        if known.digest != digest:
            return Operation(OperationState.MISMATCH)
        if known.done:
            return Operation(OperationState.DONE, known.answer)
        alive = self._sessions.alive(known.session, now)
        return Operation(OperationState.PENDING if alive else OperationState.DEAD)

    def finish(self, session: str, name: str, answer: bytes | None, now: int) -> bool:
        """See `Engine.finish`; again with the same answer is true again."""
        known = self._operations.get(name)
        if known is None or known.expires <= now or known.session != session:
            return False
        if known.done:
            return answer is not None and known.answer == answer
        if not self._sessions.alive(session, now):
            return False
        if answer is None:
            self._delete(name)
        else:
            self.restore(name, known._replace(done=True, answer=answer))
        return True

    def restore(self, name: str, operation: Undertaking) -> None:
        """Take an operation as it was."""
        self._delete(name)
        self._operations[name] = operation
        self._expiry.add(name, operation.expires)
        if operation.done:
            self._done.add(name, operation.expires)
            self._size += _size(name, operation)

    def trim(self) -> list[str]:
        """Delete what is too much; returns the names."""
        trimmed: list[str] = []
        while len(self._done) > self._max_answers or self._size > self._answer_bytes:
            first = self._done.first()
            assert first is not None, "there are some"
            self._delete(first[1])
            trimmed.append(first[1])
        return trimmed

    def expire(self, limit: int, now: int) -> list[str]:
        """Delete up to `limit` that have expired; returns their names."""
        expired: list[str] = []
        while len(expired) < limit and (name := self._expiry.pop(now)) is not None:
            self._delete(name)
            expired.append(name)
        return expired

    def _delete(self, name: str) -> None:
        operation = self._operations.pop(name, None)
        self._expiry.remove(name)
        if self._done.remove(name) and operation is not None:
            self._size -= _size(name, operation)


def _size(name: str, operation: Undertaking) -> int:
    return OPERATION_BYTES + len(name) + len(operation.digest) + len(operation.answer or b"")


class Reserved(NamedTuple):
    """An amount that is held in a window; `expires` in microseconds, with the window."""

    window: int
    amount: float
    expires: int


class WindowCounter:
    """What is held of one limit in one window."""

    __slots__ = ("ends_at", "holds", "used", "window")

    def __init__(self, window: int, ends_at: int) -> None:
        self.window = window
        self.ends_at = ends_at
        self.holds: dict[str, float] = {}
        self.used = 0.0


class Counters:
    """Amounts reserved within limits; of too many counters the one used least recently goes."""

    def __init__(self) -> None:
        self._counters: OrderedDict[str, WindowCounter] = OrderedDict()

    def hold(self, counter: str, hold: str, amount: float, *, limit: float, window: float, now: int) -> Held:
        """See `Engine.hold`."""
        length = max(round(window * MICROSECONDS), 1) if window < 1e12 else _NEVER
        number = now // length
        held = self._counters.get(counter)
        if held is None or held.window != number:
            held = self._counters[counter] = WindowCounter(number, (number + 1) * length)
        self._counters.move_to_end(counter)
        if len(self._counters) > MAX_COUNTERS:
            self._counters.popitem(last=False)
        if hold in held.holds:
            return Held(ok=True, used=held.used)
        # `not <=`: what is not a number is refused too.
        if not (amount >= 0 and held.used + amount <= limit):
            return Held(ok=False, used=held.used)
        held.holds[hold] = amount
        held.used += amount
        return Held(ok=True, used=held.used)

    def settle(self, counter: str, hold: str, amount: float) -> None:
        """See `Engine.settle`."""
        held = self._counters.get(counter)
        if held is None or hold not in held.holds or not 0 <= amount < math.inf:
            return
        held.used = max(held.used - held.holds.pop(hold) + amount, 0.0)
        if amount:
            held.holds[hold] = amount

    def get(self, counter: str, hold: str) -> Reserved | None:
        """What is held in the present window."""
        held = self._counters.get(counter)
        if held is None or hold not in held.holds:
            return None
        return Reserved(held.window, held.holds[hold], held.ends_at)

    def restore(self, counter: str, hold: str, reserved: Reserved) -> None:
        """Take a hold as it was."""
        held = self._counters.get(counter)
        if held is None or held.window < reserved.window:
            held = self._counters[counter] = WindowCounter(reserved.window, reserved.expires)
        if held.window == reserved.window:
            held.holds[hold] = reserved.amount
            held.used += reserved.amount
