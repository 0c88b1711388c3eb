"""Maps the status words of providers to ours."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from bridge.core.task import Status


class FailureKind(StrEnum):
    """Kinds of errors of a call, as opposed to a failed task."""

    NOT_FOUND = "not_found"
    CREDENTIAL = "credential"
    BUSY = "busy"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"


Outcome = Status | FailureKind

# `unknown` and `lost` are our own conclusions; no provider's word can mean them.
STATUS_WORDS: Mapping[str, Status] = {
    status.value: status for status in Status if status not in (Status.UNKNOWN, Status.LOST)
}
OUTCOMES: Mapping[str, Outcome] = {**STATUS_WORDS, **{kind.value: kind for kind in FailureKind}}

_FOLDS = str.maketrans({"-": "_", " ": "_"})


def fold(word: str) -> str:
    """The word as it is compared: case, hyphens, spaces and surrounding blanks do not count."""
    return word.strip().casefold().translate(_FOLDS)


def spell(value: object) -> str | None:
    """A word or a code as a string: `1` for 1, `true` for True; None for what is neither."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else None


class WordMap:
    """Looks up a provider's words; an unmapped word is never guessed."""

    __slots__ = ("words",)

    def __init__(self, words: Mapping[str, Outcome]) -> None:
        self.words: Mapping[str, Outcome] = {fold(word): outcome for word, outcome in words.items()}

    def get(self, word: str) -> Outcome | None:
        """What the word means, None for an unmapped one."""
        # Most providers send their words folded already; then the first lookup saves the folding.
        return self.words.get(word) or self.words.get(fold(word))
