"""Chooses the recording that shows each stage of a task."""

from collections.abc import Collection, Iterable, Mapping

from bridge.simulator.lifecycle import Stage
from bridge.simulator.recorded.recording import Recording

STATUSES = {
    Stage.QUEUED: "queued",
    Stage.RUNNING: "processing",
    Stage.COMPLETED: "completed",
    Stage.FAILED: "failed",
    Stage.CANCELLED: "cancelled",
}
# Some providers have no queue (Veo); one may have only a queue.
SUBSTITUTES = {Stage.QUEUED: Stage.RUNNING, Stage.RUNNING: Stage.QUEUED}


CANCEL = "cancel-"
"""Prefix of recordings that answer a cancel call and do not show the task itself."""


def by_stage(answers: Iterable[Recording], pins: Mapping[str, str]) -> dict[Stage, Recording]:
    """Return the recording of each stage that has one.

    Args:
        pins: names of recordings by stage, from `routes.toml`; they override the choice.
    """
    answers = tuple(answers)
    chosen: dict[Stage, Recording] = {}
    for stage in Stage:
        fitting = [answer for answer in answers if shows(answer, stage)]
        pinned = [answer for answer in fitting if answer.name == pins.get(stage)]
        if fitting:
            chosen[stage] = min(pinned or fitting, key=_preference)
    for stage, other in SUBSTITUTES.items():
        if stage not in chosen and other in chosen:
            chosen[stage] = chosen[other]
    return chosen


def shows(answer: Recording, stage: Stage) -> bool:
    is_task = answer.error_name is None and not answer.name.startswith(CANCEL)
    return is_task and answer.expect.get("status") == STATUSES[stage]


def default_recording(recordings: Iterable[Recording], pinned: str | None) -> Recording | None:
    """Return the pinned recording, else the first that is not an error."""
    recordings = tuple(recordings)
    pins = [recording for recording in recordings if recording.name == pinned]
    good = [recording for recording in recordings if recording.error_name is None]
    return next(iter([*pins, *good]), None)


def cancel_answers(
    answers: Iterable[Recording], pins: Mapping[str, str]
) -> tuple[Recording | None, Recording | None]:
    """Return the answers to a cancel call that succeeds and to one that is rejected."""
    recordings = [answer for answer in answers if answer.name.startswith(CANCEL)]
    done = next((answer for answer in recordings if answer.status < 400), None)
    refused = next((answer for answer in recordings if answer.status >= 400), None)
    return default_recording(recordings, pins.get("cancel")) if "cancel" in pins else done, refused


def named(answers: Iterable[Recording], stage: Stage, wanted: Collection[str]) -> Recording | None:
    """Return the recording of this stage that the caller requested by name."""
    return next((answer for answer in answers if answer.name in wanted and shows(answer, stage)), None)


def _preference(answer: Recording) -> tuple[bool, bool, bool, bool, bool, int, str]:
    """Sort key: the most complete recording first (id, progress, result), then by name."""
    expect = answer.expect
    word = str(expect.get("upstream_status", "")).lower().replace("_", "-").replace(" ", "-")
    return (
        not isinstance(answer.body, dict) and "outputs" not in expect,
        expect.get("status") == STATUSES[Stage.RUNNING] and "progress" not in expect,
        expect.get("status") == STATUSES[Stage.COMPLETED] and not ("outputs" in expect or "follow" in expect),
        "task_id" not in expect,
        answer.name not in (word, expect.get("status")),
        len(answer.name),
        answer.name,
    )
