"""Reads the state of a task from a provider's document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.core.task import Failure, Observation, Output, Status
from bridge.dialects.answers import NO_ERROR, AnswerRules, ParsedAnswer
from bridge.dialects.outputs import OutputRule, gather, has_empty_link, is_fetchable, is_foreign
from bridge.dialects.paths import Field, Finder, holds
from bridge.dialects.retry import retry_after, wait_in
from bridge.dialects.values import MAX_WORD, clean, unfold_at
from bridge.dialects.words import Outcome, WordMap, spell

# What a response without an error asks for is the pace of one task, and should not make it vanish for a day.
MAX_POLL_AFTER = 3600.0


@dataclass(frozen=True, slots=True)
class Guard:
    """A correction: where the status is one of `when` and `condition` holds, it becomes `then`."""

    when: frozenset[Status]
    condition: Finder
    then: Status


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRule:
    """Where the status word is and what it means.

    Args:
        types: JSON types that count as a status word; V-API keeps an HTTP code at the same place.
        absent: The status of a document without a status word.
        unavailable: Finds something in a completed task whose result is gone.
    """

    at: tuple[Finder, ...]
    types: frozenset[type]
    words: WordMap
    absent: Status | None
    guards: tuple[Guard, ...]
    unavailable: Field[object]

    def read(self, document: object) -> tuple[str | None, Outcome | None]:
        """The provider's word, verbatim, and what it means, None for an unmapped word."""
        for find in self.at:
            value = find(document)
            if type(value) in self.types and (text := spell(value)) is not None:
                return clean(text, MAX_WORD), self.words.get(text)
        return None, None

    def guarded(self, status: Status, document: object) -> Status:
        """The status after the guards, applied in their order."""
        for guard in self.guards:
            if status in guard.when and holds(guard.condition(document)):
                status = guard.then
        return status


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRules:
    """Where the other values of a state are."""

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
    """How to read a document that shows a task.

    Args:
        unfold: Plain paths of strings that contain JSON.
        hint_headers: Headers that say how long to wait before the next poll, with their unit in seconds,
            besides `Retry-After`.
    """

    status: StatusRule
    fields: FieldRules
    outputs: Sequence[OutputRule]
    unfold: tuple[tuple[str, ...], ...]
    hint_headers: Mapping[str, float]

    def unfold_strings(self, document: dict[str, object]) -> None:
        """Parse the strings that contain JSON, in place, before anything is read."""
        for keys in self.unfold:
            unfold_at(document, keys)

    def observe(
        self,
        parsed: ParsedAnswer,
        status: Status,
        status_word: str | None,
        *,
        answers: AnswerRules,
        hint: float | None = None,
    ) -> Observation:
        """The document as an observation.

        Args:
            hint: Seconds the response's headers ask to wait; beats what the body says.
        """
        document, fields = parsed.document, self.fields
        status = self.status.guarded(status, document)
        if parsed.binary and answers.binary:
            outputs: tuple[Output, ...] = (Output(type=answers.binary),)
        else:
            outputs = gather(self.outputs, document, parsed.url)
        return Observation(
            status=status,
            upstream_status=status_word,
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
            outputs=outputs,
            error=self._failure(parsed, status, answers),
            credits_used=fields.credits_used.read(document),
            credits_estimated=fields.credits_estimated.read(document),
            poll_after=_capped(hint if hint is not None else fields.poll_after.read(document)),
            result_unavailable=status is Status.COMPLETED and self._is_unavailable(document, outputs),
            raw=parsed.raw,
        )

    def _is_unavailable(self, document: object, outputs: tuple[Output, ...]) -> bool:
        """Whether a result of a completed task cannot be fetched."""
        if holds(self.status.unavailable.read(document)) or any(map(is_foreign, outputs)):
            return True
        return not any(map(is_fetchable, outputs)) and has_empty_link(self.outputs, document)

    def hint(self, headers: Mapping[str, str]) -> float | None:
        """Seconds that the headers of a response without an error ask to wait before the next poll."""
        waits = (wait_in(headers, name, unit) for name, unit in self.hint_headers.items())
        wait = next((wait for wait in waits if wait is not None), None)
        return retry_after(headers) if wait is None else wait

    def _failure(self, parsed: ParsedAnswer, status: Status, answers: AnswerRules) -> Failure | None:
        # Some providers send an empty error object, or "success", with every state: only these two have one.
        if status not in (Status.FAILED, Status.CANCELLED):
            return None
        reported = parsed.error or NO_ERROR
        code = self.fields.error_code.read(parsed.document) or reported.code
        message = self.fields.error_message.read(parsed.document) or reported.message
        if message is None and status is Status.FAILED:
            message = answers.message_beside_code(parsed.document)
        return None if code is None and message is None else Failure(code, message)


def _capped(seconds: float | None) -> float | None:
    return None if seconds is None else min(seconds, MAX_POLL_AFTER)
