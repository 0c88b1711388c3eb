"""When a task is polled next, why then, and how sharp the reason is, for the list of the inspector."""

from __future__ import annotations

from bridge.clock import Clock
from bridge.core.forecast import GUESS
from bridge.watchers.watcher import Watcher
from bridge.wire.document import timestamp

NextPoll = dict[str, object]

_BY_GROUND = frozenset({"run", "work", "slope", "estimate", "eta"})


def next_poll(watcher: Watcher, clock: Clock) -> NextPoll | None:
    """The fields of one row; None where nothing is due, or another process polls the task.

    `samples` and `sharpness` are None where the time does not rest on what was learned.
    """
    watch = watcher.watch
    if watch.due is None or not watcher.polls_here:
        return None
    why = watch.why.partition(":")[0]
    ground = watch.ground if why in _BY_GROUND else None
    # To the tenth of a second: the list is the same until the next poll.
    at = round(clock.time() + watch.due - clock.monotonic(), 1)
    return {
        "at": timestamp(at),
        "why": why,
        "samples": None if ground is None or ground.curve is GUESS else ground.curve.size,
        "sharpness": None if ground is None else round(min(ground.curve.sharpness, 1.0), 2),
    }
