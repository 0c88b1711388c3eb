"""Builds this process as one of several: its engine by the settings, its replica, and their metrics."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pydantic import SecretStr

from bridge import __version__
from bridge.clock import Clock
from bridge.config.settings import Settings
from bridge.core.shared_limit import SharedLimiter
from bridge.core.task import OWN_ACCOUNT
from bridge.engine.address import parse_address
from bridge.engine.base import ApplyOutcome, Engine
from bridge.engine.tls import client_tls
from bridge.errors import EngineUnavailable
from bridge.hub.hub import Hub
from bridge.replica.budget import SharedBudgets
from bridge.replica.connection import Connect, EngineTimes
from bridge.replica.replica import Replica
from bridge.replica.shared import SharedKnowledge
from bridge.sources.accounts import AccountRegistry
from bridge.sources.upstream import Upstream
from bridge.telemetry.engine_metrics import EngineMetrics

if TYPE_CHECKING:
    from bridge.engine.keeper.client import KeeperEngine

FIRST_SECONDS = 1.0
"""How long a start waits for the engine before it listens all the same."""

CENSUS_SECONDS = 5.0
ENGINE_SWEEP_SECONDS = 0.6
KEEPER_SWEEP_SECONDS = 0.2
POLL_SECONDS = 0.02

logger = logging.getLogger(__name__)


class KeptEngine:
    """The one connection of a worker to its keeper, which outlives every session of the replica."""

    def __init__(self, keeper: socket.socket, *, answer_seconds: float) -> None:
        self._keeper = keeper
        self._seconds = answer_seconds
        self._engine: KeeperEngine | None = None

    async def connect(self) -> Engine:
        """The same each time."""
        if self._engine is None:
            from bridge.engine.keeper.client import KeeperEngine  # noqa: PLC0415 - msgspec, for workers only

            self._engine = await KeeperEngine.open(self._keeper, answer_seconds=self._seconds)
        return self._engine

    async def close(self) -> None:
        """The keeper ends every session of this connection then."""
        if self._engine is not None:
            await self._engine.close()


def redis_connect(settings: Settings) -> Connect:
    """Opens the configured Valkey or Redis, again for each connection."""
    from bridge.engine.redis.connect import ServerAccess  # noqa: PLC0415 - the library, only where it is used
    from bridge.engine.redis.engine import RedisEngine  # noqa: PLC0415 - as above
    from bridge.engine.redis.link import EngineLimits  # noqa: PLC0415 - as above

    address = parse_address(settings.engine)
    access = ServerAccess(
        address=address,
        password=_revealed(settings.engine_password),
        sentinel_password=_revealed(settings.engine_sentinel_password),
        tls=client_tls(settings.engine_ca_file, settings.engine_certificate_file, settings.engine_key_file)
        if address.tls
        else None,
        timeout=settings.engine_timeout_seconds,
    )
    limits = EngineLimits(
        history=settings.engine_history,
        log=settings.engine_log,
        raw_bytes=settings.engine_raw_bytes,
        retention_seconds=settings.retention_seconds,
    )

    without_facts = False

    async def connect() -> Engine:
        nonlocal without_facts
        engine = RedisEngine(access, name=settings.engine_name, limits=limits)
        await engine.connect()
        if not engine.facts.product and not without_facts:
            without_facts = True  # said once, not with each connection
            logger.warning("engine does not permit INFO")
        return engine

    return connect


def make_replica(
    settings: Settings,
    clock: Clock,
    connect: Connect,
    accounts: Callable[[], AccountRegistry | None],
    *,
    closes: bool,
) -> Replica:
    """This process as one of several.

    Args:
        connect: Opens the engine.
        accounts: Of callers' keys, once there are any; None where the operator's keys poll.
        closes: Whether an engine is closed with its connection.
    """

    def names() -> list[str]:
        registry = accounts()
        return [OWN_ACCOUNT] if registry is None else registry.names

    return Replica(
        connect,
        clock,
        EngineTimes(
            lease=settings.engine_lease_seconds,
            timeout=settings.engine_timeout_seconds,
            alone=settings.engine_alone_seconds,
            # The keeper is in the next process, and a worker that died is known at once.
            claim_period=ENGINE_SWEEP_SECONDS if closes else KEEPER_SWEEP_SECONDS,
        ),
        linger=settings.linger_seconds,
        version=__version__,
        accounts=names,
        memory_bytes=settings.journal_cache_bytes,
        closes=closes,
    )


def report_replica(replica: Replica, metrics: EngineMetrics) -> None:
    """Let the metrics report about a replica, at the moment of a scrape."""
    connection = replica.connection
    connection.measure(metrics.called)
    metrics.connected.set_function(lambda: float(connection.up))
    metrics.lag_seconds.set_function(connection.lag_seconds)
    metrics.lease_seconds.set_function(connection.lease_seconds)
    metrics.unrecorded.set_function(lambda: replica.unrecorded)
    metrics.owned.set_function(lambda: replica.ownership.owned)
    metrics.replicas.set_function(lambda: len(connection.sessions))
    connection.counted.update(
        gaps=metrics.gaps.inc, epochs=metrics.epochs.inc, leases_lost=metrics.leases_lost.inc
    )
    replica.ownership.counted = metrics.adopted.inc
    replica.on_reapplied = lambda how: metrics.reapplied[how].inc()

    def judged(outcome: ApplyOutcome) -> None:
        metrics.applies[outcome.value].inc()

    replica.journal.judged = judged


async def watch_census(replica: Replica, metrics: EngineMetrics, clock: Clock) -> None:
    """Report what only the engine knows, every few seconds."""
    while True:
        try:
            census = await replica.connection.call("census", lambda engine: engine.census())
        except EngineUnavailable:
            pass  # the last figures stay
        else:
            metrics.orphans.set(census.orphans)
            metrics.oldest_orphan_seconds.set(census.oldest_orphan)
            metrics.memory_used.set(census.used)
            metrics.memory_limit.set(census.limit)
        await clock.sleep(CENSUS_SECONDS)


async def wait_first(replica: Replica, clock: Clock) -> None:
    """Wait for the engine for a moment, so that a start is not followed by errors; then listen all the same.

    Raises:
        EngineUnavailable: It was reached, and cannot be used as it is: another version, a wrong password.
    """
    connection = replica.connection
    until = clock.monotonic() + FIRST_SECONDS
    while not connection.reached and clock.monotonic() < until:
        await clock.sleep(POLL_SECONDS)
        failure = connection.failure
        if failure is not None and failure.lasting:
            raise failure


async def require_engine(
    replica: Replica, clock: Clock, seconds: float, failed: Callable[[EngineUnavailable], None]
) -> None:
    """Give up a start whose engine was not reached in time."""
    until = clock.monotonic() + seconds
    while not replica.connection.reached:
        if clock.monotonic() >= until:
            reason = replica.connection.last_error or "no answer"
            failed(EngineUnavailable(f"the engine was not reached within {seconds:g} s: {reason}"))
            return
        await clock.sleep(POLL_SECONDS)


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def share_among_replicas(
    replica: Replica | None,
    hub: Hub,
    upstreams: Mapping[str, Upstream],
    accounts: AccountRegistry | None,
    settings: Settings,
    clock: Clock,
) -> SharedKnowledge | None:
    """Share what this process knows and may do with the other replicas, before any upstream is used."""
    if replica is None:
        return None
    hub.share(replica.journal)
    knowledge = SharedKnowledge(replica, clock, retention_seconds=settings.retention_seconds)
    if accounts is not None:
        accounts.shared = True
        knowledge.share_refusals(accounts)
    budgets = SharedBudgets(replica, clock)

    def share(upstream: Upstream) -> None:
        budgets.share(upstream)
        knowledge.share(upstream)

    for name, upstream in upstreams.items():
        total = settings.upstreams[name].max_in_flight_total
        upstream.limiter = SharedLimiter.in_place_of(upstream.limiter, max_in_flight_total=total)
        share(upstream)
        upstream.shared = share
    return knowledge
