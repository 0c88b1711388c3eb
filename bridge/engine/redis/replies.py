"""What the server answers, read: records, entries of the log, recorded states.

What it holds may come from another version or another program: anything else is `UnreadableReply`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bridge.core.event import Confirmation, read_confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import (
    BeatEntry,
    BudgetEntry,
    CallEntry,
    ConfirmEntry,
    DetailsEntry,
    DocumentEntry,
    End,
    Entry,
    ForgetEntry,
    NoticeEntry,
    Past,
    Record,
    Stamp,
    StateEntry,
)
from bridge.engine.redis.keys import read_task

_ENDS = {b"0": End.OPEN, b"1": End.ENDED, b"2": End.LOST}
_NO_NOTICES: dict[str, bytes] = {}


class UnreadableReply(Exception):
    """The server holds something that no bridge of this version wrote."""


class UnreadableRecord(UnreadableReply):
    """The record of a task holds something else.

    Attributes:
        key: Of the task.
    """

    def __init__(self, key: TaskKey) -> None:
        super().__init__("the record of a task cannot be read")
        self.key = key


def pairs(flat: Sequence[Any]) -> dict[bytes, bytes]:
    """The fields of a hash or an entry."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def read_record(key: TaskKey, flat: Sequence[bytes]) -> Record:
    """A record from the fields of its hash; of version 0 if there are none.

    Raises:
        UnreadableRecord: It holds something else.
    """
    if not flat:
        return Record(key)
    try:
        return _read_fields(key, flat)
    except (ValueError, KeyError) as error:
        raise UnreadableRecord(key) from error


def _read_fields(key: TaskKey, flat: Sequence[bytes]) -> Record:
    fields = pairs(flat)
    get = fields.get
    notices = {name[2:].decode(): body for name, body in fields.items() if name.startswith(b"n:")}
    return Record(
        key=key,
        owner=get(b"o", b"").decode(),
        version=int(get(b"v", 0)),
        session=get(b"by", b"").decode(),
        offset=int(get(b"f", 0)),
        end=_ENDS[get(b"e", b"0")],
        digest=get(b"c", b""),
        document=get(b"d"),
        raw=get(b"w"),
        persistent=b"k" in fields,
        called_back=b"cb" in fields,
        notices=notices or _NO_NOTICES,
        due=int(float(get(b"due", 0))),
        polled_at=int(get(b"p", 0)),
        confirmation=_confirmation(fields[b"at"] + b" " + get(b"eta", b"")) if b"at" in fields else None,
        first_seen=int(get(b"fs", 0)),
        details=get(b"x"),
        forgotten=int(get(b"gone", 0)),
    )


def read_past(text: bytes) -> Past:
    """One recorded state: offset, length of the document and whether it has `raw`, then both."""
    head, _, rest = text.partition(b"\n")
    offset, length, has_raw = head.split(b" ")
    end = int(length)
    return Past(int(offset), rest[:end], rest[end:] if has_raw == b"1" else None)


def read_entry(id_: bytes, flat: Sequence[bytes]) -> Entry:  # noqa: PLR0911 - one for each kind
    """One entry of the log: `p` is the head before it, the next field says what it is."""
    offset, previous, kind = int(id_[:-2]), int(flat[1]), flat[2]
    if kind == b"k":
        return _state_entry(offset, previous, flat)
    if kind == b"a":
        return BeatEntry(offset, previous, flat[3].decode())
    fields = pairs(flat)
    if kind == b"o":
        read = ((read_task(task), _confirmation(at)) for task, at in zip(flat[4::2], flat[5::2], strict=True))
        return ConfirmEntry(offset, previous, [(key, seen) for key, seen in read if seen is not None])
    if kind == b"n":
        return NoticeEntry(offset, previous, read_task(flat[3]), fields[b"c"].decode(), fields.get(b"d"))
    if kind == b"l":
        called_back = fields[b"b"] == b"1"
        return CallEntry(offset, previous, read_task(flat[3]), fields[b"s"].decode(), called_back)
    if kind == b"b":
        return BudgetEntry(offset, previous, flat[3].decode(), int(fields[b"u"]), int(fields[b"f"]))
    if kind == b"j" and b"g" in fields:
        return ForgetEntry(offset, previous, read_task(fields[b"g"]))
    if kind == b"j":
        return DocumentEntry(offset, previous, flat[3].decode("utf-8", "surrogatepass"), fields.get(b"d"))
    if kind == b"r":
        return DetailsEntry(offset, previous, read_task(flat[3]), fields[b"x"])
    raise UnreadableReply(f"an entry of the unknown kind {kind[:20]!r}")


def _confirmation(text: bytes) -> Confirmation | None:
    """Its words: seconds, then `eta_at` and `eta_by`; versions before wrote the first alone."""
    return read_confirmation(*text.split())


def _state_entry(offset: int, previous: int, flat: Sequence[bytes]) -> StateEntry:
    # By place: this is what a bridge reads most. After p, k, s and c come d, w and x where there are any.
    version, end, amended, session = flat[5].split(b" ", 3)
    document = raw = details = None
    for place in range(8, len(flat), 2):
        if flat[place] == b"d":
            document = flat[place + 1]
        elif flat[place] == b"w":
            raw = flat[place + 1]
        else:
            details = flat[place + 1]
    return StateEntry(
        offset,
        previous,
        read_task(flat[3]),
        Stamp(int(version), session.decode()),
        _ENDS[end],
        flat[7],
        document,
        raw,
        document is not None,
        amended == b"1",
        details,
    )
