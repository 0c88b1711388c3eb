"""What the calls of one credential say about the provider's state."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import pytest

from bridge.core.rate_limit import CallKind, CredentialLimiter
from bridge.errors import (
    CredentialRefused,
    UpstreamBusy,
    UpstreamError,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from bridge.sources.upstream import Upstream, UpstreamState
from tests.fakes.clock import FakeClock
from tests.fakes.provider import FakeProvider, make_upstream

pytestmark = pytest.mark.anyio


@pytest.fixture
def upstream() -> Upstream:
    clock = FakeClock()
    return make_upstream(FakeProvider(clock), clock)


async def call(
    upstream: Upstream, kind: CallKind, error: UpstreamError | None = None, *, shown: bool = True
) -> UpstreamState:
    """The state after one call that ended so."""
    with nullcontext() if error is None else pytest.raises(type(error)):
        async with upstream.acquire(kind, task_id="t", shown=shown):
            if error is not None:
                raise error
    return upstream.health.state


async def test_an_id_never_shown_that_fails_beside_a_success_changes_nothing(upstream: Upstream) -> None:
    assert await call(upstream, CallKind.POLL) is UpstreamState.VALID
    failed = UpstreamUnavailable(provider_status=500)
    assert await call(upstream, CallKind.FIRST, failed, shown=False) is UpstreamState.VALID
    assert await call(upstream, CallKind.CREATE, failed) is UpstreamState.VALID
    assert await call(upstream, CallKind.POLL, failed) is UpstreamState.INTERRUPTED
    assert await call(upstream, CallKind.CREATE, failed) is UpstreamState.INTERRUPTED
    assert await call(upstream, CallKind.POLL) is UpstreamState.VALID


async def test_a_provider_that_never_answered_is_interrupted_by_its_first_failure(upstream: Upstream) -> None:
    failed = UpstreamUnavailable()
    assert await call(upstream, CallKind.FIRST, failed, shown=False) is UpstreamState.INTERRUPTED


def limited(clock: FakeClock, requests_per_second: float | None) -> Upstream:
    limiter = CredentialLimiter(max_in_flight=32, random=lambda: 0.5, requests_per_second=requests_per_second)
    return make_upstream(FakeProvider(clock), clock, budget=limiter)


async def test_a_create_that_only_the_rate_holds_up_waits_for_its_turn() -> None:
    clock = FakeClock()
    upstream = limited(clock, 0.2)
    await call(upstream, CallKind.CREATE)
    create = asyncio.create_task(call(upstream, CallKind.CREATE))
    await clock.advance(5)
    assert await create is UpstreamState.VALID


@pytest.mark.parametrize(
    "error",
    [
        UpstreamBusy(provider_status=503, retry_after=5),  # takes no new tasks
        UpstreamBusy(provider_status=429, retry_after=5),
        CredentialRefused(provider_status=401),
    ],
    ids=str,
)
async def test_a_create_does_not_wait_out_a_pause_of_the_provider(error: UpstreamError) -> None:
    """Its client would give up meanwhile, and could not know whether a task exists."""
    upstream = limited(FakeClock(), None)
    await call(upstream, CallKind.CREATE, error)
    with pytest.raises(UpstreamUnreachable, match="nothing was sent") as caught:
        await asyncio.wait_for(call(upstream, CallKind.CREATE), 1)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 5
