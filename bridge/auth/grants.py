"""The `tasks` claim: which tasks a credential covers."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.core.task import TaskKey, check_upstream_name
from bridge.errors import InvalidRequest, Unauthenticated

EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Grant:
    """A set of tasks.

    Args:
        refs: Individual tasks, `upstream/task_id`.
        upstreams: Upstreams whose tasks are all covered, including future ones.
    """

    refs: frozenset[str] = frozenset()
    upstreams: frozenset[str] = frozenset()

    def covers(self, key: TaskKey) -> bool:
        """Whether the grant includes the task."""
        return key.upstream in self.upstreams or key.ref in self.refs

    def touches(self, upstream: str) -> bool:
        """Whether the grant can include a task of the upstream."""
        return upstream in self.upstreams or any(ref.startswith(f"{upstream}/") for ref in self.refs)


def read_grant(claim: object) -> Grant | None:
    """Read a `tasks` claim: a list of refs, `upstream/*` and `*`. A missing claim covers nothing.

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
        return Grant(frozenset(TaskKey.parse(ref).ref for ref in refs), upstreams)
    except InvalidRequest:
        raise Unauthenticated("the `tasks` claim of the token contains an invalid task ref") from None
