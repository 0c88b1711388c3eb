"""Whether the provider shows a task to whoever asks for it: the provider is asked, with the asker's key.

Rule 1: nothing recorded is shown on the word of a key alone. A look with it, not long ago, is the proof.
Rule 2: one look proves it to all of the account who wait; what the watch sees anyway is not asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from bridge.clock import Clock
from bridge.core.task import TaskKey
from bridge.errors import (
    BridgeError,
    CredentialRefused,
    TaskNotFound,
    Unauthenticated,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
)
from bridge.sources.accounts import REFUSED_SENTENCE, AccountRegistry
from bridge.sources.poll import PollCache, poll
from bridge.sources.upstream import Upstream
from bridge.watchers.pool import Pool
from bridge.watchers.watcher import Watcher

WAIT_SECONDS = 60.0
CHECKED_SECONDS = 1.0
MAX_CACHED = 100_000

_NOT_YOURS = 403
_NEVER = float("-inf")
_TAKEN_BACK = (CredentialRefused, TaskNotFound)


class OwnershipVerifier:
    """Proves tasks to accounts.

    Args:
        seconds: How long what was proven counts.
        wait_seconds: How long a caller waits for a proof; it is gone on with for the next one.
    """

    def __init__(
        self, pool: Pool, accounts: AccountRegistry, clock: Clock, *, seconds: float, wait_seconds: float
    ) -> None:
        self._pool = pool
        self._accounts = accounts
        self._clock = clock
        self._seconds = seconds
        self._wait = wait_seconds
        self._shown_at: dict[TaskKey, float] = {}
        self._running: dict[TaskKey, asyncio.Task[None]] = {}

    async def unverified(self, keys: Sequence[TaskKey]) -> dict[TaskKey, BridgeError]:
        """Those of the tasks that may not be shown, and why.

        Raises:
            Unauthenticated: The provider does not take the key.
        """
        unproven = [key for key in keys if not self._fresh(key)]
        if not unproven:
            return {}
        proving = [self._proving(key) for key in unproven]
        await self._clock.wait(_all_done(proving), self._wait)
        unverified = {}
        for key, proof in zip(unproven, proving, strict=True):
            error = _outcome(proof)
            if isinstance(error, Unauthenticated):
                raise error
            if error is not None:
                unverified[key] = error
        return unverified

    async def close(self) -> None:
        """Stop asking."""
        for proof in list(self._running.values()):
            proof.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _fresh(self, key: TaskKey) -> bool:
        watcher, shown_at = self._pool.watcher(key), self._shown_at.get(key, _NEVER)
        if watcher is not None:
            if isinstance(watcher.error, _TAKEN_BACK):
                self._shown_at.pop(key, None)
                return False
            shown_at = max(shown_at, watcher.shown_at)
        if not self._accounts.accepts(key.upstream, key.account, shown_at):
            return False
        return self._clock.monotonic() - shown_at < self._seconds

    def _proving(self, key: TaskKey) -> asyncio.Task[None]:
        proof = self._running.get(key)
        if proof is None:
            proof = self._running[key] = asyncio.ensure_future(self._prove(key))
            proof.add_done_callback(partial(self._proved, key))
        return proof

    def _proved(self, key: TaskKey, proof: asyncio.Task[None]) -> None:
        self._running.pop(key, None)
        if not proof.cancelled():
            proof.exception()  # who asked may have gone: nobody misses it

    async def _prove(self, key: TaskKey) -> None:
        try:
            await self._look(key)
        except CredentialRefused as error:
            if error.provider_status == _NOT_YOURS:
                raise TaskNotFound("the upstream does not show this task") from None
            raise Unauthenticated(REFUSED_SENTENCE) from None
        self._accounts.mark_verified(key.account)
        self._keep(key)

    def _keep(self, key: TaskKey) -> None:
        now = self._clock.monotonic()
        if len(self._shown_at) >= MAX_CACHED:
            self._shown_at = {one: at for one, at in self._shown_at.items() if now - at < self._seconds}
        self._shown_at.pop(key, None)
        self._shown_at[key] = now
        if len(self._shown_at) > MAX_CACHED:
            del self._shown_at[next(iter(self._shown_at))]

    async def _look(self, key: TaskKey) -> None:
        """Be shown the task; the watch does it where one goes on."""
        self._pool.want(key)
        try:
            watcher = self._pool.watcher(key)
            assert watcher is not None
            began = self._clock.monotonic()
            await watcher.hydrate()
            if not watcher.ended:
                await self._next_look(watcher, began)
            if watcher.shown_at < began and watcher.ended:
                await self._confirm(watcher.upstream, key)
        finally:
            self._pool.unwant(key)

    async def _next_look(self, watcher: Watcher, began: float) -> None:
        """Wait for a look of the watch; what it met lately counts, until it is due to look again."""
        key = watcher.key
        while watcher.shown_at < began and not watcher.ended:
            self._pool.upstream(key.upstream, key.account)  # raises, once the key is refused or gone
            now, due = self._clock.monotonic(), watcher.watch.due
            if watcher.error is not None and not watcher.polling and (due is None or due > now):
                raise watcher.error.with_traceback(None)  # else it would grow with everybody who asks
            if now - began >= WAIT_SECONDS:
                raise UpstreamTimeout("the upstream did not show the task in time")
            if not watcher.polling and due is not None and due > now:
                watcher.poll_now(max(now, watcher.polled_at + watcher.upstream.pace.min_seconds))
            await watcher.wait_news(CHECKED_SECONDS)

    async def _confirm(self, upstream: Upstream, key: TaskKey) -> None:
        """One look at a task whose watch is over, within the budget."""
        now, limiter = self._clock.monotonic(), upstream.limiter
        free_at = limiter.free_at(now)
        if free_at is None or free_at > now + self._wait:
            raise UpstreamBusy("the budget of this key is used up", retry_after=(free_at or now + 1) - now)
        await self._clock.sleep(free_at - now)
        limiter.started(self._clock.monotonic())
        try:
            await poll(upstream, key.task_id, PollCache())
        except UpstreamError as error:
            limiter.failed(error, self._clock.monotonic())
            raise
        except BaseException:
            limiter.abandoned()
            raise
        limiter.succeeded()


def _all_done(proving: Sequence[asyncio.Task[None]]) -> asyncio.Event:
    """Set once the last of them is done."""
    done, left = asyncio.Event(), len(proving)

    def one_less(_: asyncio.Task[None]) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    for proof in proving:
        proof.add_done_callback(one_less)
    return done


def _outcome(proof: asyncio.Task[None]) -> BridgeError | None:
    if not proof.done():
        return UpstreamTimeout("the upstream has not shown the task yet", retry_after=1.0)
    error = None if proof.cancelled() else proof.exception()
    if error is None or isinstance(error, BridgeError):
        return error
    raise error
