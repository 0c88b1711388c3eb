"""What a task was submitted or registered with: part of neither its identity nor its state."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from bridge.errors import InvalidRequest

MAX_WEBHOOKS = 8
"""Of submits that the provider answered with the same task."""

MAX_TAGS = 16
MAX_JOINED_TAGS = 64
"""Of submits that the provider answered with the same task: those that came first, which others follow."""

MAX_DEADLINE_SECONDS = 366 * 86_400.0

_WORD = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_WORDS = "1 to 64 letters, digits or `.`, `_`, `:`, `-`"


class TaskDetails(NamedTuple):
    """What the caller said about a task.

    Args:
        webhook: Where its end is delivered, besides the webhooks of the operator; None for nowhere.
        tags: Words to find it by.
        group: A name it shares with others; None for none.
        further_webhooks: Where else, if the provider answered several submits with this task.
        deadline_seconds: After its first state it is lost if it has not ended; None for that of the upstream.
        since: Offset from which on it is known by these words; set by the journal when a task with a state
            is registered. 0: since its first state.
        spend: What its submit holds of what the caller may spend (`bridge.spend.limits.SpendHold`); None for
            nothing.
    """

    webhook: str | None = None
    tags: tuple[str, ...] = ()
    group: str | None = None
    further_webhooks: tuple[str, ...] = ()
    deadline_seconds: float | None = None
    since: int = 0
    spend: str | None = None

    @property
    def webhooks(self) -> tuple[str, ...]:
        """Everywhere its end is delivered, besides the webhooks of the operator."""
        return () if self.webhook is None else (self.webhook, *self.further_webhooks)

    def joined(self, other: TaskDetails) -> TaskDetails:
        """With what another submit said about the same task; of too many addresses the newest."""
        webhooks = tuple(dict.fromkeys((*self.webhooks, *other.webhooks)))[-MAX_WEBHOOKS:]
        return TaskDetails(
            webhooks[0] if webhooks else None,
            tuple(dict.fromkeys((*self.tags, *other.tags)))[:MAX_JOINED_TAGS],
            self.group if other.group is None else other.group,
            webhooks[1:],
            self.deadline_seconds if other.deadline_seconds is None else other.deadline_seconds,
            spend=self.spend if self.spend is not None else other.spend,  # it was created, and costs, once
        )

    def replaced(self, other: TaskDetails) -> TaskDetails:
        """With what is registered now: tags and group are those of `other`, also without any.

        The same, with its `since`, if that says nothing new: a client that comes again has seen the task.
        """
        replaced = self.joined(other)._replace(tags=other.tags, group=other.group, since=self.since)
        return self if replaced == self else replaced._replace(since=0)

    def encode(self) -> bytes:
        """As JSON, without what is not set."""
        fields: dict[str, Any] = {}
        if self.webhook is not None:
            fields["webhook"] = self.webhook
        if self.tags:
            fields["tags"] = self.tags
        if self.group is not None:
            fields["group"] = self.group
        if self.further_webhooks:
            fields["further"] = self.further_webhooks
        if self.deadline_seconds is not None:
            fields["deadline"] = float(self.deadline_seconds)
        if self.since:
            fields["since"] = self.since
        if self.spend is not None:
            fields["spend"] = self.spend
        return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode()


NO_DETAILS = TaskDetails()


def decode_details(encoded: bytes | None) -> TaskDetails:
    """What `encode` wrote, perhaps in another version; what cannot be used is left out."""
    try:
        fields = json.loads(encoded or b"{}")
    except (ValueError, RecursionError):
        return NO_DETAILS
    if not isinstance(fields, dict):
        return NO_DETAILS
    webhook, group, deadline = fields.get("webhook"), fields.get("group"), fields.get("deadline")
    since, spend = fields.get("since"), fields.get("spend")
    return TaskDetails(
        webhook if isinstance(webhook, str) else None,
        _texts(fields.get("tags")),
        group if isinstance(group, str) else None,
        _texts(fields.get("further"))[: MAX_WEBHOOKS - 1],
        deadline if isinstance(deadline, float) and 0 < deadline <= MAX_DEADLINE_SECONDS else None,
        since if isinstance(since, int) else 0,
        spend if isinstance(spend, str) else None,
    )


def check_tags(words: Iterable[str]) -> tuple[str, ...]:
    """Tags as a caller sent them, without repeats.

    Raises:
        InvalidRequest: There are too many, or one is not a tag.
    """
    tags = tuple(dict.fromkeys(words))
    if len(tags) > MAX_TAGS:
        raise InvalidRequest(f"a task can have at most {MAX_TAGS} tags")
    return tuple(check_tag(tag) for tag in tags)


def check_tag(word: str) -> str:
    """A tag as a caller sent it.

    Raises:
        InvalidRequest: It is none.
    """
    if not _WORD.fullmatch(word):
        raise InvalidRequest(f"a tag must be {_WORDS}")
    return word


def check_group(word: str, *, called: str = "a group") -> str:
    """A group as a caller sent it.

    Args:
        called: What the caller was asked for, in the message.

    Raises:
        InvalidRequest: It is none.
    """
    if not _WORD.fullmatch(word):
        raise InvalidRequest(f"{called} must be {_WORDS}")
    return word


def _texts(value: object) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()
