"""The watches that run: one per task, from its first viewer until `linger_seconds` after its last."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

from bridge.clock import Clock
from bridge.core.details import TaskDetails
from bridge.core.event import Event, Notice, NoticeCode
from bridge.core.quota import Lingering, Party
from bridge.core.suggestion import did_you_mean
from bridge.core.task import OWN_ACCOUNT, Observation, Source, TaskKey
from bridge.core.watch import LOST_POLL_SECONDS
from bridge.engine.ownership import KnownTask, Ownership
from bridge.errors import (
    BridgeError,
    CredentialRefused,
    TaskNotFound,
    Unauthenticated,
    UnknownUpstream,
)
from bridge.journal.base import Journal
from bridge.sources.accounts import REFUSED_SENTENCE, AccountRegistry
from bridge.sources.poll import CachedResponse
from bridge.sources.upstream import Upstream, UpstreamState
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.request_context import current_request
from bridge.watchers.followers import StreamFollowers
from bridge.watchers.missing import BELIEVED_SECONDS, MissingTasks
from bridge.watchers.role import Role
from bridge.watchers.scheduler import PollSchedulers
from bridge.watchers.shared import SharedWatches
from bridge.watchers.sole import SoleOwner
from bridge.watchers.watcher import Watcher

TICK_SECONDS = 1.0
NOTICE_AFTER_SECONDS = 0.8
"""How long a due first poll waits before its viewers get a notice. With one tick more it is less than 2 s."""

ASKING_SECONDS = 10.0
"""How long a client that polls the bridge counts as a viewer, at least."""

CALLBACK_PERIOD_SECONDS = 1.0
RESTORED_PER_SECOND = 100.0
MAX_HYDRATED = 1000
MAX_LOST = 500
"""Lost tasks that are still polled. At one poll in five minutes each, less than two requests per second."""

MAX_CALLED_BACK = 1000
MAX_NAMED = 30  # upstreams in the error about an unknown one
"""Watches that callbacks started and whose task no poll has shown yet."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Audience:
    """Number of viewers of one upstream's tasks.

    Args:
        since: Monotonic seconds when `viewers` last changed or was accounted for.
    """

    viewers: int = 0
    since: float = 0.0


class Pool:
    """Starts and ends watches.

    Satisfies `bridge.hub.hub.Interest` and `bridge.journal.base.IndexFollower`.

    Args:
        random: Returns 0-1, for jitter.
        linger_seconds: How long a watch outlives its last viewer.
        lingering: How many may do that, by who left them.
        accounts: Callers' own provider keys; None where the operator's keys poll.
        ownership: Decides which tasks this process polls; None: all of them.

    Attributes:
        names_upstreams: Whether an error about an unknown upstream names the configured ones.
    """

    def __init__(  # noqa: PLR0913 - the parts it connects
        self,
        upstreams: Mapping[str, Upstream],
        journal: Journal,
        clock: Clock,
        metrics: Metrics,
        *,
        random: Callable[[], float],
        linger_seconds: float,
        lingering: Lingering[TaskKey] | None = None,
        accounts: AccountRegistry | None = None,
        ownership: Ownership | None = None,
    ) -> None:
        self.upstreams = upstreams
        self.names_upstreams = False
        self._accounts = accounts
        self._journal = journal
        self._clock = clock
        self._metrics = metrics
        self._random = random
        self._linger = linger_seconds
        self._lingering: Lingering[TaskKey] = lingering or Lingering()
        self._watchers: dict[TaskKey, Watcher] = {}
        self._ownership: Ownership = ownership or SoleOwner()
        self._audiences = {name: _Audience(since=clock.monotonic()) for name in upstreams}
        self._streams = StreamFollowers(upstreams, self._watchers.get, random)
        self._shared: SharedWatches | None = None
        if self._ownership.shared:
            self._shared = SharedWatches(
                self._watchers,
                self._streams,
                self._ownership,
                clock,
                adopt=self._adopt,
                poll_now=self._called,
                forget=self.forget,
            )
            self._ownership.report_to(self._shared)
        self._schedulers = PollSchedulers(
            upstreams.values(), None if self._shared is None else self._shared.may_poll
        )
        self._callback_polls: dict[TaskKey, float] = {}
        self._missing = MissingTasks()
        self._called_back: set[TaskKey] = set()
        self._open_watches: Counter[tuple[str, str]] = Counter()
        if accounts is not None:
            accounts.on_refused_elsewhere = lambda: self._end_refused(accounts)
        metrics.watches.census = self._census
        for name, upstream in upstreams.items():
            metrics.budget_paused_seconds.labels(name).set_function(self._paused(upstream))
            for state in UpstreamState:
                metrics.upstream_state.labels(name, state.value).set_function(_is_in(upstream, state))
            metrics.interests.labels(name).set_function(self._viewers(name))
            metrics.poll_price_factor.labels(name).set_function(self._price_factor(name))

    async def run(self) -> None:
        """Run all watches until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._streams.run_in(group)
            for watcher in self._watchers.values():
                self._streams.follow(watcher)
            self._schedulers.run(group)
            try:
                while True:
                    await self._clock.sleep(TICK_SECONDS)
                    await self.tick()
            finally:
                # A stream that ends from now on must not hand its slot to another: the group takes no tasks.
                self._streams.run_in(None)

    async def restore(self) -> int:
        """Resume the watches of all recorded tasks without a final status, and of the lost ones.

        Tasks watched with a caller's own key are resumed when the caller sends that key again: it is not
        stored.

        Replicas on one engine resume none: each task without an owner is granted to one of them.

        Returns:
            The number of watches resumed.

        Raises:
            JournalError: The journal cannot be read.
        """
        if self._shared is not None:
            return 0
        now = self._clock.monotonic()
        restored: Counter[str] = Counter()
        for event in await self._journal.unfinished():
            upstream = self.upstreams.get(event.key.upstream)
            if upstream is None or event.key in self._watchers or event.key.account != OWN_ACCOUNT:
                continue
            restored[upstream.name] += 1
            scheduler = self._schedulers.of(upstream)
            watcher = Watcher(event.key, upstream, self._journal, self._random, scheduler.schedule)
            watcher.remember(event)
            # Its viewers reconnect in the next seconds, or never: nothing may be missed in either case.
            watcher.persistent = True
            # The journal does not say who submitted it: a task of ours must not be lost too early.
            if not watcher.watch.registered:
                watcher.vouch()
            # The process before may have polled it just now. The first polls are spread, or a restart would
            # send thousands of requests at once.
            rate = upstream.limiter.requests_per_second or RESTORED_PER_SECOND
            if upstream.many is not None:
                rate *= upstream.many.max_ids
            watcher.watch.due = now + upstream.pace.min_seconds + restored[upstream.name] / rate
            self._watchers[event.key] = watcher
            scheduler.schedule(watcher)
        await self._restore_lost()
        return restored.total()

    async def _restore_lost(self) -> None:
        lost = [event for event in await self._journal.lost(MAX_LOST) if event.key.account == OWN_ACCOUNT]
        for number, event in enumerate(lost, start=1):
            upstream = self.upstreams.get(event.key.upstream)
            if upstream is None or event.key in self._watchers:
                continue
            scheduler = self._schedulers.of(upstream)
            watcher = Watcher(event.key, upstream, self._journal, self._random, scheduler.schedule)
            watcher.remember(event)
            # Spread over one period.
            watcher.watch.due = self._clock.monotonic() + LOST_POLL_SECONDS * number / len(lost)
            self._watchers[event.key] = watcher
            scheduler.schedule(watcher)

    def upstream(self, name: str, account: str = OWN_ACCOUNT) -> Upstream:
        """The upstream of that name with the credential of `account`.

        Raises:
            UnknownUpstream: None of that name is configured.
            Unauthenticated: The key of the account is not registered, or the provider rejected it.
        """
        if account != OWN_ACCOUNT:
            if self._accounts is None:
                raise Unauthenticated("this bridge does not poll with callers' keys")
            return self._accounts.upstream(name, account)
        upstream = self.upstreams.get(name)
        if upstream is None:
            names = sorted(self.upstreams) if self.names_upstreams else []
            listed = f"; configured: {', '.join(names[:MAX_NAMED])}" if names else ""
            raise UnknownUpstream(
                f"no upstream {name[:40]!r} is configured{did_you_mean(name, names, listed)}"
            )
        return upstream

    def want(self, key: TaskKey, by: Hashable = None, *, resumes: bool = False) -> None:
        """Add a viewer; the first one starts the watch.

        Args:
            by: The connection whose turn the first poll takes; the caller and address of the request if None.
            resumes: Whether it may have seen a state of the task elsewhere.
        """
        party = _party()
        by = party if by is None else by
        watcher = self._watchers.get(key)
        if watcher is None:
            watcher = self._start(key)
        elif watcher.watch.not_found and not self._just_not_found(watcher):
            watcher = self._restart(watcher)
        scheduler = self._schedulers.of(watcher.upstream)
        # The first poll takes the turn of the connection with the shorter queue: a client that wants a task
        # which a flood asked for before does not wait behind the flood.
        shorter = watcher.viewers == 0 or scheduler.queued_by(by) < scheduler.queued_by(watcher.asked_by)
        if watcher.watch.known is None and watcher.asked_by != by and shorter:
            watcher.asked_by, watcher.party = by, party
            scheduler.schedule(watcher)
        if watcher.viewers == 0:
            # With viewers the hub remembers the active notices for newcomers; without, it has dropped them.
            for notice in watcher.watch.active_notices.values():
                self._journal.announce(key, notice, here=True)
        watcher.viewers += 1
        watcher.newcomer |= not resumes
        self._lingering.remove(key)
        watcher.joined()
        if watcher.viewers == 1:
            # Scheduled again with the shorter grace of a watched task.
            scheduler.schedule(watcher)
        if self._shared is not None and not watcher.polls_here:
            self._shared.leave_alone(watcher)
        self._count_viewers(key.upstream, 1)

    def queued_by(self, connection: Hashable) -> int:
        """First polls of this connection that wait for their turn, over all upstreams."""
        return self._schedulers.queued_by(connection)

    def unwant(self, key: TaskKey) -> None:
        """Remove a viewer; the watch lingers after the last one."""
        watcher = self._watchers.get(key)
        if watcher is not None and watcher.viewers > 0:
            watcher.viewers -= 1
            watcher.watch.viewed = watcher.viewed
            watcher.left_at = self._clock.monotonic()
            if not (watcher.viewers or watcher.persistent or watcher.lost):
                self._end_lingering(key)
        self._count_viewers(key.upstream, -1)

    def _end_lingering(self, left: TaskKey) -> None:
        """The last viewer of a task has left: end the oldest watches of a party with too many."""
        request = current_request()
        shared = request is None or request.shared
        party = Party() if request is None else Party(request.caller, None if shared else request.address)
        for key in self._lingering.add(left, party):
            watcher = self._watchers.get(key)
            if watcher is None or watcher.ending:
                continue
            if not (watcher.viewers or watcher.persistent or watcher.lost):
                self._end(watcher)

    def keep(self, key: TaskKey, *, called_back: bool = False) -> None:
        """Watch a task until its end, with or without viewers; starts the watch if none runs.

        Args:
            called_back: Whether the submit asked the provider to call back.
        """
        watcher = self._watchers.get(key) or self._start(key)
        watcher.persistent = True
        watcher.vouch()
        if called_back:
            watcher.expect_callbacks()
        self._ownership.keep(key, called_back=called_back)

    def attend(self, key: TaskKey) -> Watcher:
        """The watch of a task that a client registers; starts one if none runs.

        A 404 that is believed counts no more.

        Raises:
            UnknownUpstream: No such upstream is configured.
            Unauthenticated: The key of the account is not registered, or the provider rejected it.
        """
        watcher = self._watchers.get(key)
        if watcher is None:
            self._missing.take(key, self._clock.monotonic())
            return self._start(key)
        return self._restart(watcher, believed=False) if watcher.watch.not_found else watcher

    def keep_registered(self, key: TaskKey, deadline_seconds: float | None) -> None:
        """Watch a registered task until its end; unlike one that was submitted here it may not exist.

        Args:
            deadline_seconds: Its own, from its first state on; None for that of the upstream.
        """
        watcher = self._watchers.get(key) or self._start(key)
        watcher.persistent = True
        if deadline_seconds is not None:
            watcher.expect_end(deadline_seconds)
        self._ownership.keep(key, called_back=False)

    def forget(self, key: TaskKey) -> None:
        """End the watch of a task that has ended: what a running poll shows is not recorded."""
        watcher = self._watchers.get(key)
        if watcher is not None and watcher.watch.ended:
            self._end(watcher)
            watcher.discard()

    def described(self, key: TaskKey, details: TaskDetails) -> None:
        """A registered task may have a deadline of its own."""
        watcher = self._watchers.get(key)
        if watcher is not None and details.deadline_seconds is not None:
            watcher.expect_end(details.deadline_seconds)

    def forgotten(self, key: TaskKey) -> None:
        """A task was deleted, perhaps by another process."""
        self.forget(key)

    def reset(self) -> None:
        """Details may have changed unheard: a watch takes its deadline from what is known now."""
        for key in self._watchers:
            self.described(key, self._journal.details(key))

    async def finish_ends(self) -> None:
        """Wait until the ends that are about to be recorded are; what they wait for must be over soon."""
        await asyncio.gather(*[one.finish_end() for one in list(self._watchers.values()) if one.ending])

    def watcher(self, key: TaskKey) -> Watcher | None:
        """The watch of a task; None when none runs."""
        return self._watchers.get(key)

    def newest(self) -> Iterator[Watcher]:
        """All watches, newest first. Iterate without awaiting: the pool changes meanwhile."""
        return reversed(self._watchers.values())

    async def wait_polled(self, key: TaskKey) -> BridgeError | None:
        """Wait for the first poll of a watched task; returns the error of the last poll, if it failed."""
        watcher = self._watchers.get(key)
        if watcher is None:
            return None
        await watcher.polled_once.wait()
        return watcher.error

    def known_missing(self, key: TaskKey) -> BridgeError | None:
        """The provider's 404 about a task, while it is believed; sends no request."""
        watcher = self._watchers.get(key)
        if watcher is not None:
            return watcher.error if self._just_not_found(watcher) else None
        return self._missing.error(key, self._clock.monotonic())

    async def shown(self, key: TaskKey, *, seconds: float) -> CachedResponse | BridgeError | None:
        """The provider's response to a status call.

        The cached one while it is younger than the poll interval, and than the longest one of the upstream,
        else that of the next poll, which all callers share.

        The watch lingers after the call, so a client that polls the bridge keeps it alive. Until it comes
        again it counts as a viewer.

        Args:
            seconds: How long to wait for a poll.

        Returns:
            The response, or the error of the poll; None when neither came in time, or when the task has
            ended: its final state is in the journal.
        """
        self.want(key)
        try:
            watcher = self._watchers[key]
            # The client's request would have been a poll of its own: it counts as one interval viewed.
            self._metrics.saved.viewed(key.upstream, seconds=1.0, interval=1.0)
            until = self._clock.monotonic() + seconds
            await watcher.hydrate()
            while (answer := self._fresh(watcher)) is None and not watcher.ended:
                now = self._clock.monotonic()
                held_up = watcher.upstream.held_up()
                if held_up is not None and (watcher.shown is None or watcher.upstream.limiter.off):
                    return held_up
                if now >= until:
                    return None
                if not watcher.polls_here:
                    watcher.poll_now()
                elif not watcher.polling and (watcher.watch.due or 0.0) > now:
                    # Not right after a poll: another source may have outdated its response just now, and each
                    # caller would trigger one more poll.
                    watcher.poll_soon(watcher.polled_at + watcher.upstream.pace.min_seconds)
                await watcher.wait_news(until - now)
            return answer
        finally:
            asking = self._watchers.get(key)
            if asking is not None:
                pace = asking.upstream.pace
                asking.asked_until = self._clock.monotonic() + max(pace.max_seconds, ASKING_SECONDS)
            self.unwant(key)

    def _fresh(self, watcher: Watcher) -> CachedResponse | BridgeError | None:
        if watcher.ended:
            return None
        now, due, shown = self._clock.monotonic(), watcher.watch.due, watcher.shown
        if not watcher.polls_here:
            due = None  # an error counts until the process that polls the task reports otherwise
        # An error counts as an answer until the next poll is due.
        if watcher.error is not None and not watcher.polling and (due is None or due > now):
            return watcher.error
        # The interval may be minutes, while the rate limit is short.
        oldest = min(watcher.watch.interval, watcher.upstream.pace.max_seconds)
        return shown if shown is not None and now - shown.at < oldest else None

    async def show(self, key: TaskKey, observation: Observation, source: Source) -> Event | None:
        """Record what another call (submit, cancel, alias) showed of a task, as if its watch had observed it.

        Returns:
            The newest event of the task.

        Raises:
            JournalError: It could not be recorded.
        """
        if self._accounts is not None:
            self._accounts.mark_verified(key.account)  # it answered for this key
        new = key not in self._watchers
        self.want(key)
        watcher = self._watchers[key]
        if new:
            # What is about to be recorded makes the immediate first poll redundant.
            watcher.watch.due = self._clock.monotonic() + watcher.upstream.pace.min_seconds
            self._schedulers.of(watcher.upstream).schedule(watcher)
        try:
            await watcher.hydrate()
            await watcher.take(observation, source, started_at=self._clock.monotonic(), free=True)
            watcher.shown_at = self._clock.monotonic()
            watcher.polled_once.set()
        finally:
            self.unwant(key)
        (event,) = await self._journal.latest([key])
        return event

    def poll_now(self, key: TaskKey) -> bool:
        """Poll a watched task out of turn, at most once per second; False when it is not watched.

        A call within that second is not lost: the poll planned for its end starts after the call.
        """
        watcher = self._watchers.get(key) or self._with_id_ending_in(key)
        if self._shared is not None and watcher is None:
            self._ownership.call(key)
            return True
        if watcher is None or watcher.watch.not_found:
            return False
        at = self._plan_poll(watcher.key)
        if at is not None:
            watcher.poll_now(at)
        return True

    def _called(self, key: TaskKey, called_back: bool) -> None:
        """Another process asks this one, which owns the task, to poll it now."""
        watcher = self._watchers.get(key)
        if watcher is not None and not watcher.polls_here:
            watcher.expect_grant(called_back=called_back)
        elif called_back:
            self._poll_called_back(key, watcher)
        elif watcher is not None:
            if watcher.watch.not_found and not self._just_not_found(watcher):
                watcher = self._restart(watcher)
            now, due = self._clock.monotonic(), watcher.watch.due
            if watcher.polling or due is None or due > now:  # else a poll is on its way
                last = now if watcher.polling else watcher.polled_at
                watcher.poll_soon(last + watcher.upstream.pace.min_seconds)

    def called_back(self, key: TaskKey) -> bool:
        """Poll a task that an authentic callback named; starts a watch, without viewers, if none runs.

        Returns:
            False when the id cannot be one of this upstream, or too many such watches run.
        """
        watcher = self._watchers.get(key) or self._with_id_ending_in(key)
        if self._shared is not None and (watcher is None or not watcher.polls_here):
            return self._call_back_elsewhere(key if watcher is None else watcher.key)
        return self._poll_called_back(key, watcher)

    def _call_back_elsewhere(self, key: TaskKey) -> bool:
        try:
            self.upstream(key.upstream, key.account).dialect.status_request(key.task_id)
        except BridgeError:
            return False
        self._ownership.call(key, called_back=True)
        return True

    def _poll_called_back(self, key: TaskKey, watcher: Watcher | None) -> bool:
        if watcher is None or watcher.watch.not_found:
            watcher = self._start_called_back(key, watcher)
            if watcher is None:
                return False
        at = self._plan_poll(watcher.key)
        if at is not None:
            watcher.called_back(at)
        return True

    def _start_called_back(self, key: TaskKey, missing: Watcher | None) -> Watcher | None:
        if len(self._called_back) >= MAX_CALLED_BACK:
            return None
        try:
            self.upstream(key.upstream, key.account).dialect.status_request(key.task_id)
            # The callback knows better than the 404.
            self._missing.take(key, self._clock.monotonic())
            watcher = self._start(key) if missing is None else self._restart(missing, believed=False)
        except BridgeError:
            return None
        watcher.persistent = True
        self._ownership.keep(watcher.key, called_back=False)
        self._called_back.add(watcher.key)
        return watcher

    def _plan_poll(self, key: TaskKey) -> float | None:
        """When to poll out of turn, monotonic seconds; None when such a poll is planned already."""
        now = self._clock.monotonic()
        planned = self._callback_polls.get(key, now - CALLBACK_PERIOD_SECONDS)
        if planned > now:
            return None  # it covers this call too
        self._callback_polls[key] = at = max(now, planned + CALLBACK_PERIOD_SECONDS)
        return at

    async def tick(self) -> None:
        """Once per second: notices of every watch, ends of linger, eviction of keys, viewer-time metrics."""
        now = self._clock.monotonic()
        self._evict_accounts()
        await self._report_holds(now)
        for name in self._audiences:
            self._count_viewers(name, 0)
        self._schedulers.settle_prices(now)
        self._forget_old(now)
        lost = 0
        open_watches: Counter[tuple[str, str]] = Counter()
        for number, watcher in enumerate(list(self._watchers.values()), start=1):
            if self._watchers.get(watcher.key) is not watcher:
                continue  # ended while the others had their tick
            try:
                lost += watcher.lost and watcher.polls_here
                if now - watcher.left_at >= self._linger and not self._is_needed(watcher, lost):
                    self._end(watcher)
                elif self._shared is not None and not watcher.polls_here:
                    self._shared.attend(watcher)
                elif not watcher.upstream.limiter.off:  # while it is off, no deadline passes
                    open_watches[watcher.key.upstream, watcher.key.account] += not watcher.over
                    await watcher.tick(self._spacing(watcher))
            except BridgeError as error:
                logger.warning("watch tick failed", extra={"task": watcher.key.ref, "error": str(error)})
            except Exception:
                logger.exception("unhandled exception in watch", extra={"task": watcher.key.ref})
            if number % 250 == 0:
                # About 2 ms: other coroutines run in between, regardless of the number of watches.
                await asyncio.sleep(0)
        self._open_watches = open_watches

    def _forget_old(self, now: float) -> None:
        # Entries of the last second only, or every callback would leave one behind for good.
        self._callback_polls = {
            key: at for key, at in self._callback_polls.items() if now - at < CALLBACK_PERIOD_SECONDS
        }
        self._called_back = {key for key in self._called_back if self._is_unseen(key)}
        self._missing.forget_old(now)
        if self._shared is not None:
            self._shared.forget_old(now)

    def _is_needed(self, watcher: Watcher, lost: int) -> bool:
        """Whether a watch continues.

        Args:
            lost: Number of lost tasks that are polled here, this one included.
        """
        if watcher.viewers or watcher.ending:
            return True
        if not watcher.polls_here:
            # The process that polls it watches it to its end; until there is one, this process remembers.
            unheard = watcher.role is Role.ASKING or (self._shared is not None and self._shared.deaf)
            return watcher.persistent and unheard
        kept = lost <= MAX_LOST and watcher.own if watcher.lost else watcher.persistent
        return kept and not watcher.over

    def _spacing(self, watcher: Watcher) -> float:
        """Seconds between two polls of one task, where all tasks of the credential share its rate."""
        rate = watcher.upstream.limiter.requests_per_second
        return 0.0 if rate is None else self._open_watches[watcher.key.upstream, watcher.key.account] / rate

    async def _report_holds(self, now: float) -> None:
        """Notify the viewers whose first poll is held up; those of an upstream that is off in any case.

        One pass a second over all watches instead of a timer for each viewer.
        """
        holds = self._schedulers.holds(now)
        if not holds:
            return
        lasting = {upstream for upstream in holds if upstream.limiter.lasting_hold(now) is not None}
        waiting = [
            watcher
            for watcher in self._watchers.values()
            if (watcher.viewers or self._shared is not None)
            and watcher.polls_here
            and watcher.upstream in holds
            and (watcher.watch.known is None or watcher.upstream.limiter.off)
            and not (watcher.polling or watcher.over)
            and (watcher.upstream in lasting or watcher.waits_since(now) >= NOTICE_AFTER_SECONDS)
        ]
        await self._hydrate(waiting)
        for number, watcher in enumerate(waiting, start=1):
            if watcher.hydrated and (watcher.watch.known is None or watcher.upstream.limiter.off):
                try:
                    watcher.held_up(holds[watcher.upstream])
                except Exception:
                    logger.exception("unhandled exception in watch", extra={"task": watcher.key.ref})
            if number % 250 == 0:
                await asyncio.sleep(0)

    async def _hydrate(self, watchers: list[Watcher]) -> None:
        # A flood of ids must not make one pass long: the rest follows a second later.
        unread = [watcher for watcher in watchers if not watcher.hydrated][:MAX_HYDRATED]
        try:
            recorded = await self._journal.latest([watcher.key for watcher in unread]) if unread else []
        except BridgeError as error:
            logger.warning("watch tick failed", extra={"error": str(error)})
            return
        for watcher, event in zip(unread, recorded, strict=True):
            if not watcher.hydrated:
                watcher.remember(event)

    def key_replaced(self, name: str) -> None:
        """Another key is in use: poll now what the old one was not shown."""
        for watcher in self._watchers.values():
            refused = isinstance(watcher.error, CredentialRefused) and watcher.polls_here
            if watcher.key.upstream == name and watcher.own and refused:
                watcher.poll_now()

    def statistics(self, name: str) -> dict[str, int]:
        """Watches and viewers of one upstream, as `/status` reports them."""
        watches = sum(
            watcher.key.upstream == name and watcher.polls_here for watcher in self._watchers.values()
        )
        return {"watches": watches, "viewers": self._audiences[name].viewers}

    def pacing(self, name: str) -> dict[str, float]:
        """The price of a poll of one upstream and the polls its tasks plan, as `/status` reports them."""
        views = list(self._views(name))
        highest = max(views, key=lambda view: view.price.shown)
        return {
            "poll_price_seconds": round(highest.poll_price_seconds, 3),
            "poll_price_factor": round(highest.price.shown, 3),
            "planned_polls_per_second": round(sum(view.price.planned for view in views), 3),
        }

    def _views(self, name: str) -> Iterator[Upstream]:
        """An upstream as each credential sees it."""
        yield self.upstreams[name]
        if self._accounts is not None:
            yield from self._accounts.views(name)

    def _start(self, key: TaskKey) -> Watcher:
        watcher = self._make(key)
        missing = self._missing.take(key, self._clock.monotonic())
        if missing is not None:
            watcher.recall_missing(*missing)
            return watcher
        self._begin(watcher)
        self._ownership.want(key)
        return watcher

    def _make(self, key: TaskKey) -> Watcher:
        if self._accounts is not None and key.account == OWN_ACCOUNT:
            raise Unauthenticated("this bridge polls with callers' keys only")
        upstream = self.upstream(key.upstream, key.account)
        changed: Callable[[Watcher], None] = self._schedulers.of(upstream).schedule
        if self._shared is not None:
            changed = self._shared.planning(changed)
        watcher = Watcher(key, upstream, self._journal, self._random, changed, self._ownership)
        self._watchers[key] = watcher
        return watcher

    def _adopt(self, key: TaskKey, before: Watcher | None) -> Watcher:
        """Start the watch of a task that this process owns, without viewers.

        Args:
            before: A watch that was given up a moment ago.
        """
        self._missing.take(key, self._clock.monotonic())
        if before is None:
            return self._make(key)
        before.generation, before.left_at = 0, self._clock.monotonic()
        self._watchers[key] = before
        return before

    def _restart(self, watcher: Watcher, *, believed: bool = True) -> Watcher:
        """Ask again for a task that was not found: it may exist by now. The viewers stay with it.

        Args:
            believed: Whether the 404 still counts if it is not old.
        """
        role = watcher.role
        self._end(watcher, drop=False)
        if not believed:
            self._missing.take(watcher.key, self._clock.monotonic())
        again = self._start(watcher.key)
        again.viewers, again.newcomer, again.recheck = watcher.viewers, watcher.newcomer, True
        if role is Role.OWNING and self._shared is not None:
            self._shared.granted(watcher.key, KnownTask(None))
        elif self._shared is not None:
            # Its owner believes the same 404.
            again.poll_now()
        return again

    def _begin(self, watcher: Watcher) -> None:
        upstream = watcher.upstream
        self._schedulers.of(upstream).schedule(watcher)
        watcher.error = upstream.held_up()
        if watcher.error is not None:
            # No client waits for a poll that does not start.
            watcher.polled_once.set()
        self._streams.follow(watcher)

    def _is_unseen(self, key: TaskKey) -> bool:
        watcher = self._watchers.get(key)
        return watcher is not None and watcher.watch.known is None and not watcher.watch.not_found

    def _evict_accounts(self) -> None:
        """End the watches of rejected keys; stop the schedulers of evicted ones."""
        accounts = self._accounts
        if accounts is None:
            return
        self._end_refused(accounts)
        for account in accounts.evict({key.account for key in self._watchers}):
            self._schedulers.close(account)

    def _end_refused(self, accounts: AccountRegistry) -> None:
        for revoked in accounts.revoked():
            for key, watcher in list(self._watchers.items()):
                if (key.upstream, key.account) == revoked:
                    notice = Notice(NoticeCode.CREDENTIAL_REFUSED, REFUSED_SENTENCE, retriable=False)
                    self._journal.announce(key, notice, here=watcher.role is not Role.OWNING)
                    self._end(watcher)

    def _end(self, watcher: Watcher, *, drop: bool = True) -> None:
        self._schedulers.of(watcher.upstream).cancel(watcher)
        watcher.watch.retire()
        watcher.log_end()
        if self._watchers.get(watcher.key) is watcher:
            del self._watchers[watcher.key]
            self._lingering.remove(watcher.key)
            if self._just_not_found(watcher) and watcher.error is not None:
                self._missing.add(watcher.key, watcher.error, watcher.watch.last_poll)
        self._streams.end(watcher.key)
        if drop and self._shared is not None:
            self._shared.give_up(watcher)

    def _with_id_ending_in(self, key: TaskKey) -> Watcher | None:
        # Where the bridge's id is made of several parts (`model/id`), callbacks name the last one only. A
        # walk over all watches, but only for callbacks about a task that is not watched under its own id.
        ending = f"/{key.task_id}"
        for other in self._watchers:
            if (
                other.task_id.endswith(ending)
                and other.upstream == key.upstream
                and other.account == key.account
            ):
                return self._watchers[other]
        return None

    def _just_not_found(self, watcher: Watcher) -> bool:
        """Whether the provider's 404 is still believed: it is not asked again for each new subscriber."""
        age = self._clock.monotonic() - watcher.watch.last_poll
        return watcher.watch.not_found and isinstance(watcher.error, TaskNotFound) and age < BELIEVED_SECONDS

    def _count_viewers(self, name: str, change: int) -> None:
        """Add the viewer seconds since the last change to the polls that clients were spared."""
        audience = self._audiences.get(name)
        if audience is None:
            return
        now = self._clock.monotonic()
        # The provider's own advice, which its clients follow, not the operator's bounds.
        interval = self.upstreams[name].dialect.poll.recommended_seconds
        self._metrics.saved.viewed(name, seconds=audience.viewers * (now - audience.since), interval=interval)
        audience.since = now
        audience.viewers += change

    def _paused(self, upstream: Upstream) -> Callable[[], float]:
        return lambda: upstream.limiter.paused(self._clock.monotonic())

    def _price_factor(self, upstream: str) -> Callable[[], float]:
        return lambda: max(view.price.shown for view in self._views(upstream))

    def _viewers(self, upstream: str) -> Callable[[], float]:
        return lambda: self._audiences[upstream].viewers

    def _census(self) -> Mapping[tuple[str, str], int]:
        """Number of watches by upstream and source, in one walk: a scrape of many thousands stays short."""
        return Counter(
            (watcher.key.upstream, watcher.source)
            for watcher in self._watchers.values()
            if watcher.polls_here
        )


def _is_in(upstream: Upstream, state: UpstreamState) -> Callable[[], float]:
    return lambda: float(upstream.health.state is state)


def _party() -> Hashable:
    """The caller and address of the request being served; None outside of one."""
    request = current_request()
    return None if request is None else (request.caller, request.address)
