"""Payloads of one preset: its recorded answers, filled with the task's own id, times, progress and links."""

from collections.abc import Callable, Mapping
from functools import partial

import orjson

from bridge.simulator.files import files_of
from bridge.simulator.lifecycle import Stage, seeded_random
from bridge.simulator.recorded import paths
from bridge.simulator.recorded.ids import similar_id
from bridge.simulator.recorded.preset import Preset
from bridge.simulator.recorded.recording import Frame, Recording
from bridge.simulator.recorded.stages import STATUSES, named
from bridge.simulator.recorded.substitution import Substitution, file_name
from bridge.simulator.recorded.times import retimed, times_of
from bridge.simulator.replies import Refusal, Reply, json_reply
from bridge.simulator.tasks import Json, Task, TaskView

# The error the bridge derives from a status code; selects the recordings of a refusal.
ERROR_NAMES = {
    401: "CredentialRefused",
    402: "CredentialRefused",
    403: "CredentialRefused",
    404: "TaskNotFound",
    429: "UpstreamBusy",
    451: "UpstreamRefused",
}
# Refusals that some providers send only with another HTTP status (MiniMax: 200 with a code).
OTHER_STATUS_ALLOWED = frozenset({401, 404})
ID_LENGTH = 20
# Values of a file id that mean that there is no file yet.
NO_FILE_IDS = ("", "0")
# Only recorded headers that affect polling are sent; the rest belong to the recorded connection.
FORWARDED_HEADERS = frozenset({"retry-after", "openai-poll-after-ms"})


class RecordedStyle:
    """Payloads. `sim.shape.recording`: names of the recordings to use, each for its own stage."""

    def __init__(self, preset: Preset, seed: int) -> None:
        self.name = preset.name
        self.preset = preset
        self._seed = seed

    def new_id(self, number: int) -> str:
        """Return an id in the form of the one in the recorded submit answer."""
        rng = seeded_random(self._seed, self.name, number, "id")
        samples = (self.preset.submitted, *self.preset.stages.values())
        known = (self.preset.recorded_id(sample) for sample in samples)
        return similar_id(next(filter(None, known), "a" * ID_LENGTH), rng)

    def aliases(self, task: Task) -> list[str]:
        """Return the task's other names: the ids its follow-up call needs, and the client's own id."""
        needed = self._needed(task, self.preset.stages[Stage.COMPLETED].body)
        return [*needed.values(), *([task.alias] if task.alias else [])]

    def answer(self, task: Task, view: TaskView) -> Reply:
        """Respond to the status call."""
        return self._reply(task, view, self._recording_for(task, view.stage))

    def show(self, task: Task, view: TaskView) -> Json:
        body = self._body(task, view, self._recording_for(task, view.stage))
        return body if isinstance(body, dict) else {}

    def submitted(self, task: Task, view: TaskView) -> Reply:
        recording = self.preset.submitted
        reply = self._reply(task, view, recording)
        if self.preset.kept_url is None:
            return reply
        at, pattern = self.preset.kept_url
        here, recorded = orjson.loads(reply.body), paths.find(recording.body, at)
        if isinstance(recorded, str) and not pattern.search(str(paths.find(here, at))):
            # The bridge reads the id from this link, and accepts only the provider's own hosts.
            paths.replace(here, at, self._substitution(task, view, recording).words(recorded))
        return json_reply(here, reply.status, reply.headers)

    def follow_up(self, task: Task, view: TaskView) -> Reply:
        """Respond to the follow-up call for the result of a completed task."""
        recording = self.preset.follow_up
        return self.answer(task, view) if recording is None else self._reply(task, view, recording)

    def cancelled(self, task: Task, view: TaskView) -> Reply:
        """Respond to a cancel that was accepted, or came after the end of the task."""
        recording = self.preset.cancelled
        return self.answer(task, view) if recording is None else self._reply(task, view, recording)

    def not_cancelled(self, task: Task, view: TaskView) -> Reply | None:
        """Return the refusal of a cancel; None where none is recorded."""
        recording = self.preset.not_cancelled
        return None if recording is None else self._reply(task, view, recording)

    def frames(self, task: Task, view: TaskView) -> list[bytes]:
        """Return the stream's events for this stage; for a final stage only the first."""
        matching = [frame for frame in self.preset.frames if frame.status == STATUSES[view.stage]]
        chosen = matching[:1] if view.stage.final else matching
        return [self._event(frame, self._body(task, view, frame.recording)) for frame in chosen]

    def heartbeat_frames(self, task: Task, view: TaskView) -> list[bytes]:
        """Return the events without a state, such as heartbeats."""
        heartbeats = [frame for frame in self.preset.frames if frame.is_heartbeat]
        return [self._event(frame, self._body(task, view, frame.recording)) for frame in heartbeats]

    def refuse(self, refusal: Refusal) -> Reply:
        """Return a recorded refusal of this kind, else a generic error envelope."""
        name = ERROR_NAMES.get(refusal.status)
        errors = [each for each in self.preset.answers if each.error_name and isinstance(each.body, dict)]
        exact = [recording for recording in errors if recording.status == refusal.status]
        same_error = [recording for recording in errors if recording.error_name == name]
        best = [recording for recording in exact if recording.error_name == name]
        best += same_error if refusal.status in OTHER_STATUS_ALLOWED else []
        for recording in (*best, *exact):
            return json_reply(recording.body, recording.status)
        return json_reply({"error": {"code": refusal.code, "message": refusal.message}}, refusal.status)

    def error_in_200(self, task: Task | None) -> Reply:
        del task
        for answer in self.preset.answers:
            if answer.error_name and answer.status == 200 and isinstance(answer.body, dict):
                return json_reply(answer.body)
        return json_reply({"error": {"code": "internal_error", "message": "Service is busy"}})

    def headers(self) -> Mapping[str, str]:
        return {}

    def _recording_for(self, task: Task, stage: Stage) -> Recording:
        wanted = task.shape.get("recording", ())
        names = [wanted] if isinstance(wanted, str) else wanted
        requested = named(self.preset.answers, stage, names) if isinstance(names, list) else None
        # A provider without a cancelled status shows a cancelled task as failed.
        default = self.preset.stages.get(stage) or self.preset.stages[Stage.FAILED]
        return requested or default

    def _reply(self, task: Task, view: TaskView, recording: Recording) -> Reply:
        body = self._body(task, view, recording)
        headers = {name: value for name, value in recording.headers.items() if name in FORWARDED_HEADERS}
        if isinstance(body, str):
            content_type = recording.headers.get("content-type", "text/plain")
            return Reply(
                body=body.encode(), status=recording.status, headers=headers, content_type=content_type
            )
        return json_reply(body, recording.status, headers)

    def _body(self, task: Task, view: TaskView, recording: Recording) -> object:
        body = self._substitution(task, view, recording).fill(recording.body)
        fields = self.preset.fields
        if task.model:
            paths.replace(body, fields["model"], task.model)
        if view.stage is Stage.RUNNING:
            recorded = paths.find(body, fields["progress"])
            paths.replace(body, fields["progress"], self._progress(recorded, view.progress))
        if paths.find(body, fields["alias"]) is not None:
            paths.replace(body, fields["alias"], task.alias)
        if view.word is not None:
            paths.replace(body, self.preset.status_paths, view.word)
        return body

    def _progress(self, recorded: object, percent: int) -> object:
        """Return the progress in the unit and the type of the recorded value."""
        if isinstance(recorded, str):
            return f"{percent}%" if recorded.endswith("%") else str(percent)
        amount = percent / self.preset.progress_unit
        return percent if isinstance(recorded, int) and amount == percent else round(amount, 4)

    def _substitution(self, task: Task, view: TaskView, recording: Recording) -> Substitution:
        # Only paths (`fal-ai/flux`): a word such as `predictions` also occurs in links with its own meaning.
        options = {name: text for name, text in recording.options.items() if "/" in text}
        own = {text: task.options[name] for name, text in options.items() if name in task.options}
        own |= self._needed(task, recording.body)
        if recorded := self.preset.recorded_id(recording):
            own[recorded] = task.id
        retime: Callable[[str, object], object] = partial(
            retimed, times=times_of(task, view), zone=self.preset.zone
        )
        return Substitution(
            own=own,
            base_url=self.preset.base_url,
            here=f"{task.origin}/{self.name}",
            files=f"{files_of(task)}/{file_name(task.id)}",
            is_call=self.preset.is_call,
            kinds=recording.links,
            retime=retime,
        )

    def _needed(self, task: Task, body: object) -> dict[str, str]:
        """Map the recorded ids the follow-up call needs (MiniMax's `file_id`) to the task's own."""
        ids: dict[str, str] = {}
        for name, at in self.preset.needs.items():
            recorded = paths.find(body, at) or _keyed(body, name)
            if (
                isinstance(recorded, str | int)
                and str(recorded) not in NO_FILE_IDS
                and "://" not in str(recorded)
            ):
                rng = seeded_random(self._seed, self.name, task.number, f"need/{name}")
                ids[str(recorded)] = similar_id(str(recorded), rng)
        return ids

    def _event(self, frame: Frame, body: object) -> bytes:
        data = body if isinstance(body, str) else orjson.dumps(body).decode()
        lines = [f"event: {frame.event}"] if frame.event else []
        lines += [f"data: {line}" for line in data.split("\n")]
        return ("\n".join(lines) + "\n\n").encode()


def _keyed(tree: object, name: str) -> object | None:
    """Return the value of a key at any depth."""
    below = list(tree.values()) if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    if isinstance(tree, dict) and name in tree:
        value: object = tree[name]
        return value
    return next((found for branch in below if (found := _keyed(branch, name)) is not None), None)
