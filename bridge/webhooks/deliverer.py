"""Delivers: claims what is due, makes the attempts, and notes what came of each.

Rule 1: every bridge may claim from every queue. What a bridge has claimed when it dies is due again once its
        session has ended.
Rule 2: only so much is claimed as there is room for, and a lease is longer than all of it can take.
Rule 3: an attempt counts once it is noted. Until then it may be made again, with the same id.
Rule 4: nothing waits for a receiver but the deliveries to it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from bridge.clock import Clock
from bridge.engine.base import CLAIM_BYTES, DEFAULT_JOB_LIMITS, JOB_SECONDS, Job, Waiting
from bridge.engine.ledger import Ledger
from bridge.errors import JournalError
from bridge.webhooks.attempts import FLUSH_SECONDS, Attempt, AttemptResult, LoggedAttempt
from bridge.webhooks.endpoint import Disabled, Webhook
from bridge.webhooks.hosts import MAX_OF_SUBMITS, SLOW_SECONDS, ReceivingHosts, receiving_host
from bridge.webhooks.lane import ClaimedDelivery, DeliveryLane
from bridge.webhooks.message import DeliveryMessage, decode_message
from bridge.webhooks.registry import Webhooks, attempt_of
from bridge.webhooks.schedule import delay_after, in_steps, is_too_old, next_attempt
from bridge.webhooks.sender import ATTEMPT_SECONDS, Answered, Sender

LEASE_SECONDS = 60.0
"""Longer than a delivery waits here, is attempted and noted."""

BEGIN_SECONDS = 30.0
"""What has not begun so long after its claim is put back."""

MAX_CLAIMED = 32
CHECK_SECONDS = 2.0
"""How often all queues are checked for deliveries of bridges that died, and those that wait since a start."""

CHECKED_QUEUES = 100
"""In one check so many queues are asked for what is due; the others in the next ones."""

REFRESH_SECONDS = 5.0
RETRY_SECONDS = 0.5
PUT_BACK_SECONDS = 5.0
AWAY_SECONDS = 5.0
"""A ledger that is away for longer is worth a warning."""

YOUNG_SECONDS = 75.0
"""So long after its start a process may find that it is the first of the service: longer than any lease."""

FULL_GRACE_SECONDS = 600.0
"""So long an endpoint that was enabled may be full: what had waited for it must leave first."""

GONE = 410
_SLACK = 0.02
_QUEUES_IN_A_CALL = 100
_MAX_CLAIMS = 16
_MICROSECONDS = 1_000_000

logger = logging.getLogger(__name__)


class DeliveryCounts(Protocol):
    """What a deliverer reports."""

    def attempted(self, result: AttemptResult, seconds: float) -> None:
        """An attempt was made."""

    def dropped(self, number: int) -> None:
        """Deliveries ended without an attempt."""


class Deliverer:
    """The attempts of this process.

    Args:
        random: 0 to 1, for jitter.
        check_seconds: Between two checks of all queues.
    """

    def __init__(
        self,
        webhooks: Webhooks,
        ledger: Ledger,
        sender: Sender,
        clock: Clock,
        *,
        random: Callable[[], float],
        counts: DeliveryCounts,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._webhooks = webhooks
        self._ledger = ledger
        self._sender = sender
        self._clock = clock
        self._random = random
        self._counts = counts
        self._check_seconds = check_seconds
        self._hosts = ReceivingHosts()
        self._lanes: dict[str, DeliveryLane] = {}
        self._alarms: list[tuple[float, str]] = []
        self._ready: dict[str, None] = {}
        self._full: dict[str, None] = {}
        self._news = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._claims = asyncio.Semaphore(_MAX_CLAIMS)
        self._draining = self._closed = self._waits = False
        self._waits_since: float | None = None
        self._checked = 0
        self._elders: frozenset[str] | None = None
        self._young_until = 0.0
        self._refresh_at = self._check_at = self._write_at = 0.0
        self._to_disable: dict[str, Disabled] = {}
        self._hastened: set[str] = set()
        webhooks.changed.append(self._changed)
        webhooks.drops = counts.dropped
        webhooks.hastened = self._hasten

    def wrote(self, queues: Sequence[str], dropped: int) -> None:
        """Deliveries were written.

        Args:
            dropped: How many had no room.
        """
        for queue in queues:
            self._ready[queue] = None
        if dropped:
            self._counts.dropped(dropped)
            self._full.update(dict.fromkeys(queues))
        self._news.set()

    async def run(self) -> None:
        """Deliver until cancelled; without endpoints only a change of them is waited for."""
        try:
            while True:
                now = self._clock.monotonic()
                if self._webhooks.stale or (self._ledger.shared and now >= self._refresh_at):
                    self._refresh_at = now + REFRESH_SECONDS
                    await self._tried(self._webhooks.refresh())
                if self._webhooks.used and not self._draining:
                    if now >= self._check_at:
                        self._check_at = now + self._check_seconds
                        await self._tried(self._check_queues())
                    self._claim_ready(now)
                if now >= self._write_at:
                    self._write_at = now + FLUSH_SECONDS
                    await self._tried(self._write())
                await self._tried(self._disable())
                await self._clock.wait(self._news, self._seconds_to_wait())
                self._news.clear()
        finally:
            self._closed = True
            running = list(self._running)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def drain(self, seconds: float) -> None:
        """Begin no attempt from now on, and wait for those that are made.

        What was claimed and has not begun is put back for the other bridges.
        """
        self._draining = True
        for lane in self._lanes.values():
            while lane.claimed:
                self._spawn(self._put_back(lane, lane.claimed.popleft(), 0.0))
        if self._running:
            await asyncio.wait(list(self._running), timeout=seconds)
        await self._tried(self._write())

    # When to claim

    def _seconds_to_wait(self) -> float | None:
        now = self._clock.monotonic()
        moments = [self._refresh_at] if self._ledger.shared else []
        if self._webhooks.stale:
            moments.append(now + RETRY_SECONDS)
        if self._webhooks.log.pending:
            moments.append(self._write_at)
        if self._full or self._to_disable:
            moments.append(now + RETRY_SECONDS)
        if self._webhooks.used and not self._draining:
            moments.append(self._check_at)
            if self._alarms:
                moments.append(self._alarms[0][0])
        return max(min(moments) - now, 0.0) if moments else None

    def _hasten(self, queue: str) -> None:
        self._hastened.add(queue)
        self._check_at = 0.0
        self._news.set()

    def _changed(self) -> None:
        queues = set(self._webhooks.queues)
        for queue in list(self._lanes):
            lane = self._lanes[queue]
            if queue not in queues and not lane.unfinished and not lane.claimed and not lane.claiming:
                del self._lanes[queue]
        self._check_at = 0.0
        self._news.set()

    def _claim_ready(self, now: float) -> None:
        while self._alarms and self._alarms[0][0] <= now:
            moment, queue = heapq.heappop(self._alarms)
            lane = self._lanes.get(queue)
            if lane is not None and lane.armed == moment:
                lane.armed = None
                self._ready[queue] = None
        ready, self._ready = self._ready, {}
        for queue in ready:
            lane = self._lane(queue)
            if lane.claimed:
                # All that may be claimed may wait for a receiver that is slow by now: it leaves its place.
                lane.passed(now)
                lane.begin()
            self._fill(lane)

    def _lane(self, queue: str) -> DeliveryLane:
        lane = self._lanes.get(queue)
        if lane is None:
            lane = self._lanes[queue] = DeliveryLane(queue, self._begin)
        return lane

    def _claim_at(self, lane: DeliveryLane, moment: float) -> None:
        lane.claim_at(moment)
        self._arm(lane)

    def _arm(self, lane: DeliveryLane) -> None:
        moment = lane.next_claim
        if moment is not None and (lane.armed is None or moment < lane.armed):
            lane.armed = moment
            heapq.heappush(self._alarms, (moment, lane.queue))
            self._news.set()

    # Claiming

    def _fill(self, lane: DeliveryLane) -> None:
        """Ask for more if there is room for it."""
        if self._is_disabled(lane.queue):
            return
        lane.again = True
        if not lane.claiming and not self._draining and len(lane.claimed) < MAX_CLAIMED:
            lane.claiming = True
            self._spawn(self._claim(lane))

    async def _claim(self, lane: DeliveryLane) -> None:
        try:
            while lane.again and not self._draining and not self._is_disabled(lane.queue):
                now = self._clock.monotonic()
                lane.passed(now)  # without room too, or it would be claimed at once again and again
                room = self._room(lane)
                if room <= 0:
                    return
                lane.again = False
                early = min(room, lane.early)
                async with self._claims:
                    jobs = await self._ledger.claim_jobs(
                        lane.queue,
                        limit=early or room,
                        lease=LEASE_SECONDS,
                        ahead=JOB_SECONDS if early else 0.0,
                    )
                more = len(jobs) == (early or room) or sum(len(job.body) for job in jobs) >= CLAIM_BYTES
                lane.early = lane.early - len(jobs) if early and more else 0
                self._take(lane, jobs, now)
                lane.again |= more or early > 0
        except JournalError:
            self._claim_at(lane, self._clock.monotonic() + RETRY_SECONDS)
        finally:
            lane.claiming = False
            self._arm(lane)

    def _take(self, lane: DeliveryLane, jobs: Sequence[Job], now: float) -> None:
        for job in jobs:
            message = decode_message(job.body)
            if message is None:
                logger.warning("delivery not readable", extra={"queue": lane.queue})
                self._counts.dropped(1)
                self._spawn(self._finish(lane, job.id, 0))
            else:
                lane.claimed.append(ClaimedDelivery(job, message, now + BEGIN_SECONDS))
        self._begin(lane)

    def _is_disabled(self, queue: str) -> bool:
        """Whether what is in a queue is to stay there."""
        endpoint = self._webhooks.at(queue)
        return endpoint is not None and (endpoint.disabled is not None or endpoint.id in self._to_disable)

    def _room(self, lane: DeliveryLane) -> int:
        """How many deliveries to claim."""
        endpoint = self._webhooks.at(lane.queue)
        if endpoint is not None:
            host = self._hosts.get(receiving_host(endpoint.url))
            if host.failing:
                host.waits[lane.begin] = None
                return host.room - len(lane.claimed)
        return MAX_CLAIMED - len(lane.claimed)

    def _begin(self, lane: DeliveryLane) -> None:
        """Begin the attempts for which there is room."""
        endpoint = self._webhooks.at(lane.queue)
        disabled = self._is_disabled(lane.queue)
        now = self._clock.monotonic()
        for _ in range(len(lane.claimed)):
            claimed = lane.claimed.popleft()
            url = claimed.message.url or (endpoint.url if endpoint is not None else None)
            if url is None or disabled or self._draining:
                self._spawn(self._put_back(lane, claimed, 0.0))
                continue
            if endpoint is not None and is_too_old(
                claimed.message.written_at, self._webhooks.enabled_at(endpoint.id)
            ):
                self._spawn(self._expire(lane, claimed, endpoint))
                continue
            host = receiving_host(url)
            full = endpoint is None and lane.unfinished >= MAX_OF_SUBMITS
            if not full and self._hosts.begin(host, lane.begin, now):
                lane.unfinished += 1
                self._spawn(self._deliver(lane, claimed, endpoint, url, host))
            elif self._hosts.get(host).failing or now > claimed.until:
                self._spawn(self._put_back(lane, claimed, PUT_BACK_SECONDS * (1 + self._random())))
            elif endpoint is not None:
                lane.claimed.appendleft(claimed)
                break  # all of them are for the same host
            elif self._hosts.get(host).slow(now):
                # Others of this queue may be for receivers that answer.
                self._spawn(self._put_back(lane, claimed, PUT_BACK_SECONDS * (1 + self._random())))
            else:
                lane.claimed.append(claimed)
                self._claim_at(lane, now + 2 * SLOW_SECONDS)
        if lane.again and len(lane.claimed) < MAX_CLAIMED // 2:
            self._fill(lane)

    # One delivery

    async def _deliver(
        self, lane: DeliveryLane, claimed: ClaimedDelivery, endpoint: Webhook | None, url: str, host: str
    ) -> None:
        job, message = claimed.job, claimed.message
        body, at = message.body(job.offset), self._clock.time()
        secrets = endpoint.signing_secrets(at) if endpoint is not None else self._webhooks.submits.secrets
        late, began = False, self._clock.monotonic()
        try:
            answered = await self._sender.send(url, message.id, body, secrets)
            late = answered.late
            if answered.status == GONE and endpoint is not None:
                self._to_disable[endpoint.id] = Disabled.GONE  # before another attempt takes this one's place
                self._news.set()
        finally:
            lane.unfinished -= 1
            now = self._clock.monotonic()
            self._hosts.end(host, late=late, seconds=now - began, now=now)
            if lane.claimed and endpoint is None:
                lane.begin()
        result, next_at = self._judge(answered, job, message, at, endpoint)
        self._counts.attempted(result, answered.seconds)
        retry_at = 0
        if next_at is not None:
            delay = in_steps(next_at - self._clock.time())
            retry_at = self._ledger.now() + round(delay * _MICROSECONDS)
            self._claim_at(lane, self._clock.monotonic() + delay + _SLACK)
        if endpoint is not None:
            attempt = attempt_of(answered, message.id, message.type, at, result)
            logged = LoggedAttempt(attempt, message.task, next_at, body, written_at=message.written_at)
            self._webhooks.log.add(endpoint.id, logged)
            self._learn(endpoint, result)
        elif result in (AttemptResult.GONE, AttemptResult.EXPIRED):
            fields = {"task": message.task, "host": host, "reason": result.value}
            logger.warning("webhook of a submit given up", extra=fields)
        await self._finish(lane, job.id, retry_at)

    def _judge(
        self, answered: Answered, job: Job, message: DeliveryMessage, at: float, endpoint: Webhook | None
    ) -> tuple[AttemptResult, float | None]:
        """What came of an attempt, and when the next one is, Unix seconds."""
        if answered.delivered:
            return AttemptResult.DELIVERED, None
        if answered.status == GONE and endpoint is None:
            return AttemptResult.GONE, None
        delay = delay_after(job.attempts, self._random, answered.retry_after)
        next_at = next_attempt(message.written_at, self._clock.time(), at + delay)
        if answered.status == GONE:
            return AttemptResult.GONE, next_at  # it waits with the others until its endpoint is enabled
        return (AttemptResult.FAILED, next_at) if next_at is not None else (AttemptResult.EXPIRED, None)

    async def _expire(self, lane: DeliveryLane, claimed: ClaimedDelivery, endpoint: Webhook) -> None:
        """Give up a delivery that was too old when its endpoint was enabled."""
        job, message = claimed.job, claimed.message
        error = "it was more than 24 hours old when the webhook was enabled"
        attempt = Attempt(
            message.id, message.type, self._clock.time(), None, 0.0, error, AttemptResult.EXPIRED
        )
        self._webhooks.log.add(
            endpoint.id, LoggedAttempt(attempt, message.task, body=message.body(job.offset))
        )
        self._news.set()
        self._counts.dropped(1)
        await self._finish(lane, job.id, 0)

    def _learn(self, endpoint: Webhook, result: AttemptResult) -> None:
        if result is AttemptResult.DELIVERED:
            self._webhooks.succeeded(endpoint)
        elif result is not AttemptResult.GONE and self._webhooks.failed(endpoint):
            self._to_disable.setdefault(endpoint.id, Disabled.FAILING)
            self._news.set()

    async def _finish(self, lane: DeliveryLane, job: str, retry_at: int) -> None:
        """Note what came of a delivery, as long as it is ours."""
        until = self._clock.monotonic() + LEASE_SECONDS - BEGIN_SECONDS - ATTEMPT_SECONDS
        while True:
            try:
                await self._ledger.finish_job(lane.queue, job, retry_at=retry_at)
            except JournalError:
                if self._clock.monotonic() > until:
                    return
                await self._clock.sleep(RETRY_SECONDS)
            else:
                break
        if not retry_at:
            self._fill(lane)  # the next one of the same task

    async def _put_back(self, lane: DeliveryLane, claimed: ClaimedDelivery, delay: float) -> None:
        retry_at = self._ledger.now() + round(delay * _MICROSECONDS)
        try:
            await self._ledger.finish_job(lane.queue, claimed.job.id, retry_at=retry_at, attempted=False)
        except JournalError:
            return  # its lease ends
        if not self._draining:
            self._claim_at(lane, self._clock.monotonic() + max(in_steps(delay), RETRY_SECONDS))

    # All queues

    async def _check_queues(self) -> None:
        """Check all queues: how much waits, and where something may be due."""
        queues = self._webhooks.queues
        waiting: list[Waiting] = []
        for start in range(0, len(queues), _QUEUES_IN_A_CALL):
            waiting += await self._ledger.waiting(queues[start : start + _QUEUES_IN_A_CALL])
        halted = {queue for queue in queues if self._is_disabled(queue)}
        delivered = [one for queue, one in zip(queues, waiting, strict=True) if queue not in halted]
        oldest = min((one.oldest for one in delivered if one.jobs and one.oldest), default=0)
        age = max(self._ledger.now() - oldest, 0) / _MICROSECONDS if oldest else 0.0
        self._webhooks.figures = sum(one.jobs for one in waiting), age
        self._webhooks.endpoint_figures.waiting = dict(zip(queues, waiting, strict=True))
        hastened = set(queues) if self._is_restart() else self._hastened.intersection(queues)
        self._hastened -= hastened
        for queue, one in zip(queues, waiting, strict=True):
            if queue in hastened:
                self._lane(queue).early = one.jobs
        used = [queue for queue, one in zip(queues, waiting, strict=True) if one.jobs and queue not in halted]
        self._checked = self._checked + CHECKED_QUEUES if self._checked + CHECKED_QUEUES < len(used) else 0
        self._ready.update(dict.fromkeys(used[self._checked : self._checked + CHECKED_QUEUES]))
        self._ready.update(dict.fromkeys(queue for queue in used if queue in hastened))

    def _is_restart(self) -> bool:
        """Whether the service begins with this process: then nothing waits for the time of its next attempt.

        Those that used the ledger as this process started may be dead: then they are gone after their lease.
        """
        if self._elders is None:
            self._elders = frozenset(self._ledger.others)
            self._young_until = self._clock.monotonic() + YOUNG_SECONDS
        if self._clock.monotonic() > self._young_until or not self._elders.isdisjoint(self._ledger.others):
            return False
        self._young_until = 0.0
        return True

    async def _write(self) -> None:
        """Write what was learned of endpoints and attempts."""
        await self._webhooks.store_health()
        await self._webhooks.log.flush()

    async def _disable(self) -> None:
        if self._full:
            await self._judge_full(list(self._full))
            self._full.clear()
        while self._to_disable:
            name, reason = next(iter(self._to_disable.items()))
            endpoint = next((one for one in self._webhooks.endpoints() if one.id == name), None)
            if endpoint is not None and endpoint.disabled is None:
                await self._webhooks.disable(endpoint, reason)
            del self._to_disable[name]

    async def _judge_full(self, queues: Sequence[str]) -> None:
        """Some of these had no room: the ones that are full, or the fullest."""
        waiting = [one.jobs for one in await self._ledger.waiting(queues)]
        most = min(max(waiting), DEFAULT_JOB_LIMITS.jobs)
        for queue, jobs in zip(queues, waiting, strict=True):
            endpoint = self._webhooks.at(queue)
            if jobs < most:
                continue
            if endpoint is not None:
                enabled_at = self._webhooks.enabled_at(endpoint.id)
                if enabled_at is not None and self._clock.time() - enabled_at < FULL_GRACE_SECONDS:
                    continue
                self._to_disable.setdefault(endpoint.id, Disabled.FULL)
            else:
                logger.warning("too many webhooks of submits wait", extra={"queue": queue})

    async def _tried(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except JournalError as error:
            now = self._clock.monotonic()
            if self._waits_since is None:
                self._waits_since = now
            elif not self._waits and self._webhooks.used and now - self._waits_since > AWAY_SECONDS:
                self._waits = True
                logger.warning("deliveries wait for the journal", extra={"error": str(error)})
        else:
            self._waits, self._waits_since = False, None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._closed:  # what is cancelled makes room for others
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("unhandled exception in delivery", exc_info=error)
