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


# Phrases for a result that is not ready yet, often sent with a status that means an error (fal: 400).
NOT_READY_PHRASES: tuple[tuple[str, Outcome], ...] = tuple(
    (fold(words), Status.PROCESSING)
    for words in (
        *("still in progress", "still processing", "still running", "still being processed", "still pending"),
        *("still in queue", "is not ready", "not ready yet", "not yet ready", "result not ready"),
        *("not completed yet", "not yet complete", "not finished yet", "not yet finished"),
    )
)


# Words that mean the same at every gateway seen; compared without underscores, so `InProgress` counts.
# `ready`, which some say before a run and some after it, is none.
COMMON_WORDS: Mapping[Status, tuple[str, ...]] = {
    Status.QUEUED: (
        *("queued", "queueing", "queuing", "in_queue", "pending", "waiting", "submitted", "created"),
        *("scheduled", "accepted", "not_started", "not_start"),
    ),
    Status.PROCESSING: (
        *("processing", "running", "in_progress", "started", "starting", "generating", "working"),
        *("executing", "rendering"),
    ),
    Status.COMPLETED: (
        *("completed", "complete", "succeeded", "succeed", "success", "successful", "done", "finished"),
        "finish",
    ),
    Status.FAILED: (
        *("failed", "failure", "fail", "error", "errored", "expired", "timeout", "timed_out", "rejected"),
    ),
    Status.CANCELLED: ("cancelled", "canceled", "cancel", "aborted"),
}


def _bare(word: str) -> str:
    return fold(word).replace("_", "")


_COMMON: Mapping[str, Outcome] = {
    _bare(word): status for status, words in COMMON_WORDS.items() for word in words
}


class WordMap:
    """Looks up a provider's words; an unmapped word is never guessed.

    Args:
        common: Whether the common words apply where the provider's own list has none.
    """

    __slots__ = ("_common", "words")

    def __init__(self, words: Mapping[str, Outcome], *, common: bool = False) -> None:
        self.words: Mapping[str, Outcome] = {fold(word): outcome for word, outcome in words.items()}
        self._common = _COMMON if common else {}

    def get(self, word: str) -> Outcome | None:
        """What the word means, None for an unmapped one."""
        # Most providers send their words folded already; then the first lookup saves the folding.
        outcome = self.words.get(word) or self.words.get(fold(word))
        return outcome or (self._common.get(_bare(word)) if self._common else None)
