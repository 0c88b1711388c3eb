"""Which watches run: one a task, from the first viewer until a while after the last."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.core.event import Event, Notice, NoticeCode
from bridge.core.task import OWN_ACCOUNT, Observation, Source, TaskKey
from bridge.errors import BridgeError, InvalidRequest, TaskNotFound, Unauthenticated, UnknownUpstream
from bridge.journal.base import Journal
from bridge.sources.accounts import REFUSED_SENTENCE, AccountRegistry
from bridge.sources.poll import CachedResponse
from bridge.sources.upstream import Upstream
from bridge.telemetry.metrics import Metrics
from bridge.watchers.scheduler import PollSchedulers
from bridge.watchers.stream import StreamFollower
from bridge.watchers.watcher import Watcher

TICK_SECONDS = 1.0
CALLBACK_PERIOD_SECONDS = 1.0
RESTORED_PER_SECOND = 100.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Audience:
    """Viewers of one upstream's tasks, and since when there are that many."""

    viewers: int = 0
    since: float = 0.0


class Pool:
    """Starts, keeps and ends watches. Satisfies `bridge.hub.hub.Interest`.

    Args:
        linger_seconds: How long a watch outlives its last viewer.
        accounts: The keys callers brought; None where the operator's own keys look.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        journal: Journal,
        clock: Clock,
        metrics: Metrics,
        *,
        random: Callable[[], float],
        linger_seconds: float,
        accounts: AccountRegistry | None = None,
    ) -> None:
        self.upstreams = upstreams
        self._accounts = accounts
        self._journal = journal
        self._clock = clock
        self._metrics = metrics
        self._random = random
        self._linger = linger_seconds
        self._watchers: dict[TaskKey, Watcher] = {}
        self._schedulers = PollSchedulers(upstreams.values())
        self._audiences = {name: _Audience(since=clock.monotonic()) for name in upstreams}
        self._followers: dict[TaskKey, StreamFollower] = {}
        self._following = dict.fromkeys(upstreams, 0)
        self._without_stream: dict[str, dict[TaskKey, None]] = {name: {} for name in upstreams}
        self._called: dict[TaskKey, float] = {}
        self._group: asyncio.TaskGroup | None = None
        metrics.watches.census = self._census
        for name, upstream in upstreams.items():
            metrics.budget_paused_seconds.labels(name).set_function(self._paused(upstream))
            metrics.interests.labels(name).set_function(self._viewers(name))

    async def run(self) -> None:
        """Run every watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for watcher in self._watchers.values():
                self._follow(watcher)
            self._schedulers.run(group)
            try:
                while True:
                    await self._clock.sleep(TICK_SECONDS)
                    await self.tick()
            finally:
                self._group = None  # a stream that ends now gives its place to nobody

    async def restore(self) -> int:
        """Watch again what was open when the last process ended, with or without viewers, until its end.

        The first looks are spread, so that no provider meets them all at once. What was watched with a
        caller's own key waits for the caller to bring it again.

        Returns:
            How many tasks that are.

        Raises:
            JournalError: The journal cannot be read.
        """
        now = self._clock.monotonic()
        queues: dict[str, int] = {}
        for event in await self._journal.unfinished():
            upstream = self.upstreams.get(event.key.upstream)
            if upstream is None or event.key in self._watchers or event.key.account != OWN_ACCOUNT:
                continue
            place = queues[upstream.name] = queues.get(upstream.name, 0) + 1
            scheduler = self._schedulers.of(upstream)
            watcher = Watcher(event.key, upstream, self._journal, self._random, scheduler.plan)
            watcher.remember(event)
            watcher.kept = True
            watcher.watch.due = now + place / (upstream.limiter.requests_per_second or RESTORED_PER_SECOND)
            self._watchers[event.key] = watcher
            scheduler.plan(watcher)
        return sum(queues.values())

    def upstream(self, name: str, account: str = OWN_ACCOUNT) -> Upstream:
        """The configured upstream of that name, as the account sees it.

        Raises:
            UnknownUpstream: There is none.
            Unauthenticated: The key of the account is not here, or not accepted.
        """
        if account != OWN_ACCOUNT:
            if self._accounts is None:
                raise Unauthenticated("this bridge looks with keys of its own")
            return self._accounts.upstream(name, account)
        upstream = self.upstreams.get(name)
        if upstream is None:
            raise UnknownUpstream(f"no upstream {name[:40]!r} is configured")
        return upstream

    def want(self, key: TaskKey) -> None:
        """One more viewer; the first one starts the watch."""
        watcher = self._watchers.get(key)
        if watcher is None:
            watcher = self._start(key)
        elif watcher.watch.unseen and not self._just_refused(watcher):
            viewers = watcher.viewers
            self._end(watcher)
            watcher = self._start(key)
            watcher.viewers = viewers
        if watcher.viewers == 0:  # nobody was there to hear what still stands
            for notice in watcher.watch.told.values():
                self._journal.announce(key, notice)
        watcher.viewers += 1
        if watcher.viewers == 1:
            self._schedulers.of(watcher.upstream).plan(watcher)  # watched again, it is wanted sooner
        self._audience_changes(key.upstream, 1)

    def unwant(self, key: TaskKey) -> None:
        """One viewer less."""
        watcher = self._watchers.get(key)
        if watcher is not None and watcher.viewers > 0:
            watcher.viewers -= 1
            watcher.left_at = self._clock.monotonic()
        self._audience_changes(key.upstream, -1)

    def keep(self, key: TaskKey, *, called_back: bool = False) -> None:
        """Watch a task until its end, viewers or not; starts the watch where none runs.

        Args:
            called_back: Whether the provider was asked to call back about it.
        """
        watcher = self._watchers.get(key) or self._start(key)
        watcher.kept = True
        if called_back:
            watcher.expect_callbacks()

    def watcher(self, key: TaskKey) -> Watcher | None:
        """The watch of a task, if one runs."""
        return self._watchers.get(key)

    def newest(self) -> Iterator[Watcher]:
        """Every watch, the one begun last first; to be read without awaiting between."""
        return reversed(self._watchers.values())

    async def wait_polled(self, key: TaskKey) -> BridgeError | None:
        """Wait until a watched task was looked at once; what went wrong, if something did."""
        watcher = self._watchers.get(key)
        if watcher is None:
            return None
        await watcher.polled_once.wait()
        return watcher.error

    async def shown(self, key: TaskKey, *, seconds: float) -> CachedResponse | BridgeError | None:
        """What the provider says of a task: the newest look, if it is younger than the poll interval,
        else the next one, which is one for everybody who asks meanwhile.

        The watch outlives the question by its linger, so it goes on from one question to the next.

        Args:
            seconds: How long to wait for a look.

        Returns:
            The answer; what went wrong instead; None when neither came in time, or the task ended: its end
            is in the journal.
        """
        self.want(key)
        try:
            watcher = self._watchers[key]
            self._metrics.saved.viewed(key.upstream, seconds=1.0, interval=1.0)  # one poll that is spared
            until = self._clock.monotonic() + seconds
            await watcher.hydrate()
            while (answer := self._fresh(watcher)) is None and not watcher.ended:
                left = until - self._clock.monotonic()
                if left <= 0:
                    return None
                if not watcher.looking and (watcher.watch.due or 0.0) > self._clock.monotonic():
                    watcher.poll_now(self._may_look_at(watcher))
                await watcher.wait_news(left)
            return answer
        finally:
            self.unwant(key)

    def _may_look_at(self, watcher: Watcher) -> float:
        """Not at once after a look, whose answer another source may have made old already."""
        return max(self._clock.monotonic(), watcher.looked_at + watcher.upstream.pace.min_seconds)

    def _fresh(self, watcher: Watcher) -> CachedResponse | BridgeError | None:
        """What a look has brought that still counts: an error does until the next look is due."""
        if watcher.ended:
            return None
        now, due, shown = self._clock.monotonic(), watcher.watch.due, watcher.shown
        if watcher.error is not None and not watcher.looking and (due is None or due > now):
            return watcher.error
        return shown if shown is not None and now - shown.at < watcher.watch.interval else None

    async def show(self, key: TaskKey, seen: Observation, source: Source) -> Event | None:
        """Take in what another call showed of a task, as if its watch had seen it.

        Raises:
            JournalError: It could not be recorded.
        """
        new = key not in self._watchers
        self.want(key)
        watcher = self._watchers[key]
        if new:
            self._put_off(watcher)
        try:
            await watcher.hydrate()
            await watcher.take(seen, source, asked=self._clock.monotonic())
            watcher.shown_at = self._clock.monotonic()
            watcher.polled_once.set()
        finally:
            self.unwant(key)
        (event,) = await self._journal.latest([key])
        return event

    def poll_now(self, key: TaskKey) -> bool:
        """Look at a watched task at once, at most once a second; False when nobody watches it.

        What is said within that second is not lost: the next look begins after it.
        """
        watcher = self._watchers.get(key) or self._ending_in(key)
        if watcher is None or watcher.watch.unseen:
            return False
        key, now = watcher.key, self._clock.monotonic()
        called = self._called.get(key, now - CALLBACK_PERIOD_SECONDS)
        if called <= now:  # else a look that begins later is planned already
            self._called[key] = at = max(now, called + CALLBACK_PERIOD_SECONDS)
            watcher.poll_now(at)
        return True

    async def tick(self) -> None:
        """Let time pass for every watch: notices, lingering, the sums of who viewed how long."""
        now = self._clock.monotonic()
        self._keep_accounts()
        for name in self._audiences:
            self._audience_changes(name, 0)
        self._called = {key: at for key, at in self._called.items() if now - at < CALLBACK_PERIOD_SECONDS}
        for number, watcher in enumerate(list(self._watchers.values()), start=1):
            kept = watcher.kept and not watcher.over
            if not watcher.viewers and not kept and now - watcher.left_at >= self._linger:
                self._end(watcher)
                continue
            try:
                await watcher.tick()
            except BridgeError as error:
                logger.warning("tick failed", extra={"task": watcher.key.ref, "error": str(error)})
            except Exception:
                logger.exception("a bug in one watch", extra={"task": watcher.key.ref})
            if number % 250 == 0:  # about 2 ms
                await asyncio.sleep(0)

    def statistics(self, name: str) -> dict[str, int]:
        """Watches and viewers of one upstream, for `/status`."""
        watchers = [one for one in self._watchers.values() if one.key.upstream == name]
        return {"watches": len(watchers), "viewers": self._audiences[name].viewers}

    def _start(self, key: TaskKey) -> Watcher:
        if self._accounts is not None and key.account == OWN_ACCOUNT:
            raise Unauthenticated("callers look with keys of their own here")
        upstream = self.upstream(key.upstream, key.account)
        scheduler = self._schedulers.of(upstream)
        watcher = Watcher(key, upstream, self._journal, self._random, scheduler.plan)
        self._watchers[key] = watcher
        scheduler.plan(watcher)
        self._follow(watcher)
        return watcher

    def _keep_accounts(self) -> None:
        """End what was watched with a key the provider refuses; forget the keys nobody uses."""
        if self._accounts is None:
            return
        for place in self._accounts.revoked():
            for key, watcher in list(self._watchers.items()):
                if (key.upstream, key.account) == place:
                    notice = Notice(NoticeCode.CREDENTIAL_REFUSED, REFUSED_SENTENCE, retriable=False)
                    self._journal.announce(key, notice)
                    self._end(watcher)
        for account in self._accounts.evict({key.account for key in self._watchers}):
            self._schedulers.close(account)

    def _follow(self, watcher: Watcher) -> None:
        try:
            request = watcher.upstream.dialect.stream_request(watcher.key.task_id)
        except InvalidRequest:
            return  # the first look says so to whoever waits
        if self._group is None or request is None or watcher.key in self._followers:
            return
        name = watcher.key.upstream
        if self._following[name] >= watcher.upstream.max_streams:
            self._without_stream[name][watcher.key] = None
            return
        follower = StreamFollower(watcher, request, self._random, self._unfollow)
        self._followers[watcher.key] = follower
        self._following[name] += 1
        follower.start(self._group)

    def _unfollow(self, follower: StreamFollower) -> None:
        """A stream is over: the task that waited longest for one gets its place."""
        key = follower.watcher.key
        if self._followers.get(key) is follower:
            del self._followers[key]
        self._following[key.upstream] -= 1
        waiting = self._without_stream[key.upstream]
        while waiting and self._following[key.upstream] < follower.watcher.upstream.max_streams:
            next_key = next(iter(waiting))
            del waiting[next_key]
            watcher = self._watchers.get(next_key)
            if watcher is not None and not watcher.over:
                self._follow(watcher)

    def _end(self, watcher: Watcher) -> None:
        self._schedulers.of(watcher.upstream).forget(watcher)
        watcher.tell_end()
        if self._watchers.get(watcher.key) is watcher:
            del self._watchers[watcher.key]
        self._without_stream[watcher.key.upstream].pop(watcher.key, None)
        follower = self._followers.pop(watcher.key, None)
        if follower is not None:
            follower.stop()

    def _ending_in(self, key: TaskKey) -> Watcher | None:
        """Where the bridge's id is made of parts, callbacks name the last one only."""
        ending = f"/{key.task_id}"
        for one in self._watchers:
            if one.task_id.endswith(ending) and one.upstream == key.upstream and one.account == key.account:
                return self._watchers[one]
        return None

    def _put_off(self, watcher: Watcher) -> None:
        """What is about to be taken in needs no look beside it."""
        watcher.watch.due = self._clock.monotonic() + watcher.upstream.pace.min_seconds
        self._schedulers.of(watcher.upstream).plan(watcher)

    def _just_refused(self, watcher: Watcher) -> bool:
        """A task not found a moment ago is not asked for again, however many want it."""
        age = self._clock.monotonic() - watcher.watch.last_look
        return isinstance(watcher.error, TaskNotFound) and age < watcher.upstream.pace.min_seconds

    def _audience_changes(self, name: str, change: int) -> None:
        audience = self._audiences.get(name)
        if audience is None:
            return
        now = self._clock.monotonic()
        interval = self.upstreams[name].pace.recommended_seconds
        self._metrics.saved.viewed(name, seconds=audience.viewers * (now - audience.since), interval=interval)
        audience.since = now
        audience.viewers += change

    def _paused(self, upstream: Upstream) -> Callable[[], float]:
        return lambda: upstream.limiter.paused(self._clock.monotonic())

    def _viewers(self, upstream: str) -> Callable[[], float]:
        return lambda: self._audiences[upstream].viewers

    def _census(self) -> Mapping[tuple[str, str], int]:
        """Watches by upstream and source, in one walk: a scrape of many thousands stays short."""
        return Counter((one.key.upstream, one.source) for one in self._watchers.values())
