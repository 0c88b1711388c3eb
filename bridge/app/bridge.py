"""The composition root: settings in, an ASGI app out. The one place where concrete classes meet."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.app.auth import AuthComponents, build_auth, make_accounts
from bridge.auth.authenticator import Authenticator
from bridge.auth.origins import Origins
from bridge.clock import Clock, SystemClock
from bridge.config.settings import SQLITE, Settings, UpstreamSettings, dialect_of
from bridge.core.event import Closing
from bridge.core.rate_limit import CredentialLimiter
from bridge.core.schedule import Pace
from bridge.delivery.subscriptions import DeliverySettings, Subscriptions
from bridge.dialects.base import Dialect
from bridge.errors import JournalError
from bridge.hub.hub import Hub
from bridge.hub.maintenance import ConnectionMaintenance, MaintenanceSettings
from bridge.journal.base import Journal
from bridge.journal.memory import MemoryJournal
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.net import is_loopback
from bridge.sources.credentials import credential_of
from bridge.sources.http_client import Session
from bridge.sources.jwks import fetch_fal
from bridge.sources.signatures import make_verifier
from bridge.sources.upstream import Upstream
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.tracing import NO_TRACING, Tracing, make_tracing
from bridge.watchers.pool import Pool
from bridge.watchers.submitter import Submitter
from bridge.web.inspector import InspectorRoutes
from bridge.web.limits.client_address import ClientAddresses
from bridge.web.limits.limits import Limits, LimitSettings
from bridge.web.middleware.allowed_hosts import AllowedHostsMiddleware
from bridge.web.routes import Services, make_app, make_operations_app

LAG_PERIOD_SECONDS = 0.25
SAFETY_NET_INTERVALS = 6

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Parts:
    """What lives while the app runs."""

    subscriptions: Subscriptions
    sweep: ConnectionMaintenance
    pool: Pool
    metrics: Metrics
    journal: Journal
    access: AuthComponents


class Bridge:
    """The bridge as an ASGI app, with what its own server needs besides.

    Everything is built in the lifespan, on the loop that serves, and taken down in reverse.

    Attributes:
        served_by_us: Whether our own server listens, at the address the settings name.
        admin_port: Where it listens for operators alone; None where it does not.
        dead: Whether a bug ended what runs in the background.
        died: Called when that happens.
    """

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._app: ASGIApp | None = None
        self._operations: ASGIApp | None = None
        self._parts: _Parts | None = None
        self.served_by_us = False
        self.admin_port: int | None = None
        self.dead = False
        self.died: Callable[[], None] = _nothing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve. A lifespan must have begun, or `running` be entered by whoever mounts the app."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if self._app is None or self._operations is None:
            raise RuntimeError("enter Bridge.running() in the lifespan of the app that mounts it")
        app = self._operations if self._is_for_operators(scope) else self._app
        await app(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Build everything, run it, take it down."""
        for warning in self.settings.warnings:
            logger.warning("configuration warning", extra={"warning": warning})
        async with AsyncExitStack() as stack:
            parts = await self._build(stack)
            restored = await parts.pool.restore()
            if restored:
                logger.info("watching again what was open", extra={"tasks": restored})
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(parts.pool.run()),
                    group.create_task(parts.sweep.run()),
                    group.create_task(_measure_lag(self._clock, parts.metrics)),
                ]
                if parts.access.keys is not None:
                    tasks.append(group.create_task(parts.access.keys.run()))
                try:
                    yield
                finally:
                    for task in tasks:
                        task.cancel()
            self._parts = self._app = self._operations = None

    async def drain(self) -> None:
        """Take nothing new and end every stream, over `drain_seconds` at the most."""
        if self._parts is None or self._parts.subscriptions.closed is not None:
            return
        self._parts.subscriptions.closed = Closing.DRAIN
        await self._parts.sweep.drain(self.settings.drain_seconds)

    @property
    def open_streams(self) -> int:
        """Connections that have not ended."""
        return len(self._parts.subscriptions.hub.subscriptions) if self._parts is not None else 0

    @property
    def ended_streams(self) -> int:
        """Connections that have ended since the start."""
        return sum(self._parts.metrics.ended.values()) if self._parts is not None else 0

    async def _build(self, stack: AsyncExitStack) -> _Parts:
        settings, clock = self.settings, self._clock
        rng = random.Random().random  # noqa: S311 - for jitter; nothing is hidden by it
        metrics = Metrics(CollectorRegistry(), settings.upstreams)
        tracing = make_tracing(settings.otlp_endpoint, os.environ)
        stack.push_async_callback(tracing.close)
        if tracing is not NO_TRACING:
            metrics.trace_of = tracing.trace_of
        journal = await open_journal(settings, clock)
        stack.push_async_callback(journal.close)
        upstreams = {}
        for name, config in settings.upstreams.items():
            upstreams[name] = make_upstream(name, config, clock, metrics, tracing)
            stack.push_async_callback(upstreams[name].session.close)
        accounts = make_accounts(settings, upstreams, clock)
        pool = Pool(
            upstreams,
            journal,
            clock,
            metrics,
            random=rng,
            linger_seconds=settings.linger_seconds,
            accounts=accounts,
        )
        hub = Hub(pool, metrics, clock)
        journal.follow(hub)
        subscriptions = Subscriptions(
            hub, pool, journal, clock, metrics, random=rng, settings=_desk_settings(settings)
        )
        sweep = ConnectionMaintenance(hub, clock, rng, _sweep_settings(settings))
        submitter = Submitter(pool, journal, public_url=settings.public_url or None)
        stack.push_async_callback(submitter.close)
        limits = Limits(_limit_settings(settings), ClientAddresses(settings.trusted_proxies), clock, metrics)
        origins = Origins(settings.allowed_origins, cookies=settings.auth != "none")
        access = build_auth(settings, origins, limits, clock, pool, accounts)
        if access.ownership is not None:
            stack.push_async_callback(access.ownership.close)
        inspector = (
            InspectorRoutes(
                subscriptions,
                origins,
                limits,
                access.authenticator,
                keepalive_seconds=settings.keepalive_seconds,
            )
            if settings.inspector
            else None
        )
        rooms = Services(
            subscriptions=subscriptions,
            submitter=submitter,
            metrics=metrics,
            origins=origins,
            limits=limits,
            authenticator=access.authenticator,
            operators=access.operators or Authenticator(origins, clock),
            tickets=access.tickets,
            inspector=inspector,
        )
        apart = self.admin_port is not None or access.operators is None
        self._app = self._named(make_app(rooms, operations_apart=apart))
        self._operations = self._named(make_operations_app(rooms))
        self._parts = _Parts(subscriptions, sweep, pool, metrics, journal, access)
        return self._parts

    def _named(self, app: ASGIApp) -> ASGIApp:
        """Where nobody is asked who they are, loopback keeps out strangers, but not their pages."""
        settings = self.settings
        open_to_pages = self.served_by_us and settings.auth == "none" and is_loopback(settings.host)
        return (
            AllowedHostsMiddleware(app, settings.allowed_hosts)
            if open_to_pages or settings.allowed_hosts
            else app
        )

    def _is_for_operators(self, scope: Scope) -> bool:
        """By the socket the request came in at, which no client can choose."""
        if self.admin_port is None:
            return False
        return (scope.get("server") or ("", None))[1] == self.admin_port

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        started = False
        try:
            async with self.running():
                await send({"type": "lifespan.startup.complete"})
                started = True
                await receive()
        except JournalError as error:
            logger.error("the journal cannot be used: %s", error)  # noqa: TRY400 - the sentence says it all
            await send({"type": "lifespan.startup.failed", "message": ""})
        except asyncio.CancelledError:
            raise  # told to stop at once; a bug comes as what it is
        except BaseException as error:
            logger.exception("the bridge ended by a bug")
            self.dead = True
            self.died()  # a server that went on would be deaf, and nobody would notice
            if not started:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        else:
            await send({"type": "lifespan.shutdown.complete"})


async def open_journal(settings: Settings, clock: Clock) -> Journal:
    """The journal the operator wants.

    Raises:
        JournalError: It cannot be used, and why.
    """
    if settings.journal == "memory":
        return MemoryJournal(clock, retention_seconds=settings.retention_seconds)
    path = settings.journal.removeprefix(SQLITE)
    return await SqliteJournal.open(path, clock, retention_seconds=settings.retention_seconds)


def make_upstream(
    name: str, config: UpstreamSettings, clock: Clock, metrics: Metrics, tracing: Tracing
) -> Upstream:
    """One provider as the operator wants it; what they leave open the preset says."""
    dialect = dialect_of(name, config)
    key = _revealed(config.api_key) or ""
    return Upstream(
        name=name,
        dialect=dialect,
        session=Session(
            config.base_url or dialect.base_url,
            credential=credential_of(dialect, key, clock),
            hosts=None if config.base_url else dialect.hosts,
            timeout_seconds=config.timeout_seconds,
            connections=config.max_in_flight + config.max_streams,
        ),
        limiter=CredentialLimiter(
            max_in_flight=config.max_in_flight,
            random=random.random,
            requests_per_second=config.requests_per_second,
        ),
        pace=make_pace(config, dialect),
        clock=clock,
        metrics=metrics,
        deadline_seconds=config.task_deadline_seconds,
        submit_timeout_seconds=config.submit_timeout_seconds,
        callback_secret=_revealed(config.callback_secret),
        verifier=make_verifier(
            dialect.callback_signature, _revealed(config.callback_signing_key), clock, fetch_fal
        ),
        max_streams=config.max_streams,
        tracing=tracing,
    )


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def make_pace(config: UpstreamSettings, dialect: Dialect) -> Pace:
    """The operator's bounds around the provider's advice."""
    least = config.poll_min_seconds or min(dialect.poll.min_seconds, config.poll_max_seconds or float("inf"))
    most = max(config.poll_max_seconds or dialect.poll.max_seconds, least)
    return Pace(
        min_seconds=least,
        max_seconds=most,
        recommended_seconds=min(max(dialect.poll.recommended_seconds, least), most),
        safety_net_seconds=most * SAFETY_NET_INTERVALS,
    )


def _desk_settings(settings: Settings) -> DeliverySettings:
    return DeliverySettings(
        first_state_timeout_seconds=settings.first_state_timeout_seconds,
        max_connection_age_seconds=settings.max_connection_age_seconds,
        sync_wait_seconds=settings.sync_wait_seconds,
        max_tasks_per_connection=settings.max_tasks_per_connection,
        max_body_bytes=settings.max_body_bytes,
        max_submission_bytes=settings.max_submission_bytes,
    )


def _limit_settings(settings: Settings) -> LimitSettings:
    return LimitSettings(
        connections=settings.max_connections,
        connections_per_address=settings.max_connections_per_address,
        connections_per_caller=settings.max_connections_per_caller,
        streams_per_second_per_address=settings.max_streams_per_second_per_address,
        streams_per_second_per_caller=settings.max_streams_per_second_per_caller,
        watches_per_caller=settings.max_watches_per_caller,
        submits_per_minute_per_caller=settings.max_submits_per_minute_per_caller,
        new_keys_per_minute_per_address=settings.max_new_keys_per_minute_per_address,
    )


def _sweep_settings(settings: Settings) -> MaintenanceSettings:
    return MaintenanceSettings(
        keepalive_seconds=settings.keepalive_seconds,
        write_timeout_seconds=settings.write_timeout_seconds,
        period_seconds=min(1.0, settings.keepalive_seconds / 2, settings.max_connection_age_seconds / 10),
    )


def _nothing() -> None:
    """Nobody asked to be told."""


async def _measure_lag(clock: Clock, metrics: Metrics) -> None:
    while True:
        before = clock.monotonic()
        await clock.sleep(LAG_PERIOD_SECONDS)
        metrics.loop_lag_seconds.observe(max(clock.monotonic() - before - LAG_PERIOD_SECONDS, 0.0))
