"""What the calls of one credential say about the provider's state."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

import pytest

from bridge.core.rate_limit import CallKind
from bridge.errors import UpstreamBusy, UpstreamError, UpstreamUnavailable, UpstreamUnreachable
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


@pytest.mark.parametrize(
    ("kind", "pause", "sent"),
    [
        (CallKind.CREATE, 7.0, True),
        (CallKind.CREATE, 60.0, False),
        (CallKind.CONTROL, 7.0, False),
        (CallKind.CONTROL, 1.5, True),
    ],
)
async def test_a_submit_waits_for_the_end_of_a_short_pause_and_other_calls_two_seconds(
    upstream: Upstream, kind: CallKind, pause: float, *, sent: bool
) -> None:
    await call(upstream, CallKind.POLL, UpstreamBusy(retry_after=pause))
    clock = upstream.clock
    assert isinstance(clock, FakeClock)
    asked = [asyncio.create_task(call(upstream, kind)) for _ in range(3)]
    await clock.advance(30)
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [not isinstance(one, UpstreamUnreachable) for one in results] == [sent] * 3


async def test_a_submit_does_not_wait_where_the_provider_has_refused_one(upstream: Upstream) -> None:
    """It would be refused again after the wait, and until then its client knows of no task."""
    await call(upstream, CallKind.CREATE, UpstreamBusy(provider_status=503, retry_after=5))
    with pytest.raises(
        UpstreamUnreachable, match="accepts no new tasks at the moment; nothing was sent"
    ) as caught:
        await asyncio.wait_for(call(upstream, CallKind.CREATE), 1)
    assert caught.value.retry_after == 5
    assert await call(upstream, CallKind.POLL) is UpstreamState.VALID
