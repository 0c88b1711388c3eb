"""Speaks like one preset: its recorded answers, filled with a task's own id, times, progress and links."""

from collections.abc import Callable, Mapping
from functools import partial

import orjson

from bridge.simulator.life import Stage, dice
from bridge.simulator.recorded import places
from bridge.simulator.recorded.ids import alike
from bridge.simulator.recorded.preset import Preset
from bridge.simulator.recorded.recording import Frame, Recording
from bridge.simulator.recorded.stages import STATUSES, named
from bridge.simulator.recorded.substitution import Substitution, file_name
from bridge.simulator.recorded.times import moments_of, retimed
from bridge.simulator.replies import Refusal, Reply, json_reply
from bridge.simulator.tasks import Json, Task, View

# How the bridge reads a refusal, and so which recordings show one.
TROUBLES = {
    401: "CredentialRefused",
    402: "CredentialRefused",
    403: "CredentialRefused",
    404: "TaskNotFound",
    429: "UpstreamBusy",
    451: "UpstreamRefused",
}
# Refusals that some providers only write with another HTTP status (MiniMax: 200 with a code).
OFTEN_ELSEWHERE = frozenset({401, 404})
ID_LENGTH = 20
# How a recording says that there is no file yet.
NO_ID = ("", "0")
# Of the recorded headers only those that mean something to whoever waits; the rest is the connection's own.
KEPT_HEADERS = frozenset({"retry-after", "openai-poll-after-ms"})


class RecordedVoice:
    """The shapes. `sim.shape.recording`: the names of the recordings to use, each for its own stage."""

    def __init__(self, preset: Preset, seed: int) -> None:
        self.name = preset.name
        self.preset = preset
        self._seed = seed

    def new_id(self, number: int) -> str:
        """An id of the kind that the submit call gives out in its recording."""
        rolled = dice(self._seed, self.name, number, "id")
        samples = (self.preset.submitted, *self.preset.stages.values())
        known = (self.preset.recorded_id(each) for each in samples)
        return alike(next(filter(None, known), "a" * ID_LENGTH), rolled)

    def aliases(self, task: Task) -> list[str]:
        """What else names the task: what its result's further call needs, and the client's own id."""
        needed = self._needed(task, self.preset.stages[Stage.COMPLETED].body)
        return [*needed.values(), *([task.alias] if task.alias else [])]

    def answer(self, task: Task, view: View) -> Reply:
        """The status call."""
        return self._reply(task, view, self._look(task, view.stage))

    def show(self, task: Task, view: View) -> Json:
        body = self._body(task, view, self._look(task, view.stage))
        return body if isinstance(body, dict) else {}

    def submitted(self, task: Task, view: View) -> Reply:
        recording = self.preset.submitted
        reply = self._reply(task, view, recording)
        if self.preset.kept_url is None:
            return reply
        at, pattern = self.preset.kept_url
        here, recorded = orjson.loads(reply.body), places.find(recording.body, at)
        if isinstance(recorded, str) and not pattern.search(str(places.find(here, at))):
            # The id is read from this link, and only from one of the provider's own hosts.
            places.put(here, at, self._substitution(task, view, recording).words(recorded))
        return json_reply(here, reply.status, reply.headers)

    def follow_up(self, task: Task, view: View) -> Reply:
        """The further call for the result of a task that is completed."""
        recording = self.preset.follow_up
        return self.answer(task, view) if recording is None else self._reply(task, view, recording)

    def cancelled(self, task: Task, view: View) -> Reply:
        """The answer to a cancel that was heeded, or came too late to matter."""
        recording = self.preset.cancelled
        return self.answer(task, view) if recording is None else self._reply(task, view, recording)

    def not_cancelled(self, task: Task, view: View) -> Reply | None:
        """The refusal of a cancel; None where none is recorded."""
        recording = self.preset.not_cancelled
        return None if recording is None else self._reply(task, view, recording)

    def frames(self, task: Task, view: View) -> list[bytes]:
        """The stream's events that tell of this stage; of a final one only the first."""
        telling = [frame for frame in self.preset.frames if frame.status == STATUSES[view.stage]]
        chosen = telling[:1] if view.stage.final else telling
        return [self._event(frame, self._body(task, view, frame.told)) for frame in chosen]

    def quiet_frames(self, task: Task, view: View) -> list[bytes]:
        """Events that tell of no state, as heartbeats."""
        quiet = [frame for frame in self.preset.frames if frame.quiet]
        return [self._event(frame, self._body(task, view, frame.told)) for frame in quiet]

    def refuse(self, refusal: Refusal) -> Reply:
        """A recorded refusal of this kind, else an envelope of no provider in particular."""
        kind, known = TROUBLES.get(refusal.status), [each for each in self.preset.looks if each.trouble]
        exact = [each for each in known if each.status == refusal.status and isinstance(each.body, dict)]
        alikes = [each for each in known if each.trouble == kind and isinstance(each.body, dict)]
        best = [each for each in exact if each.trouble == kind]
        best += alikes if refusal.status in OFTEN_ELSEWHERE else []
        for recording in (*best, *exact):
            return json_reply(recording.body, recording.status)
        return json_reply({"error": {"code": refusal.code, "message": refusal.message}}, refusal.status)

    def error_in_200(self, task: Task | None) -> Reply:
        del task
        for each in self.preset.looks:
            if each.trouble and each.status == 200 and isinstance(each.body, dict):
                return json_reply(each.body)
        return json_reply({"error": {"code": "internal_error", "message": "Service is busy"}})

    def headers(self) -> Mapping[str, str]:
        return {}

    def _look(self, task: Task, stage: Stage) -> Recording:
        wanted = task.shape.get("recording", ())
        names = [wanted] if isinstance(wanted, str) else wanted
        asked = named(self.preset.looks, stage, names) if isinstance(names, list) else None
        # A cancelled task whose provider shows none has failed, as far as anybody can see.
        usual = self.preset.stages.get(stage) or self.preset.stages[Stage.FAILED]
        return asked or usual

    def _reply(self, task: Task, view: View, recording: Recording) -> Reply:
        body = self._body(task, view, recording)
        headers = {name: value for name, value in recording.headers.items() if name in KEPT_HEADERS}
        if isinstance(body, str):
            content_type = recording.headers.get("content-type", "text/plain")
            return Reply(
                body=body.encode(), status=recording.status, headers=headers, content_type=content_type
            )
        return json_reply(body, recording.status, headers)

    def _body(self, task: Task, view: View, recording: Recording) -> object:
        body = self._substitution(task, view, recording).fill(recording.body)
        fields = self.preset.fields
        if task.model:
            places.put(body, fields["model"], task.model)
        if view.stage is Stage.RUNNING:
            recorded = places.find(body, fields["progress"])
            places.put(body, fields["progress"], self._progress(recorded, view.progress))
        if places.find(body, fields["alias"]) is not None:
            places.put(body, fields["alias"], task.alias)
        if view.word is not None:
            places.put(body, self.preset.status_places, view.word)
        return body

    def _progress(self, recorded: object, percent: int) -> object:
        """The task's progress in the unit and the type of the recorded one."""
        if isinstance(recorded, str):
            return f"{percent}%" if recorded.endswith("%") else str(percent)
        amount = percent / self.preset.progress_unit
        return percent if isinstance(recorded, int) and amount == percent else round(amount, 4)

    def _substitution(self, task: Task, view: View, recording: Recording) -> Substitution:
        # Only paths (`fal-ai/flux`): a word like `predictions` stands in links for itself, too.
        told = {name: text for name, text in recording.options.items() if "/" in text}
        own = {text: task.options[name] for name, text in told.items() if name in task.options}
        own |= self._needed(task, recording.body)
        if recorded := self.preset.recorded_id(recording):
            own[recorded] = task.id
        retime: Callable[[str, object], object] = partial(
            retimed, moments=moments_of(task, view), zone=self.preset.zone
        )
        return Substitution(
            own=own,
            base_url=self.preset.base_url,
            here=f"{task.origin}/{self.name}",
            files=f"{task.origin}/files/{file_name(task.id)}",
            is_call=self.preset.is_call,
            kinds=recording.links,
            retime=retime,
        )

    def _needed(self, task: Task, body: object) -> dict[str, str]:
        """What the further call is asked with (MiniMax's `file_id`), as recorded and as the task's own."""
        found: dict[str, str] = {}
        for name, at in self.preset.needs.items():
            recorded = places.find(body, at) or _keyed(body, name)
            if isinstance(recorded, str | int) and str(recorded) not in NO_ID and "://" not in str(recorded):
                rolled = dice(self._seed, self.name, task.number, f"need/{name}")
                found[str(recorded)] = alike(str(recorded), rolled)
        return found

    def _event(self, frame: Frame, body: object) -> bytes:
        data = body if isinstance(body, str) else orjson.dumps(body).decode()
        lines = [f"event: {frame.event}"] if frame.event else []
        lines += [f"data: {line}" for line in data.split("\n")]
        return ("\n".join(lines) + "\n\n").encode()


def _keyed(tree: object, name: str) -> object | None:
    """The value of a key, wherever it stands."""
    below = list(tree.values()) if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    if isinstance(tree, dict) and name in tree:
        value: object = tree[name]
        return value
    return next((found for each in below if (found := _keyed(each, name)) is not None), None)
