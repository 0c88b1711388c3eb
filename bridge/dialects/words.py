"""Providers' words for a task's condition, folded and mapped to ours."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from bridge.core.task import Status


class FailureKind(StrEnum):
    """What may be wrong with a call, rather than with the task."""

    NOT_FOUND = "not_found"
    CREDENTIAL = "credential"
    BUSY = "busy"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"


Outcome = Status | FailureKind

# `unknown` and `lost` are conclusions of ours, no provider's word may claim them.
STATUS_WORDS: Mapping[str, Status] = {
    status.value: status for status in Status if status not in (Status.UNKNOWN, Status.LOST)
}
OUTCOMES: Mapping[str, Outcome] = {**STATUS_WORDS, **{trouble.value: trouble for trouble in FailureKind}}

_FOLDS = str.maketrans({"-": "_", " ": "_"})


def fold(word: str) -> str:
    """The word as it is compared: case, hyphens, spaces and the blanks around it do not count."""
    return word.strip().casefold().translate(_FOLDS)


def spell(value: object) -> str | None:
    """A word or a code as text: `1` for 1, `true` for True; None for what is neither."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else None


class WordMap:
    """Looks provider words up; a word nobody mapped stays unknown, it is never guessed."""

    __slots__ = ("_folded", "_seen")

    def __init__(self, words: Mapping[str, Outcome]) -> None:
        self._folded = {fold(word): verdict for word, verdict in words.items()}
        self._seen = {**self._folded, **words}

    @property
    def words(self) -> Mapping[str, Outcome]:
        """Every mapped word, folded."""
        return self._folded

    def get(self, word: str) -> Outcome | None:
        """What the word means to us, if anything."""
        return self._seen.get(word) or self._folded.get(fold(word))
