"""Tasks without an owner: made of what the dead owned, claimed when they are due."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bridge.clock import Clock
from bridge.engine.base import Record
from bridge.replica.connection import Connection

MAX_BURIED = 100
BURIED_SPACING_SECONDS = 0.004
MAX_CLAIMED = 50
CLAIMED_ACCOUNTS = 8
"""Accounts per round, in turn."""


class Orphans:
    """Claims orphans, a round every `EngineTimes.claim_period`.

    Args:
        jitter: Returns 0-1, for jitter.
        accounts: Whose keys are here now: of others, nothing is claimed.
        may_claim: Whether this replica takes anything now.
        adopt: Called with the record of each task that it owns from now on.
    """

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        *,
        jitter: Callable[[], float],
        accounts: Callable[[], Iterable[str]],
        may_claim: Callable[[], bool],
        adopt: Callable[[Record], None],
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._jitter = jitter
        self._accounts = accounts
        self._may_claim = may_claim
        self._adopt = adopt
        self._turn = 0

    async def run(self) -> None:
        """Make orphans of what the dead owned, and claim orphans that are due."""
        while True:
            await self._clock.sleep(self._connection.times.claim_period * (0.75 + 0.5 * self._jitter()))
            if not self._may_claim():
                continue
            left = MAX_BURIED
            while left == MAX_BURIED:
                left = await self._connection.call(
                    "bury", lambda engine: engine.bury(limit=MAX_BURIED, spacing=BURIED_SPACING_SECONDS)
                )
            for account in self._accounts_in_turn():
                await self._claim(account)

    def _accounts_in_turn(self) -> list[str]:
        accounts = sorted(self._accounts())
        count = min(len(accounts), CLAIMED_ACCOUNTS)
        chosen = [accounts[(self._turn + number) % len(accounts)] for number in range(count)]
        self._turn += count
        return chosen

    async def _claim(self, account: str) -> None:
        claimed = MAX_CLAIMED
        while claimed >= MAX_CLAIMED and self._may_claim():
            records = await self._call_claim(account)
            claimed = len(records)
            for record in records:
                self._adopt(record)

    async def _call_claim(self, account: str) -> list[Record]:
        session = self._connection.session
        return await self._connection.call(
            "claim", lambda engine: engine.claim(session, account=account, limit=MAX_CLAIMED)
        )
