"""Reads recorded answers and stream frames from `bridge/simulator/recordings/NAME`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable

import orjson

from bridge.simulator.tasks import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One recorded answer of a provider, and the state the bridge is expected to read from it.

    Args:
        body: a JSON value, or the text of a body that is not JSON.
        error_name: class of the error the bridge derives from it; None for a task.
        task_id: the bridge's id of the task, where the recording names it.
        options: for a submit answer: the values in the call's path.
    """

    name: str
    status: int
    headers: Mapping[str, str]
    body: object
    expect: Json
    task_id: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def error_name(self) -> str | None:
        error = self.expect.get("error")
        return error if isinstance(error, str) else None

    @property
    def links(self) -> dict[str, str]:
        """The expected result links and their types."""
        outputs = self.expect.get("outputs")
        entries = [entry for entry in outputs if isinstance(entry, dict)] if isinstance(outputs, list) else []
        return {str(entry["url"]): str(entry.get("type")) for entry in entries if entry.get("url")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One server-sent event of a provider's own stream.

    Args:
        recording: its data, filled like an answer.
    """

    event: str | None
    recording: Recording

    @property
    def status(self) -> object:
        return self.recording.expect.get("status")

    @property
    def is_heartbeat(self) -> bool:
        """Whether the event carries no state of the task."""
        return not self.recording.expect


def read_recordings(folder: Traversable) -> tuple[Recording, ...]:
    return tuple(_recording(name, raw) for name, raw in _files(folder))


def read_frames(folder: Traversable) -> tuple[Frame, ...]:
    return tuple(_frame(raw) for _, raw in _files(folder))


def _files(folder: Traversable) -> Iterable[tuple[str, Json]]:
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".json"):
            yield file.name.removesuffix(".json"), orjson.loads(file.read_bytes())


def _recording(name: str, raw: Json) -> Recording:
    answer = _table(raw.get("answer"))
    status = answer.get("status", 200)
    return Recording(
        name=name,
        status=status if isinstance(status, int) else 200,
        headers={key.lower(): str(value) for key, value in _table(answer.get("headers")).items()},
        body=answer.get("body"),
        expect=_table(raw.get("expect")),
        task_id=str(raw["task_id"]) if raw.get("task_id") else None,
        options={key: str(value) for key, value in _table(raw.get("options")).items()},
    )


def _frame(raw: Json) -> Frame:
    event, expect = raw.get("event"), _table(raw.get("expect"))
    recording = Recording(name="frame", status=200, headers={}, body=raw.get("data"), expect=expect)
    return Frame(event=event if isinstance(event, str) else None, recording=recording)


def _table(raw: object) -> Json:
    return raw if isinstance(raw, dict) else {}
