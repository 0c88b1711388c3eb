"""Cursors of states that are not recorded yet: the client takes them, and resumes with them."""

from __future__ import annotations

import orjson

from bridge.client.watch_state import WatchState
from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.resume import unrecorded
from bridge.core.task import State
from bridge.wire.formats import SseFormat
from bridge.wire.frames import Frames, format_of
from bridge.wire.sse import EVENT_ID, Decoder
from tests.fakes.tasks import TASK, WALL, state


def received(watch: WatchState, cursor: Cursor, known: State) -> float | None:
    """The progress that the caller gets of one event; None for nothing new."""
    event = Event(TASK, cursor, known)
    data = Frames(event).bytes_for(format_of(SseFormat), now=WALL)
    first = Decoder().feed(data)[0]
    assert EVENT_ID.fullmatch(str(first.id))
    assert orjson.loads(first.data)["cursor"] == first.id == str(cursor)
    new = watch.accept(first)
    return None if new is None else new.progress  # type: ignore[union-attr] # a state


def test_each_state_once_whether_it_is_recorded_or_not() -> None:
    watch = WatchState([TASK.ref])
    epoch, offset = "mx26g1bm7t", 1_795_977_186_570_270
    half = unrecorded(Event(TASK, Cursor(epoch, offset), state(progress=50.0)), epoch, offset)
    assert received(watch, Cursor(epoch, offset), state(progress=10.0)) == 10
    assert received(watch, half.cursor, half.state) == 50
    assert received(watch, half.cursor, half.state) is None
    assert received(watch, Cursor(epoch, offset + 9), state(progress=60.0)) == 60
    assert received(watch, Cursor(epoch, offset + 9), state(progress=60.0)) is None
    end = unrecorded(Event(TASK, half.cursor, state("completed", 100.0)), epoch, offset + 9)
    assert str(end.cursor).endswith("~c1000")
    assert received(watch, end.cursor, end.state) == 100
    assert received(watch, Cursor(epoch, offset + 20), end.state) is None
    assert watch.settled
