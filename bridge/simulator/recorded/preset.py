"""One preset, ready to be simulated: the calls from its own file and its recorded answers."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable

from bridge.simulator.lifecycle import Stage
from bridge.simulator.recorded import paths
from bridge.simulator.recorded.calls import CallMatch, CallShape, ProviderRequest, read_call
from bridge.simulator.recorded.many import ManyShape, read_many
from bridge.simulator.recorded.recording import Frame, Recording, read_frames, read_recordings
from bridge.simulator.recorded.stages import by_stage, cancel_answers, default_recording
from bridge.simulator.recorded.times import zone_of
from bridge.simulator.tasks import Json

# Read as data, not with the bridge's loader: a bug there must not show in the simulator too.
PRESETS = files("bridge").joinpath("dialects", "presets")
RECORDINGS = files("bridge").joinpath("simulator", "recordings")
ROUTES = "routes.toml"
SERVED = ("status", "alias", "follow_up", "cancel", "stream", "submit")
ID_NAMES = ("id", "task_id", "request_id", "run_id")


class NotSimulatable(ValueError):
    """Unknown preset, or its recordings do not cover a whole task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One preset, ready to be simulated.

    Args:
        stages: the default recording of each stage.
        cancelled, not_cancelled: answers to the cancel call, where that is not the task itself.
        id_pattern: splits a composed id of the bridge, where the preset has one.
        kind_groups: its groups that name the kind of the task, if any: no part of the provider's own id.
        kept_url: path of a URL in the submit answer, and the pattern of its allowed hosts.
    """

    name: str
    base_url: str
    auth_headers: Mapping[str, str]
    one_account: bool
    calls: tuple[CallShape, ...]
    many: ManyShape | None
    answers: tuple[Recording, ...]
    stages: Mapping[Stage, Recording]
    submitted: Recording
    follow_up: Recording | None
    cancelled: Recording | None
    not_cancelled: Recording | None
    frames: tuple[Frame, ...]
    id_paths: tuple[str, ...]
    id_pattern: re.Pattern[str] | None
    kind_groups: frozenset[str]
    kept_url: tuple[tuple[str, ...], re.Pattern[str]] | None
    needs: Mapping[str, tuple[str, ...]]
    fields: Mapping[str, tuple[str, ...]]
    status_paths: tuple[str, ...]
    progress_unit: float
    zone: tzinfo
    client_id: tuple[str, ...]
    callback_url: tuple[str, ...]
    callback_query: str | None

    def matches(self, incoming: ProviderRequest) -> list[CallMatch]:
        """Return the calls that match a request, the most specific first."""
        matches = [match for call in self.calls if (match := call.match(incoming)) is not None]
        return sorted(matches, key=lambda match: match.score, reverse=True)

    def is_call(self, path: str) -> bool:
        return any(call.name != "submit" and call.path.pattern.fullmatch(path) for call in self.calls)

    def own_part(self, values: Mapping[str, str]) -> str:
        """Return the provider's own id among the values of a call."""
        return next((values[name] for name in ID_NAMES if name in values), ["", *values.values()][-1])

    def recorded_id(self, recording: Recording) -> str | None:
        """Return the provider's own id in a recording, without the parts the bridge adds."""
        body = recording.body
        candidates = (
            paths.find(body, self.id_paths),
            recording.expect.get("task_id"),
            recording.task_id,
            paths.find(body, self.fields["task_id"]),
        )
        for candidate in candidates:
            if isinstance(candidate, str | int):
                return self._part(str(candidate))
        return next(self._ids_in_links(body), None)

    def _part(self, whole: str) -> str:
        match = self.id_pattern.fullmatch(whole) if self.id_pattern else None
        groups = match.groupdict() if match else {}
        parts = {name: part for name, part in groups.items() if part and name not in self.kind_groups}
        return self.own_part(parts or {"id": whole})

    def _ids_in_links(self, body: object) -> Iterator[str]:
        host = self.base_url.partition("://")[2]
        for text in _texts(body):
            address, _, query = text.partition("://")[2].partition("?")
            if not address.startswith(host):
                continue
            incoming = ProviderRequest(method="GET", path=address[len(host) :])
            for call in self.calls:
                values = call.path.pattern.fullmatch(incoming.path)
                if values is not None and not query and call.name != "submit" and values.groupdict():
                    yield self.own_part(values.groupdict())


def recorded_names() -> list[str]:
    """Return the names of the presets that have recordings."""
    return sorted(
        folder.name
        for folder in RECORDINGS.iterdir()
        if folder.is_dir() and PRESETS.joinpath(f"{folder.name}.toml").is_file()
    )


def load_preset(name: str) -> Preset:
    """Load a preset with its recordings.

    Raises:
        NotSimulatable: states the reason.
    """
    if name not in recorded_names():
        close = get_close_matches(name[:80], recorded_names(), n=1)
        advice = f"did you mean {close[0]!r}?" if close else f"available: {', '.join(recorded_names())}"
        raise NotSimulatable(f"unknown preset {name[:80]!r}; {advice}")
    document = tomllib.loads(PRESETS.joinpath(f"{name}.toml").read_text("utf-8"))
    return read_preset(name, document, RECORDINGS.joinpath(name))


def read_preset(name: str, document: Json, folder: Traversable) -> Preset:
    """Read a preset from its TOML document and the folder of its recordings.

    Raises:
        NotSimulatable: states the reason.
    """
    routes = folder.joinpath(ROUTES)
    more: Json = tomllib.loads(routes.read_text("utf-8")) if routes.is_file() else {}
    if reason := more.get("cannot"):
        raise NotSimulatable(str(reason))
    answers = read_recordings(folder)
    pins = {stage: str(pinned) for stage, pinned in _table(more, "recordings").items()}
    stages = by_stage(answers, pins)
    for stage in (Stage.RUNNING, Stage.COMPLETED, Stage.FAILED):
        if stage not in stages:
            raise NotSimulatable(f"no recording of a {stage} task")
    cancelled, not_cancelled = cancel_answers(answers, pins)
    shape = _table(document, "task_id")
    submit_id = _table(_table(document, "submit"), "task_id")
    pattern = _pattern(submit_id.get("pattern"))
    fields = _table(document, "fields")
    submit = _table(document, "submit")
    query = submit.get("callback_query")
    preset = Preset(
        name=name,
        base_url=str(document["base_url"]).rstrip("/"),
        auth_headers={key: str(text) for key, text in _table(_table(document, "auth"), "headers").items()},
        one_account="hook" in _table(document, "auth"),
        calls=_calls(_table(document, "calls") | _table(more, "calls")),
        many=read_many(_table(_table(document, "calls"), "status_many")),
        answers=answers,
        stages=stages,
        submitted=default_recording(read_recordings(folder.joinpath("submit")), pins.get("submit"))
        or stages[Stage.QUEUED],
        follow_up=default_recording(read_recordings(folder.joinpath("follow_up")), pins.get("follow_up")),
        cancelled=cancelled,
        not_cancelled=not_cancelled,
        frames=read_frames(folder.joinpath("stream")),
        id_paths=paths.plain_paths(more.get("id_at")),
        id_pattern=_pattern(shape.get("pattern")),
        kind_groups=frozenset(str(shape[key]) for key in ("model", "action") if key in shape),
        kept_url=(paths.plain_paths(submit_id.get("at")), pattern) if pattern else None,
        needs={
            key: paths.plain_paths(at) for key, at in _table(_table(document, "follow_up"), "needs").items()
        },
        fields={key: paths.plain_paths(fields.get(key)) for key in ("task_id", "alias", "progress", "model")},
        status_paths=paths.plain_paths(_table(document, "status").get("at")),
        progress_unit=_number(_table(document, "units").get("progress")),
        zone=zone_of(str(document.get("time_zone", "UTC"))),
        client_id=paths.plain_paths(submit.get("client_id")),
        callback_url=paths.plain_paths(submit.get("callback_url")),
        callback_query=query if isinstance(query, str) else None,
    )
    _check(preset)
    return preset


def _check(preset: Preset) -> None:
    names = {call.name for call in preset.calls}
    for call in ("status", "submit"):
        if call not in names:
            raise NotSimulatable(f"neither the preset nor {ROUTES} defines its {call} call")
    if "follow_up" in names and preset.follow_up is None:
        raise NotSimulatable("the follow-up call for its results is not recorded")


def _calls(raw: Json) -> tuple[CallShape, ...]:
    return tuple(read_call(name, _table(raw, name)) for name in SERVED if name in raw)


def _table(raw: Mapping[str, object], key: str) -> Json:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _pattern(raw: object) -> re.Pattern[str] | None:
    return re.compile(raw) if isinstance(raw, str) else None


def _number(raw: object) -> float:
    return float(raw) if isinstance(raw, int | float) else 1.0


def _texts(tree: object) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for below in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(below)
