"""Reads frames of a provider's own event stream, in any framing, as observations.

Most providers do not document their frames, so any form is accepted: events with a name or without, the
document at the top, under a key or as JSON in a string, heartbeats of any kind. Only a frame that clearly
shows the task counts. Ignoring the others costs nothing, because the next status call returns the truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bridge.core.task import Observation, Status
from bridge.dialects.answers import NO_ERROR, AnswerRules, ParsedAnswer, ProviderError
from bridge.dialects.lenient import MAX_UNFOLDED, read_json, write_json
from bridge.dialects.state import StateRules
from bridge.dialects.values import clean, sentence, unfold, word
from bridge.dialects.words import fold
from bridge.errors import UnreadablePayload, UpstreamUnavailable

_NAME_KEYS = ("event", "type")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRules:
    """What is known of a provider's stream beyond its documents; all names folded.

    Args:
        wrappers: Keys that may contain the document.
        quiet: Names of events that only keep the connection alive.
        errors: Names of events by which the stream reports an error of its own.
        ends: Data that ends the stream.
        events: Statuses that an event's name alone reports.
        documents: Whether the data of its events are the documents of the status call, so that the bridge
            can serve such a stream itself.
    """

    wrappers: tuple[str, ...]
    quiet: frozenset[str]
    errors: frozenset[str]
    ends: frozenset[str]
    events: Mapping[str, Status]
    documents: bool = False

    def read(
        self, name: str | None, data: str, state: StateRules, answers: AnswerRules
    ) -> Observation | None:
        """What the frame shows, None if nothing about the task.

        Raises:
            UpstreamUnavailable: The stream reports an error.
            UnreadablePayload: It reports one that cannot be read.
        """
        text, event = data.strip(), fold(name or "")
        if event in self.quiet or (text in self.ends and event not in self.errors):
            return None
        document = _object(text)
        if document is None:
            if event not in self.errors:
                return None
            if text[:1] in ("{", "["):
                raise UnreadablePayload("the stream reports an error that is not JSON")
            raise UpstreamUnavailable(clean(text) or _UNNAMED_ERROR)
        names = (event, *(fold(str(document.get(key) or "")) for key in _NAME_KEYS))
        if not self.quiet.isdisjoint(names):
            return None
        state.unfold_strings(document)
        is_error = not self.errors.isdisjoint(names)
        observation = self._shown(document, state, answers, is_error=is_error)
        if observation is not None:
            return observation
        self._raise_reported(document, answers, is_error=is_error)
        return self._named(names, document, state, answers)

    def _shown(
        self, document: dict[str, object], state: StateRules, answers: AnswerRules, *, is_error: bool
    ) -> Observation | None:
        """The first document with a known status, or with any word and an id; an error frame needs both."""
        for candidate in self._candidates(document):
            state.unfold_strings(candidate)
            status_word, outcome = state.status.read(candidate)
            status = outcome if isinstance(outcome, Status) else None
            has_id = state.fields.task_id.read(candidate) is not None
            if (status and (has_id or not is_error)) or (status_word and has_id and outcome is None):
                parsed = ParsedAnswer(candidate, write_json(candidate), None)
                return state.observe(parsed, status or Status.UNKNOWN, status_word, answers=answers)
        return None

    def _named(
        self, names: tuple[str, ...], document: dict[str, object], state: StateRules, answers: AnswerRules
    ) -> Observation | None:
        status = next((self.events[name] for name in names if name in self.events), None)
        if status is None:
            return None
        candidates = list(self._candidates(document))
        best = next(
            (node for node in candidates if state.fields.task_id.read(node) is not None), candidates[0]
        )
        parsed = ParsedAnswer(best, write_json(best), None)
        observation = state.observe(parsed, status, None, answers=answers)
        # "Done" without a result is only a reason to poll: believed, it would end the task without outputs.
        return None if observation.status is Status.COMPLETED and not observation.outputs else observation

    def _raise_reported(self, document: dict[str, object], answers: AnswerRules, *, is_error: bool) -> None:
        for candidate in self._candidates(document):
            error = answers.provider_error(candidate)
            if error != NO_ERROR:
                raise _exception(error)
        if is_error or document.get("error"):
            message = sentence(document.get("message")) or word(document.get("error"))
            raise _exception(ProviderError(None, message))

    def _candidates(self, document: dict[str, object]) -> Iterator[dict[str, object]]:
        level = [document]
        for _ in range(MAX_UNFOLDED + 1):
            yield from level
            below = (node.get(key) for node in level for key in self.wrappers)
            unfolded = (unfold(value) if isinstance(value, str) else value for value in below)
            level = [value for value in unfolded if isinstance(value, dict)]


_UNNAMED_ERROR = "the stream reports an error"


def _object(text: str) -> dict[str, object] | None:
    read = read_json(text.encode(errors="replace"))
    return read.document if read is not None and isinstance(read.document, dict) else None


def _exception(error: ProviderError) -> UpstreamUnavailable:
    return UpstreamUnavailable(error.message or error.code or _UNNAMED_ERROR, provider_code=error.code)
