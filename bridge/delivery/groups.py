"""Which groups are closed: one small document each, in the ledger that all bridges share.

Nothing is cached here: no bridge can believe a group open that another one closed.
"""

from __future__ import annotations

from collections.abc import Callable

from bridge.core.selection import Selection, SelectionKind
from bridge.engine.ledger import Ledger
from bridge.errors import Conflict

_PREFIX = "group/"
_CLOSED = b"closed"

OnClosed = Callable[[Selection], None]


class Groups:
    """Closes groups, and says which are closed.

    Args:
        kept_seconds: How long a closed group stays closed at least: as long as its tasks may be known.
    """

    def __init__(self, ledger: Ledger, *, kept_seconds: float) -> None:
        self._ledger = ledger
        self._kept_seconds = kept_seconds
        self._on_closed: list[OnClosed] = []
        ledger.hear(self._heard)

    def on_closed(self, closed: OnClosed) -> None:
        """Call `closed` for each group that is closed from now on, by any bridge.

        Ordering: after every task that was added to it before.
        """
        self._on_closed.append(closed)

    def on_return(self, returned: Callable[[], None]) -> None:
        """Call `returned` when groups may have been closed without an announcement: the ledger was away."""
        self._ledger.on_return(returned)

    async def close(self, group: Selection, *, seconds: float = 0.0) -> None:
        """Close a group; durable when it returns. Idempotent.

        Args:
            seconds: How long its tasks may run yet, if that is longer than usual.

        Raises:
            JournalError: It has happened or not.
        """
        kept = self._kept_seconds + seconds
        await self._ledger.put(_name(group), _CLOSED, expect=None, seconds=kept, announced=True)

    async def is_closed(self, group: Selection) -> bool:
        """Whether a group is closed.

        Raises:
            JournalError: The ledger is away.
        """
        ((_, value),) = await self._ledger.get([_name(group)])
        return value is not None

    async def check_open(self, group: Selection | None) -> None:
        """Check that a task may be added to a group; nothing is read for None.

        Raises:
            Conflict: It is closed.
            JournalError: The ledger is away: it may be closed.
        """
        if group is not None and await self.is_closed(group):
            raise Conflict(f"the group {group.name!r} is closed: no task can be added to it")

    def _heard(self, name: str, value: bytes | None) -> None:
        if value is None or not name.startswith(_PREFIX):
            return
        account, _, group = name.removeprefix(_PREFIX).partition("/")
        for closed in self._on_closed:
            closed(Selection(SelectionKind.GROUP, group, account))


def _name(group: Selection) -> str:
    return f"{_PREFIX}{group.account}/{group.name}"
