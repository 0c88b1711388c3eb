"""A lookout for each upstream, and for each account that asks it with a key of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from bridge.core.task import OWN_ACCOUNT
from bridge.sources.upstream import Upstream
from bridge.watchers.lookout import Lookout


class Lookouts:
    """Starts and ends them.

    Args:
        upstreams: Those whose lookouts last as long as the pool.
    """

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        self._all = {(one.name, one.account): Lookout(one) for one in upstreams}
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def run(self, group: asyncio.TaskGroup) -> None:
        """Run all of them within `group`, those that come later too."""
        self._group = group
        for place, lookout in self._all.items():
            self._running[place] = group.create_task(lookout.run())

    def of(self, upstream: Upstream) -> Lookout:
        """The lookout over what this credential watches at this upstream."""
        place = upstream.name, upstream.account
        lookout = self._all.get(place)
        if lookout is None:
            lookout = self._all[place] = Lookout(upstream)
            if self._group is not None:
                self._running[place] = self._group.create_task(lookout.run())
        return lookout

    def close(self, account: str) -> None:
        """Nobody of this account watches any more."""
        assert account != OWN_ACCOUNT
        for place in [place for place in self._all if place[1] == account]:
            del self._all[place]
            running = self._running.pop(place, None)
            if running is not None:
                running.cancel()
