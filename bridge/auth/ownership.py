"""Ownership: whether the provider shows a task to an account; it is polled with the account's own key.

Rule 1: a task is shown only if the provider recently returned it for the caller's own key. A recorded state
        is never evidence: it may have been polled with another key.
Rule 2: one poll serves all concurrent callers of an account; what its watch polls is not polled twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from bridge.auth.caller import one_answer_for_missing
from bridge.clock import Clock
from bridge.core.rate_limit import CallKind
from bridge.core.task import TaskKey
from bridge.core.watch import MISSING_AGAIN_SECONDS
from bridge.errors import (
    BridgeError,
    CredentialRefused,
    TaskNotFound,
    Unauthenticated,
    UpstreamTimeout,
)
from bridge.sources.accounts import REFUSED_SENTENCE, AccountRegistry
from bridge.sources.poll import PollCache, poll
from bridge.sources.upstream import Upstream
from bridge.watchers.pool import Pool
from bridge.watchers.watcher import Watcher

POLL_TIMEOUT_SECONDS = 60.0
RECHECK_SECONDS = 1.0
MAX_CACHED = 100_000

_NOT_YOURS = 403
_NEVER = float("-inf")
_REVOKING = (CredentialRefused, TaskNotFound)


class OwnershipVerifier:
    """Verifies that accounts may see tasks, and caches the positive results.

    Args:
        seconds: How long a positive result is valid.
        wait_seconds: How long a caller waits for a result; the poll continues for the next caller.
    """

    def __init__(
        self, pool: Pool, accounts: AccountRegistry, clock: Clock, *, seconds: float, wait_seconds: float
    ) -> None:
        self._pool = pool
        self._accounts = accounts
        self._clock = clock
        self._seconds = seconds
        self._wait = wait_seconds
        self._verified_at: dict[TaskKey, float] = {}
        self._checks: dict[TaskKey, asyncio.Task[None]] = {}

    async def verify(self, keys: Sequence[TaskKey]) -> dict[TaskKey, BridgeError]:
        """The tasks that are not shown to their account, each with the reason.

        Cancellation: a check that has begun continues and fills the cache.

        Raises:
            Unauthenticated: The provider rejects the key.
        """
        unverified = [key for key in keys if not self.is_cached(key)]
        if not unverified:
            return {}
        checks = [self._check(key) for key in unverified]
        await self._clock.wait(_all_done(checks), self._wait)
        denied: dict[TaskKey, BridgeError] = {}
        for key, check in zip(unverified, checks, strict=True):
            if not check.done():
                denied[key] = UpstreamTimeout("the upstream has not confirmed the task yet", retry_after=1.0)
                continue
            error = None if check.cancelled() else check.exception()
            if isinstance(error, BridgeError) and not isinstance(error, Unauthenticated):
                denied[key] = error
            elif error is not None:
                raise error
        return denied

    def is_cached(self, key: TaskKey) -> bool:
        """Whether the provider returned the task for the account's key lately; sends nothing."""
        watcher, verified_at = self._pool.watcher(key), self._verified_at.get(key, _NEVER)
        if watcher is not None:
            # the watch polls with the same key: what it learned last counts, in either direction
            if isinstance(watcher.error, _REVOKING):
                self._verified_at.pop(key, None)
                return False
            verified_at = max(verified_at, watcher.shown_at)
        # a result from before the key was rejected does not count after the key is accepted again
        return self._counts(key, verified_at) and self._clock.monotonic() - verified_at < self._seconds

    def _counts(self, key: TaskKey, verified_at: float) -> bool:
        return self._accounts.accepts(key.upstream, key.account, verified_at)

    async def close(self) -> None:
        """Cancel all checks and wait for them."""
        for check in list(self._checks.values()):
            check.cancel()
        await asyncio.gather(*self._checks.values(), return_exceptions=True)

    def _check(self, key: TaskKey) -> asyncio.Task[None]:
        """The running check of a task, started if there is none."""
        check = self._checks.get(key)
        if check is None:
            check = self._checks[key] = asyncio.ensure_future(self._run_check(key))
            check.add_done_callback(partial(self._check_done, key))
        return check

    def _check_done(self, key: TaskKey, check: asyncio.Task[None]) -> None:
        self._checks.pop(key, None)
        if not check.cancelled():
            check.exception()  # all callers may have disconnected: asyncio must not log it as never retrieved

    async def _run_check(self, key: TaskKey) -> None:
        self._pool.want(key)
        try:
            watcher = self._pool.watcher(key)
            assert watcher is not None
            started_at = self._clock.monotonic()
            await watcher.hydrate()
            with one_answer_for_missing(key.account):
                if not watcher.ended:
                    await self._wait_for_poll(watcher, started_at)
                # the recorded end of a finished task is not evidence (rule 1), and its watch no longer polls
                if watcher.shown_at < started_at and watcher.ended:
                    await self._poll_finished(watcher.upstream, key)
        except CredentialRefused:
            raise Unauthenticated(REFUSED_SENTENCE) from None
        finally:
            self._pool.unwant(key)
        self._accounts.mark_verified(key.account)
        now = self._clock.monotonic()
        if len(self._verified_at) >= MAX_CACHED:
            self._verified_at = {
                cached: at for cached, at in self._verified_at.items() if now - at < self._seconds
            }
        # removed first, so that the dict stays in the order of the checks and its first entry is the oldest
        self._verified_at.pop(key, None)
        self._verified_at[key] = now
        if len(self._verified_at) > MAX_CACHED:
            del self._verified_at[next(iter(self._verified_at))]

    async def _wait_for_poll(self, watcher: Watcher, started_at: float) -> None:
        """Wait until the watch has polled the task; its last error counts until the next poll is due."""
        key = watcher.key
        while watcher.shown_at < started_at and not watcher.ended:
            self._pool.upstream(key.upstream, key.account)  # raises once the key is rejected or evicted
            now, due = self._clock.monotonic(), watcher.watch.due
            if not watcher.polls_here:
                # Another replica polls it with the same key: what that one was shown lately is evidence too.
                due = None
                if now - watcher.shown_at < self._seconds and self._counts(key, watcher.shown_at):
                    return
            if watcher.error is not None and not watcher.polling and (due is None or due > now):
                if watcher.polled_at >= started_at and _is_forbidden(watcher.error):
                    # As long as a 404 takes, which is asked for twice: the time must not reveal what exists.
                    await self._clock.sleep(MISSING_AGAIN_SECONDS + now - started_at)
                # without its traceback, which would grow with every caller that gets this exception
                raise watcher.error.with_traceback(None)
            if now - started_at >= POLL_TIMEOUT_SECONDS:
                raise UpstreamTimeout("the upstream did not confirm the task in time")
            # a poll that is due later is moved forward, but never below the provider's minimum interval
            if not watcher.polls_here:
                watcher.poll_now()
            elif not watcher.polling and due is not None and due > now:
                watcher.poll_now(max(now, watcher.polled_at + watcher.upstream.pace.min_seconds))
            await watcher.wait_news(RECHECK_SECONDS)

    async def _poll_finished(self, upstream: Upstream, key: TaskKey) -> None:
        """Poll a task whose watch has ended, once, within the rate limit of the key."""
        async with upstream.acquire(CallKind.POLL, task_id=key.task_id, shown=True, wait_seconds=self._wait):
            await poll(upstream, key.task_id, PollCache())


def _is_forbidden(error: BridgeError) -> bool:
    return isinstance(error, CredentialRefused) and error.provider_status == _NOT_YOURS


def _all_done(checks: Sequence[asyncio.Task[None]]) -> asyncio.Event:
    """An event that is set once all of them are done: what `Clock.wait` waits for in simulated time too."""
    done, pending = asyncio.Event(), len(checks)

    def count(_: asyncio.Task[None]) -> None:
        nonlocal pending
        pending -= 1
        if not pending:
            done.set()

    for check in checks:
        check.add_done_callback(count)
    return done
