"""Tasks as tests speak of them: observations, states and events with everything unimportant left out."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.task import Failure, Observation, Output, Source, State, Status, TaskKey

TASK = TaskKey("qingbo", "task-1")
OTHER = TaskKey("vapi", "operations/7")
EPOCH = "k3f9"
WALL = 1_800_000_000.0


def seen(status: str | Status = "processing", progress: float | None = None, **more: Any) -> Observation:
    """What a look showed."""
    return Observation(status=Status(status), progress=progress, **more)


def state(status: str | Status = "processing", progress: float | None = None, **more: Any) -> State:
    """What is known."""
    times = {"changed_at": WALL, "observed_at": WALL, "source": Source.POLL}
    return State(status=Status(status), progress=progress, **(times | more))


def event(offset: int, known: State | None = None, key: TaskKey = TASK, **more: Any) -> Event:
    """What the journal says."""
    return Event(key, Cursor(EPOCH, offset), known or state(), **more)


def video(url: str, **more: Any) -> Output:
    """One result."""
    return Output(type="video", url=url, **more)


_ENDINGS = [Status.COMPLETED, Status.FAILED, Status.CANCELLED]
open_statuses = st.sampled_from([one for one in Status if not one.final])
statuses = st.sampled_from([one for one in Status if one is not Status.LOST])
progresses = st.none() | st.integers(0, 100).map(float)
outputs = st.lists(
    st.builds(video, st.sampled_from(["https://a/1.mp4", "https://a/2.mp4?sig=1"])), max_size=2
)
observations = st.builds(
    Observation,
    status=st.sampled_from([*[one for one in Status if not one.final] * 4, *_ENDINGS]),
    upstream_status=st.none() | st.sampled_from(["RUNNING", "wait"]),
    progress=progresses,
    estimated_seconds=st.none() | st.floats(0, 1000),
    eta_seconds=st.none() | st.floats(0, 1000),
    queue_position=st.none() | st.integers(0, 9),
    model=st.none() | st.just("wan2.7"),
    alias=st.none() | st.just("mine"),
    created_at=st.none() | st.just(WALL - 60),
    outputs=outputs.map(tuple),
    error=st.none() | st.just(Failure("E1", "no")),
    credits_used=st.none() | st.just(2.0),
    poll_after=st.none() | st.floats(0, 400),
)
