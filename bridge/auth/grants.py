"""The `tasks` and `tags` claims: which tasks a credential covers."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.core.details import NO_DETAILS, TaskDetails, check_group, check_tag
from bridge.core.task import TaskKey, check_upstream_name
from bridge.errors import InvalidRequest, Unauthenticated

EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Grant:
    """A set of tasks: each that one of its parts includes.

    Args:
        refs: Individual tasks, `upstream/task_id`.
        upstreams: Upstreams whose tasks are all covered, including future ones.
        tags: Every task that has one of them now.
        groups: Every task of one of them; only tickets name any.
    """

    refs: frozenset[str] = frozenset()
    upstreams: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def covers(self, key: TaskKey, details: TaskDetails = NO_DETAILS) -> bool:
        """Whether the grant includes the task.

        Args:
            details: What the task is known by; without them, what a name alone would cover is not covered.
        """
        return (
            key.upstream in self.upstreams
            or key.ref in self.refs
            or (bool(self.tags) and not self.tags.isdisjoint(details.tags))
            or (bool(self.groups) and details.group in self.groups)
        )

    def touches(self, upstream: str) -> bool:
        """Whether the grant can include a task of the upstream."""
        return (
            self.has_names
            or upstream in self.upstreams
            or any(ref.startswith(f"{upstream}/") for ref in self.refs)
        )

    @property
    def has_names(self) -> bool:
        """Whether it includes tasks by what they are known by, so that details must be read."""
        return bool(self.tags or self.groups)


def read_grant(claim: object, tags: tuple[str, ...] = ()) -> Grant | None:
    """Read a `tasks` claim: a list of refs, `upstream/*` and `*`. A missing claim covers nothing.

    Args:
        tags: From the claim `tags`, which cover more than the claim does.

    Returns:
        None for all tasks.

    Raises:
        Unauthenticated: The claim is malformed.
    """
    entries = [] if claim is None else claim
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise Unauthenticated("the `tasks` claim of the token must be a list of task refs")
    if EVERYTHING in entries:
        return None
    # only `upstream/*` is a pattern: `upstream/a/*` is a task whose id ends in `/*`
    patterns = [entry for entry in entries if entry.partition("/")[2] == EVERYTHING]
    refs = [entry for entry in entries if entry.partition("/")[2] != EVERYTHING]
    try:
        upstreams = frozenset(check_upstream_name(entry.partition("/")[0]) for entry in patterns)
        return Grant(frozenset(TaskKey.parse(ref).ref for ref in refs), upstreams, frozenset(tags))
    except InvalidRequest:
        raise Unauthenticated("the `tasks` claim of the token contains an invalid task ref") from None


def read_tags(claim: object) -> tuple[str, ...]:
    """Read a `tags` claim: a list of tags, none of which is a pattern. A missing claim has none.

    More of them than a task may have can be read, though not given to a submit.

    Raises:
        Unauthenticated: The claim is malformed.
    """
    words = _words(claim, "tags")
    try:
        return tuple(check_tag(word) for word in words)
    except InvalidRequest as error:
        raise Unauthenticated(f"the `tags` claim of the token is malformed: {error}") from None


def read_groups(claim: object) -> tuple[str, ...]:
    """Read the `groups` claim of a ticket, likewise.

    Raises:
        Unauthenticated: The claim is malformed.
    """
    words = _words(claim, "groups")
    try:
        return tuple(check_group(word) for word in words)
    except InvalidRequest as error:
        raise Unauthenticated(f"the `groups` claim of the ticket is malformed: {error}") from None


def _words(claim: object, name: str) -> tuple[str, ...]:
    """The different words of a claim, in its order."""
    words = [] if claim is None else claim
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Unauthenticated(f"the `{name}` claim of the token must be a list of words")
    return tuple(dict.fromkeys(words))
