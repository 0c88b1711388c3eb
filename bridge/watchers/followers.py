"""The streams of providers that are open: `max_streams` of each upstream; the next one waits its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from bridge.core.task import TaskKey
from bridge.errors import InvalidRequest
from bridge.watchers.stream import StreamFollower
from bridge.watchers.watcher import Watcher


class StreamFollowers:
    """One follower per watched task whose provider has a stream of it.

    Args:
        upstreams: Their names.
        watcher_of: The watch of a task; None when none runs.
        random: Returns 0-1, for jitter.
    """

    def __init__(
        self,
        upstreams: Iterable[str],
        watcher_of: Callable[[TaskKey], Watcher | None],
        random: Callable[[], float],
    ) -> None:
        self._watcher_of = watcher_of
        self._random = random
        self._followers: dict[TaskKey, StreamFollower] = {}
        self._open = dict.fromkeys(upstreams, 0)
        # A dict keeps the order in which they came.
        self._waiting: dict[str, dict[TaskKey, None]] = {name: {} for name in self._open}
        self._group: asyncio.TaskGroup | None = None

    def __len__(self) -> int:
        return len(self._followers)

    def run_in(self, group: asyncio.TaskGroup | None) -> None:
        """Start followers in `group` from now on; None for no more: a stream that ends frees no slot."""
        self._group = group

    def follow(self, watcher: Watcher) -> None:
        """Open the stream of a task, or let it wait for a slot; meanwhile it is polled as any other.

        Nothing where another process polls the task.
        """
        if not watcher.polls_here:
            return
        try:
            request = watcher.upstream.dialect.stream_request(watcher.key.task_id)
        except InvalidRequest:
            return  # the first poll fails with the same error, and reports it
        if self._group is None or request is None or watcher.key in self._followers:
            return
        if watcher.upstream.limiter.off:
            return
        name = watcher.key.upstream
        if self._open[name] >= watcher.upstream.max_streams:
            self._waiting[name][watcher.key] = None
            return
        follower = StreamFollower(watcher, request, self._random, self._ended)
        self._followers[watcher.key] = follower
        self._open[name] += 1
        follower.start(self._group)

    def end(self, key: TaskKey) -> None:
        """The watch of a task has ended. Idempotent."""
        self._waiting[key.upstream].pop(key, None)
        follower = self._followers.pop(key, None)
        if follower is not None:
            follower.stop()

    def _ended(self, follower: StreamFollower) -> None:
        """A stream has ended: its slot goes to the task that has waited longest for one."""
        key = follower.watcher.key
        if self._followers.get(key) is follower:
            del self._followers[key]
        self._open[key.upstream] -= 1
        waiting = self._waiting[key.upstream]
        while waiting and self._open[key.upstream] < follower.watcher.upstream.max_streams:
            next_key = next(iter(waiting))
            del waiting[next_key]
            watcher = self._watcher_of(next_key)
            if watcher is not None and not watcher.watch.ended:
                self.follow(watcher)
