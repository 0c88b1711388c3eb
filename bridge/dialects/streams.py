"""Frames of a provider's own event stream, whatever their framing, as observations.

Most providers do not document their frames, so anything is taken: named events or none, the document bare,
under some key or folded into a string, heartbeats of any kind. Only a frame that clearly shows the task
counts; the rest is nothing of ours, because the next status call tells the truth anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import orjson

from bridge.core.task import Observation, Status
from bridge.dialects.answers import NOTHING, AnswerRules, ParsedAnswer, ProviderError
from bridge.dialects.state import StateRules
from bridge.dialects.values import MAX_UNFOLDED, clean, sentence, unfold, word
from bridge.dialects.words import fold
from bridge.errors import UnreadablePayload, UpstreamUnavailable

_KINDS = ("event", "type")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRules:
    """What is known of a provider's stream beyond its documents; all names folded.

    Args:
        wrappers: Keys under which a document may hide.
        quiet: Names of events that only keep the connection alive.
        errors: Names of events by which the stream reports its own trouble.
        ends: Data that means nothing more will come.
        events: Statuses told by the event's name alone.
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
        """What the frame showed, None if nothing of ours.

        Raises:
            UpstreamUnavailable: The stream reports an error.
            UnreadablePayload: It reports one that cannot be read.
        """
        text, kind = data.strip(), fold(name or "")
        if kind in self.quiet or (text in self.ends and kind not in self.errors):
            return None
        document = _object(text)
        if document is None:
            if kind in self.errors:
                raise _unread(text)
            return None
        kinds = (kind, *(fold(str(document.get(key) or "")) for key in _KINDS))
        if not self.quiet.isdisjoint(kinds):
            return None
        state.prepare(document)
        troubled = not self.errors.isdisjoint(kinds)
        shown = self._shown(document, state, answers, troubled=troubled)
        if shown is not None:
            return shown
        self._complain(document, answers, troubled=troubled)
        return self._named(kinds, document, state, answers)

    def _shown(
        self, document: dict[str, object], state: StateRules, answers: AnswerRules, *, troubled: bool
    ) -> Observation | None:
        """The first document with a known status, or with any and an id; an error frame needs both."""
        for candidate in self._candidates(document):
            state.prepare(candidate)
            said, meaning = state.status.read(candidate)
            status = meaning if isinstance(meaning, Status) else None
            named = state.fields.task_id.read(candidate) is not None
            if (status and (named or not troubled)) or (said and named and meaning is None):
                opened = ParsedAnswer(candidate, orjson.dumps(candidate), None)
                return state.observe(opened, status or Status.UNKNOWN, said, answers=answers)
        return None

    def _named(
        self, kinds: tuple[str, ...], document: dict[str, object], state: StateRules, answers: AnswerRules
    ) -> Observation | None:
        status = next((self.events[kind] for kind in kinds if kind in self.events), None)
        if status is None:
            return None
        candidates = list(self._candidates(document))
        best = next(
            (node for node in candidates if state.fields.task_id.read(node) is not None), candidates[0]
        )
        observation = state.observe(
            ParsedAnswer(best, orjson.dumps(best), None), status, None, answers=answers
        )
        # "Done" without a result is a hint to look: believed, it would end the task empty-handed.
        return None if observation.status is Status.COMPLETED and not observation.outputs else observation

    def _complain(self, document: dict[str, object], answers: AnswerRules, *, troubled: bool) -> None:
        for candidate in self._candidates(document):
            complaint = answers.complaint(candidate)
            if complaint != NOTHING:
                raise _reported(complaint)
        if troubled or document.get("error"):
            raise _reported(
                ProviderError(None, sentence(document.get("message")) or word(document.get("error")))
            )

    def _candidates(self, document: dict[str, object]) -> Iterator[dict[str, object]]:
        level = [document]
        for _ in range(MAX_UNFOLDED + 1):
            yield from level
            below = (node.get(key) for node in level for key in self.wrappers)
            unfolded = (unfold(value) if isinstance(value, str) else value for value in below)
            level = [value for value in unfolded if isinstance(value, dict)]


def _object(text: str) -> dict[str, object] | None:
    document: object = text
    for _ in range(MAX_UNFOLDED):
        if not isinstance(document, str):
            break
        try:
            document = orjson.loads(document)
        except (ValueError, RecursionError):
            return None
    return document if isinstance(document, dict) else None


def _unread(text: str) -> UpstreamUnavailable | UnreadablePayload:
    if text[:1] in ("{", "["):
        return UnreadablePayload("the stream reports an error that is not JSON")
    return UpstreamUnavailable(clean(text) or "the stream reports an error")


def _reported(complaint: ProviderError) -> UpstreamUnavailable:
    message = complaint.message or complaint.code or "the stream reports an error"
    return UpstreamUnavailable(message, provider_code=complaint.code)
