"""A task's condition as one document tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.core.task import Failure, Observation, Output, Status
from bridge.dialects.answers import NOTHING, AnswerRules, ParsedAnswer
from bridge.dialects.outputs import OutputRule, gather
from bridge.dialects.paths import Field, Finder, holds
from bridge.dialects.values import MAX_WORD, clean, positive, unfold_at
from bridge.dialects.words import Outcome, WordMap, spell


@dataclass(frozen=True, slots=True)
class Guard:
    """A second thought: where the map says one of `when` but `condition` holds, it is `then`."""

    when: frozenset[Status]
    condition: Finder
    then: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRule:
    """Where the status word stands and what it means.

    Args:
        types: Which JSON types are a status at all; V-API keeps an HTTP code at the same place.
        absent: The status of a document that shows none.
    """

    at: tuple[Finder, ...]
    types: frozenset[type]
    words: WordMap
    absent: Status | None
    guards: tuple[Guard, ...]

    def read(self, document: object) -> tuple[str | None, Outcome | None]:
        """The provider's word, verbatim, and what it means, None if nobody mapped it."""
        for find in self.at:
            value = find(document)
            if type(value) in self.types and (text := spell(value)) is not None:
                return clean(text, MAX_WORD), self.words.get(text)
        return None, None

    def guarded(self, status: Status, document: object) -> Status:
        """The status after the guards had their say, in their order."""
        for guard in self.guards:
            if status in guard.when and holds(guard.condition(document)):
                status = guard.then
        return status


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRules:
    """Where the rest of a state stands."""

    task_id: Field[str]
    alias: Field[str]
    progress: Field[float]
    estimated_seconds: Field[float]
    eta_seconds: Field[float]
    queue_position: Field[int]
    model: Field[str]
    action: Field[str]
    created_at: Field[float]
    completed_at: Field[float]
    changed_at: Field[float]
    credits_used: Field[float]
    credits_estimated: Field[float]
    poll_after: Field[float]
    error_code: Field[str]
    error_message: Field[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRules:
    """Everything there is to read from a document that shows a task.

    Args:
        unfold: Plain paths of strings that hold JSON.
        hint_headers: Headers that say how long to wait before the next look, with their unit in seconds.
    """

    status: StatusRule
    fields: FieldRules
    outputs: Sequence[OutputRule]
    unfold: tuple[tuple[str, ...], ...]
    hint_headers: Mapping[str, float]

    def prepare(self, document: dict[str, object]) -> None:
        """Unfold the strings that hold JSON, before anything is looked up."""
        for keys in self.unfold:
            unfold_at(document, keys)

    def observe(
        self,
        opened: ParsedAnswer,
        status: Status,
        word: str | None,
        *,
        answers: AnswerRules,
        hint: float | None = None,
    ) -> Observation:
        """The document in our words."""
        document, fields = opened.document, self.fields
        status = self.status.guarded(status, document)
        return Observation(
            status=status,
            upstream_status=word,
            task_id=fields.task_id.read(document),
            alias=fields.alias.read(document),
            progress=fields.progress.read(document),
            estimated_seconds=fields.estimated_seconds.read(document),
            eta_seconds=fields.eta_seconds.read(document),
            queue_position=fields.queue_position.read(document),
            model=fields.model.read(document),
            action=fields.action.read(document),
            created_at=fields.created_at.read(document),
            completed_at=fields.completed_at.read(document),
            changed_at=fields.changed_at.read(document),
            outputs=self._outputs(opened, answers),
            error=self._failure(opened, status, answers),
            credits_used=fields.credits_used.read(document),
            credits_estimated=fields.credits_estimated.read(document),
            poll_after=hint if hint is not None else fields.poll_after.read(document),
            raw=opened.raw,
        )

    def hint(self, headers: Mapping[str, str]) -> float | None:
        """Seconds the answer's headers ask to wait before the next look."""
        for name, unit in self.hint_headers.items():
            wait = positive(headers.get(name))
            if wait is not None:
                return wait * unit
        return None

    def _outputs(self, opened: ParsedAnswer, answers: AnswerRules) -> tuple[Output, ...]:
        if opened.binary and answers.binary:
            return (Output(type=answers.binary),)
        return gather(self.outputs, opened.document)

    def _failure(self, opened: ParsedAnswer, status: Status, answers: AnswerRules) -> Failure | None:
        if status not in (Status.FAILED, Status.CANCELLED):
            return None
        said = opened.complaint or NOTHING
        code = self.fields.error_code.read(opened.document) or said.code
        message = self.fields.error_message.read(opened.document) or said.message
        if message is None and status is Status.FAILED:
            message = answers.spoken(opened.document)
        return None if code is None and message is None else Failure(code, message)
