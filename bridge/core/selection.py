"""Many tasks by one name: everything with a tag, or in a group."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from bridge.core.details import TaskDetails
from bridge.core.task import OWN_ACCOUNT, TaskKey


class SelectionKind(StrEnum):
    """What the name is."""

    TAG = "tag"
    GROUP = "group"


class Selection(NamedTuple):
    """The tasks of one account with one tag, or of one group.

    Args:
        account: Names of one account mean nothing to another.
    """

    kind: SelectionKind
    name: str
    account: str = OWN_ACCOUNT

    def selects(self, key: TaskKey, details: TaskDetails) -> bool:
        """Whether a task with these details belongs to it."""
        if key.account != self.account:
            return False
        return self.name in details.tags if self.kind is SelectionKind.TAG else self.name == details.group
