"""Chooses which recording shows which stage of a task."""

from collections.abc import Collection, Iterable, Mapping

from bridge.simulator.life import Stage
from bridge.simulator.recorded.recording import Recording

STATUSES = {
    Stage.QUEUED: "queued",
    Stage.RUNNING: "processing",
    Stage.COMPLETED: "completed",
    Stage.FAILED: "failed",
    Stage.CANCELLED: "cancelled",
}
# Some providers know no queue (Veo), and one could know nothing else.
INSTEAD = {Stage.QUEUED: Stage.RUNNING, Stage.RUNNING: Stage.QUEUED}


CANCEL = "cancel-"
"""How the names of recordings begin that answer a cancel call and show no task as it is."""


def by_stage(looks: Iterable[Recording], pins: Mapping[str, str]) -> dict[Stage, Recording]:
    """The recording of each stage that has one.

    Args:
        pins: names of recordings by stage, from `routes.toml`.
    """
    looks = tuple(looks)
    chosen: dict[Stage, Recording] = {}
    for stage in Stage:
        fitting = [look for look in looks if shows(look, stage)]
        pinned = [look for look in fitting if look.name == pins.get(stage)]
        if fitting:
            chosen[stage] = min(pinned or fitting, key=_oddness)
    for stage, other in INSTEAD.items():
        if stage not in chosen and other in chosen:
            chosen[stage] = chosen[other]
    return chosen


def shows(look: Recording, stage: Stage) -> bool:
    told = look.trouble is None and not look.name.startswith(CANCEL)
    return told and look.expect.get("status") == STATUSES[stage]


def usual(recordings: Iterable[Recording], pinned: str | None) -> Recording | None:
    """The recording that is named, else the first that is no trouble."""
    recordings = tuple(recordings)
    named = [each for each in recordings if each.name == pinned]
    good = [each for each in recordings if each.trouble is None]
    return next(iter([*named, *good]), None)


def cancel_answers(
    looks: Iterable[Recording], pins: Mapping[str, str]
) -> tuple[Recording | None, Recording | None]:
    """What the cancel call answers when it does as it is told, and when it refuses."""
    found = [look for look in looks if look.name.startswith(CANCEL)]
    done = next((look for look in found if look.status < 400), None)
    refused = next((look for look in found if look.status >= 400), None)
    return usual(found, pins.get("cancel")) if "cancel" in pins else done, refused


def named(looks: Iterable[Recording], stage: Stage, wanted: Collection[str]) -> Recording | None:
    """The recording of this stage that a caller asked for by its name."""
    return next((look for look in looks if look.name in wanted and shows(look, stage)), None)


def _oddness(look: Recording) -> tuple[bool, bool, bool, bool, bool, int, str]:
    """What tells most comes first: an id, progress, a result; then what is named for its word."""
    expect = look.expect
    word = str(expect.get("upstream_status", "")).lower().replace("_", "-").replace(" ", "-")
    return (
        not isinstance(look.body, dict) and "outputs" not in expect,
        expect.get("status") == STATUSES[Stage.RUNNING] and "progress" not in expect,
        expect.get("status") == STATUSES[Stage.COMPLETED] and not ("outputs" in expect or "follow" in expect),
        "task_id" not in expect,
        look.name not in (word, expect.get("status")),
        len(look.name),
        look.name,
    )
