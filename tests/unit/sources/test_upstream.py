"""What the calls of one credential say about the provider's state."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from bridge.core.rate_limit import CallKind
from bridge.errors import UpstreamError, UpstreamUnavailable
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
