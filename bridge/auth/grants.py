"""Which tasks a credential covers."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.core.task import TaskKey, check_upstream_name
from bridge.errors import InvalidRequest, Unauthenticated

EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Grant:
    """Some tasks.

    Args:
        refs: Tasks that are named one by one, `upstream/task_id`.
        upstreams: Upstreams whose tasks are all covered, those to come too.
    """

    refs: frozenset[str] = frozenset()
    upstreams: frozenset[str] = frozenset()

    def covers(self, key: TaskKey) -> bool:
        """Whether the task is one of them."""
        return key.upstream in self.upstreams or key.ref in self.refs

    def touches(self, upstream: str) -> bool:
        """Whether any task of the upstream may be one of them."""
        return upstream in self.upstreams or any(ref.startswith(f"{upstream}/") for ref in self.refs)


def read_grant(claim: object) -> Grant | None:
    """The `tasks` claim of a token: refs, `upstream/*`, `*`. Without one it covers nothing.

    Returns:
        None for all tasks.

    Raises:
        Unauthenticated: The claim is something else.
    """
    listed = [] if claim is None else claim
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise Unauthenticated("the `tasks` claim of the token is a list of task refs")
    if EVERYTHING in listed:
        return None
    whole = [name for name, _, rest in (one.partition("/") for one in listed) if rest == EVERYTHING]
    named = [one for one in listed if one.partition("/")[2] != EVERYTHING]
    try:
        upstreams = frozenset(check_upstream_name(name) for name in whole)
        return Grant(frozenset(TaskKey.parse(one).ref for one in named), upstreams)
    except InvalidRequest:
        raise Unauthenticated("the `tasks` claim of the token holds something that is no task ref") from None
