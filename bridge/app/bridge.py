"""The composition root: builds the ASGI app from the settings; only here concrete classes meet."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.app.auth import AuthComponents, build_auth, make_accounts
from bridge.app.learned import keep_learned, report_unkept
from bridge.app.outputs import build_copies
from bridge.app.replicas import (
    KeptEngine,
    make_replica,
    redis_connect,
    report_replica,
    require_engine,
    share_among_replicas,
    wait_first,
    watch_census,
)
from bridge.app.spend import build_spend
from bridge.app.webhooks import Shared, build_webhooks
from bridge.auth.authenticator import NoAuth
from bridge.auth.origins import Origins
from bridge.clock import Clock, SystemClock
from bridge.config.certificate import CertificateFiles, UnusablePair
from bridge.config.effective import longest_submit, poll_interval, task_deadline
from bridge.config.keys import missing_keys
from bridge.config.limits import Profile
from bridge.config.settings import SQLITE, Settings, UpstreamSettings, dialect_of
from bridge.core.event import Closing
from bridge.core.loop_time import LoopTime
from bridge.core.quota import Lingering
from bridge.core.rate_limit import CredentialLimiter
from bridge.core.schedule import Pace
from bridge.delivery.groups import Groups
from bridge.delivery.longpoll import LongPolls
from bridge.delivery.selections import Selections
from bridge.delivery.subscriptions import Subscriptions
from bridge.dialects.hosts import Hosts
from bridge.engine.ledger import Ledger
from bridge.errors import ConfigError, EngineUnavailable, JournalError
from bridge.hub.hub import Hub
from bridge.hub.maintenance import ConnectionMaintenance
from bridge.journal.base import Journal
from bridge.journal.jobs import JobRunner
from bridge.journal.memory import MemoryJournal
from bridge.journal.planners import Planners
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.net import is_loopback
from bridge.outputs.copies import Copies
from bridge.outputs.source import OutputSource
from bridge.replica.connection import Connect
from bridge.replica.ledger import SharedLedger
from bridge.replica.replica import Replica
from bridge.sources.accounts import AccountRegistry
from bridge.sources.body_memory import DEFAULT_MAX_BODY, BodyLimit, BodyMemory
from bridge.sources.credentials import Credential, RotatingCredential, credential_of
from bridge.sources.guard import private_hosts_of
from bridge.sources.http_client import Session
from bridge.sources.jwks import fetch_fal
from bridge.sources.key_file import KeyFile
from bridge.sources.outbound import OutboundClient
from bridge.sources.revoked_tokens import RevokedTokens
from bridge.sources.signatures import make_verifier
from bridge.sources.upstream import Upstream, mark_of_key
from bridge.telemetry.logs import keep_from_logs
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.summing import snapshot
from bridge.telemetry.tracing import NO_TRACING, Tracing, make_tracing
from bridge.watchers.key_rotation import KeyRotation
from bridge.watchers.pool import Pool
from bridge.watchers.submitter import Submitter
from bridge.web.health import HealthRoutes
from bridge.web.limits.client_address import ClientAddresses
from bridge.web.limits.limits import Limits
from bridge.web.listing import watched_here
from bridge.web.middleware.allowed_hosts import OPERATIONS, AllowedHostsMiddleware
from bridge.web.open_requests import OpenRequests
from bridge.web.routes import make_app, make_operations_app
from bridge.web.services import Services
from bridge.web.workers import WatchRow, Workers
from bridge.webhooks.deliverer import Deliverer
from bridge.webhooks.sender import ATTEMPT_SECONDS

LAG_PERIOD_SECONDS = 0.25
REVOKED_PERIOD_SECONDS = 1.0
CERTIFICATE_PERIOD_SECONDS = 1.0
THRIFT = {"fewer": 3.0, "balanced": 2.0, "sooner": 1.0}
SAFETY_NET_INTERVALS = 6  # polls at this multiple of the longest interval while a stream or callbacks report

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Parts:
    """What exists while the app runs."""

    subscriptions: Subscriptions
    maintenance: ConnectionMaintenance
    pool: Pool
    metrics: Metrics
    journal: Journal
    auth: AuthComponents
    rotations: list[KeyRotation]
    services: Services
    deliverer: Deliverer
    job_runners: Sequence[JobRunner]
    copies: Copies | None


class Bridge:
    """The bridge as an ASGI app.

    Everything is built in the lifespan, on the event loop that serves requests, and closed in reverse order.
    To mount it in another app, enter `running()` in that app's lifespan.

    Args:
        rng: Returns 0-1, for jitter; one of its own without.

    Attributes:
        served_by_us: Whether `bridge.server` serves it, at the address in the settings.
        admin_port: Port of the separate admin listener; None without one.
        certificate: What `bridge.server` serves TLS with; None without.
        dead: Whether a background task ended with an unhandled exception.
        died: Called when that happens.
        journal_error: Why the journal could not be used at the start; None unless it was that.
        worker: Its number among the workers, from 1; 0 if this process is the whole service.
        keeper: The connection to the keeper, which holds what workers share; None without.
        workers: What can be asked about all workers; None without.
        replaced: Whether it drains because another process takes its place: the service stays ready.
        connect: Opens the engine that it shares with others, set before it runs; None for the one in the
            settings.
        replica: This process as one of several, while it runs; None if it is alone.
    """

    def __init__(
        self, settings: Settings, *, clock: Clock | None = None, rng: Callable[[], float] | None = None
    ) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._rng = rng
        self._app: ASGIApp | None = None
        self._operations: ASGIApp | None = None
        self._parts: _Parts | None = None
        self._metrics: Metrics | None = None
        self._health: HealthRoutes | None = None
        self.served_by_us = False
        self.admin_port: int | None = None
        self.certificate: CertificateFiles | None = None
        self.dead = False
        self.died: Callable[[], None] = _nothing
        self.journal_error: JournalError | None = None
        self.worker = 0
        self.keeper: socket.socket | None = None
        self.replaced = False
        self.workers: Workers | None = None
        self.connect: Connect | None = None
        self.replica: Replica | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection.

        Raises:
            RuntimeError: Neither the lifespan has started nor has `running()` been entered.
        """
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if self._app is None or self._operations is None:
            raise RuntimeError("enter Bridge.running() in the lifespan of the app that mounts it")
        # The listener decides, by its port: a client can forge every header, but not the port it reached.
        server_port = (scope.get("server") or ("", None))[1]
        is_admin = self.admin_port is not None and server_port == self.admin_port
        app = self._operations if is_admin else self._app
        await app(scope, receive, send)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:  # noqa: C901 - one task after the other
        """Build everything, run the background tasks, and close everything at exit.

        An unhandled exception of a background task ends the context with an `ExceptionGroup`.
        """
        for warning in self.settings.warnings:
            logger.warning("deprecated configuration", extra={"warning": warning})
        for name, sentence in missing_keys(self.settings).items():
            logger.warning("API key missing", extra={"upstream": name, "error": sentence})
        report_unkept(self.settings)
        async with AsyncExitStack() as stack:
            parts = await self._build(stack)
            replica = self.replica
            with _uncollected():
                restored = await parts.pool.restore()
            if restored:
                logger.info("resumed open tasks", extra={"tasks": restored})
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(parts.pool.run()),
                    group.create_task(parts.maintenance.run()),
                    group.create_task(_measure_lag(self._clock, parts.metrics)),
                    group.create_task(parts.deliverer.run()),
                ]
                tasks += [group.create_task(rotation.run()) for rotation in parts.rotations]
                if parts.copies is not None:
                    tasks.append(group.create_task(parts.copies.run()))
                tasks += [group.create_task(runner.run()) for runner in parts.job_runners]
                if parts.auth.revoked is not None:
                    watching = _watch_revoked(parts.auth.revoked, parts.subscriptions, self._clock)
                    tasks.append(group.create_task(watching))
                if self.certificate is not None:
                    watching = _watch_certificate(self.certificate, self._clock)
                    tasks.append(group.create_task(watching))
                if parts.auth.keys is not None:
                    tasks.append(group.create_task(parts.auth.keys.run()))
                try:
                    if replica is not None:
                        tasks += self._run_replica(replica, parts.metrics, group)
                        await wait_first(replica, self._clock)
                    yield
                finally:
                    if replica is not None:
                        await self._leave(replica, parts.services)
                    for task in tasks:
                        task.cancel()
            self._parts = self._app = self._operations = self.replica = None

    def _run_replica(
        self, replica: Replica, metrics: Metrics, group: asyncio.TaskGroup
    ) -> list[asyncio.Task[None]]:
        tasks = [group.create_task(replica.run())]
        if metrics.engine is not None:
            tasks.append(group.create_task(watch_census(replica, metrics.engine, self._clock)))
        required = self.settings.engine_required_seconds
        if required:
            tasks.append(group.create_task(require_engine(replica, self._clock, required, self._give_up)))
        return tasks

    async def _leave(self, replica: Replica, services: Services) -> None:
        if services.knowledge is not None:
            await services.knowledge.flush()
        await replica.leave()

    def _give_up(self, error: EngineUnavailable) -> None:
        self.journal_error, self.dead = error, True
        logger.error("engine required", extra={"error": str(error)})
        self.died()

    async def drain(self) -> None:
        """Reject new connections, end the open ones over `drain_seconds`, and see submits through.

        Submits have the longest `submit_timeout_seconds`; streams do not wait for them, nor they for streams.
        """
        if self._parts is None or self._parts.subscriptions.closed is not None:
            return
        services = self._parts.services
        services.subscriptions.closed = Closing.DRAIN
        services.longpolls.end()
        copies = self._parts.copies
        if copies is not None:
            # Ends that wait for copies are recorded now, before their tasks are handed over.
            copies.copier.drain()
            await self._parts.pool.finish_ends()
        if self.replica is not None:
            # First: who resumes elsewhere finds its tasks polled there.
            await self.replica.drain()
        results = await asyncio.gather(
            self._parts.maintenance.drain(self.settings.drain_seconds),
            services.submitter.drain(longest_submit(self.settings)),
            self._parts.deliverer.drain(min(ATTEMPT_SECONDS, self.settings.drain_seconds)),
            *([copies.drain(self.settings.drain_seconds)] if copies is not None else ()),
            *(runner.drain(self.settings.drain_seconds) for runner in self._parts.job_runners),
            return_exceptions=True,  # or the failure of one would cut the other short
        )
        for error in results:
            if error is not None:
                raise error

    async def finish_requests(self, seconds: float, last_seconds: float) -> None:
        """Wait for the requests that are open now, then answer those that are left, at once.

        Args:
            seconds: The longest wait.
            last_seconds: The longest wait for those answers, and later for calls that still run.
        """
        if self._parts is None:
            return
        requests = self._parts.services.open_requests
        self._parts.services.longpolls.end()
        await requests.wait(seconds)
        self.interrupt_requests(last_seconds)
        await requests.wait(last_seconds)

    def interrupt_requests(self, last_seconds: float) -> None:
        """Answer every open request now, and send no submit that was not sent yet.

        Args:
            last_seconds: How long calls to providers that still run are waited for at the end.
        """
        if self._parts is not None:
            self._parts.services.submitter.stop(last_seconds)
            self._parts.services.open_requests.interrupt()

    async def snapshot(self) -> bytes:
        """What was counted and measured so far, also after the end; empty before the start."""
        return await snapshot(self._metrics) if self._metrics is not None else b""

    def status(self) -> dict[str, object]:
        """What `/status` says of this process alone; empty before the start."""
        return self._health.own_status() if self._health is not None else {}

    def watches(self) -> list[WatchRow]:
        """What this process watches, for the page that another worker serves."""
        return watched_here(self._parts.pool, self._clock) if self._parts is not None else []

    @property
    def open_streams(self) -> int:
        """Number of open streams, WebSockets and long-polls."""
        return len(self._parts.subscriptions.hub.subscriptions) if self._parts is not None else 0

    @property
    def ended_streams(self) -> int:
        """Number of connections closed since the start."""
        return sum(self._parts.metrics.ended.values()) if self._parts is not None else 0

    async def _build(self, stack: AsyncExitStack) -> _Parts:  # noqa: PLR0915 - one part after the other
        settings, clock = self.settings, self._clock
        # Made here and not earlier: workers are forked, and one state would give them all the same jitter.
        rng = self._rng or random.Random().random  # noqa: S311 - for jitter only
        metrics, tracing = self._make_metrics(stack)
        registries: list[AccountRegistry] = []
        replica = self._make_replica(metrics, lambda: registries[0] if registries else None, stack)
        journal, ledger = await self._open_storage(replica, stack)
        upstreams = {}
        sizes = [config.max_response_bytes for config in settings.upstreams.values()]
        bodies, loop_time = BodyMemory(largest=max(sizes, default=DEFAULT_MAX_BODY)), LoopTime()
        files: dict[str, tuple[KeyFile, RotatingCredential]] = {}
        for name, config in settings.upstreams.items():
            credential = None
            if config.api_key_file is not None and settings.auth != "upstream-key":
                files[name] = _open_key_file(name, config, clock)
                credential = files[name][1]
            upstreams[name] = make_upstream(
                name,
                config,
                clock,
                metrics,
                tracing,
                bodies,
                credential=credential,
                loop_time=loop_time,
                private_hosts=private_hosts_of(settings.private_hosts),
            )
            stack.push_async_callback(upstreams[name].session.close)
        keep_learned(journal, upstreams)
        accounts = make_accounts(settings, upstreams, clock)
        registries += [accounts] if accounts is not None else []
        pool = Pool(
            upstreams,
            journal,
            clock,
            metrics,
            random=rng,
            linger_seconds=settings.linger_seconds,
            lingering=Lingering(
                settings.max_lingering_watches,
                settings.max_lingering_watches_per_caller,
                settings.max_lingering_watches_per_address,
            ),
            accounts=accounts,
            ownership=replica.ownership if replica is not None else None,
        )
        # /status lists them to the same callers; callers of other modes learn only of what is theirs
        pool.names_upstreams = settings.auth == "none"
        hub = Hub(pool, journal, metrics, clock)
        sharing = share_among_replicas(replica, hub, upstreams, accounts, settings, clock)
        journal.follow(hub)
        journal.follow_index(pool)
        subscriptions = Subscriptions(hub, pool, journal, clock, metrics, random=rng, settings=settings)
        maintenance = ConnectionMaintenance(hub, clock, rng, settings)
        shared = Shared(journal, Planners(journal), ledger, replica)
        spend = build_spend(settings, upstreams, shared, clock)
        submitter = Submitter(pool, journal, callback_url=settings.called_back_at or None, spend=spend.limits)
        stack.push_async_callback(submitter.close)
        exposed = settings.limits is Profile.EXPOSED
        limits = Limits(settings, ClientAddresses(settings.trusted_proxies, detect=exposed), clock, metrics)
        origins = Origins(settings.allowed_origins)
        auth = build_auth(settings, origins, limits, clock, pool, accounts, journal)
        if auth.ownership is not None:
            stack.push_async_callback(auth.ownership.close)
        webhooks, deliverer, late = await build_webhooks(
            settings, shared, metrics, clock, loop_time, stack, rng=rng
        )
        submitter.ended_before = late.deliver
        source = _output_source(settings, loop_time, stack)
        copies = await build_copies(settings, shared, pool, source, metrics, clock, stack, rng=rng)
        if copies is not None and settings.outputs.links_in_use == "signed":
            subscriptions.renew_links = copies.copier.renew_links
        groups = Groups(ledger, kept_seconds=_group_seconds(settings))
        selections = Selections(subscriptions, groups, auth.authenticator)
        stack.push_async_callback(selections.close)
        services = Services(
            settings=settings,
            clock=clock,
            certificate=self.certificate,
            metrics=metrics,
            journal=journal,
            ledger=ledger,
            webhooks=webhooks,
            copies=copies,
            pool=pool,
            hub=hub,
            subscriptions=subscriptions,
            selections=selections,
            groups=groups,
            longpolls=LongPolls(subscriptions),
            submitter=submitter,
            open_requests=OpenRequests(subscriptions),
            origins=origins,
            limits=limits,
            authenticator=auth.authenticator,
            operators=auth.operators or NoAuth(clock),
            tickets=auth.tickets,
            output_source=source,
            output_store=copies.store if copies is not None else None,
            workers=self.workers,
            replaced=lambda: self.replaced,
            replica=replica,
            knowledge=sharing,
            spend=spend.limits,
        )
        self._metrics, self._health = metrics, HealthRoutes(services)
        separate = self.admin_port is not None or auth.operators is None
        for_all = auth.operators is None or settings.auth == "none"
        self._app = self._with_host_check(make_app(services, operations_apart=separate), operations=for_all)
        self._operations = self._with_host_check(make_operations_app(services), operations=for_all)
        rotations = [
            KeyRotation(
                upstreams[name], file, sent, replaced=pool.key_replaced, keep_from_logs=keep_from_logs
            )
            for name, (file, sent) in files.items()
        ]
        self._parts = _Parts(
            subscriptions,
            maintenance,
            pool,
            metrics,
            journal,
            auth,
            rotations,
            services,
            deliverer,
            spend.runners,
            copies,
        )
        return self._parts

    def _make_metrics(self, stack: AsyncExitStack) -> tuple[Metrics, Tracing]:
        units = {name: dialect_of(name, config).cost_unit for name, config in self.settings.upstreams.items()}
        metrics = Metrics(CollectorRegistry(), self.settings.upstreams, units)
        if self.certificate is not None:
            served = self.certificate
            metrics.report_certificate(lambda: served.current.valid_until)
        tracing = make_tracing(self.settings.otlp_endpoint, os.environ)
        stack.push_async_callback(tracing.close)
        if tracing is not NO_TRACING:
            metrics.trace_of = tracing.trace_of
        return metrics, tracing

    async def _open_storage(self, replica: Replica | None, stack: AsyncExitStack) -> tuple[Journal, Ledger]:
        if replica is not None:
            stack.push_async_callback(replica.journal.close)
            return replica.journal, SharedLedger(replica, self._clock)
        journal = await open_journal(self.settings, self._clock)
        stack.push_async_callback(journal.close)
        return journal, journal.ledger

    def _make_replica(
        self, metrics: Metrics, accounts: Callable[[], AccountRegistry | None], stack: AsyncExitStack
    ) -> Replica | None:
        """This process as one of several, if it is."""
        settings = self.settings
        if self.connect is not None:
            connect, closes = self.connect, True
        elif self.keeper is not None:
            kept = KeptEngine(self.keeper, answer_seconds=settings.engine_timeout_seconds)
            stack.push_async_callback(kept.close)
            connect, closes = kept.connect, False
        elif settings.has_shared_engine:
            connect, closes = redis_connect(settings), True
        else:
            return None
        self.replica = make_replica(settings, self._clock, connect, accounts, closes=closes)
        report_replica(self.replica, metrics.report_engine())
        return self.replica

    def _with_host_check(self, app: ASGIApp, *, operations: bool) -> ASGIApp:
        """The app behind the check of `Host`.

        Args:
            operations: Whether it serves `/status` and `/metrics` without a credential.
        """
        # Without authentication, a loopback address keeps other machines out, but not web pages in a browser
        # on this one: DNS rebinding makes them same-origin. Checking `Host` stops that.
        settings = self.settings
        open_to_pages = self.served_by_us and settings.auth == "none" and is_loopback(settings.host)
        if open_to_pages or settings.allowed_hosts:
            return AllowedHostsMiddleware(app, settings.allowed_hosts)
        # Elsewhere a proxy may do both, for clients; what operators read is never for a web page.
        return AllowedHostsMiddleware(app, (), paths=OPERATIONS) if operations else app

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        started = False
        try:
            async with self.running():
                await send({"type": "lifespan.startup.complete"})
                started = True
                await receive()
        except JournalError as error:
            self.journal_error = error
            # An operational error with a clear cause: a traceback would only bury the message.
            logger.error("journal cannot be used", extra={"error": str(error)})  # noqa: TRY400
            await send({"type": "lifespan.startup.failed", "message": ""})
        except asyncio.CancelledError:
            raise  # a forced stop, not a failure
        except BaseException as error:
            logger.exception("unhandled exception in bridge")
            self.dead = True
            # Without its background tasks the server would still accept connections and never send a state.
            self.died()
            if not started:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        else:
            await send({"type": "lifespan.shutdown.complete"})


async def open_journal(settings: Settings, clock: Clock) -> MemoryJournal | SqliteJournal:
    """Open the configured journal.

    Raises:
        JournalError: It cannot be used, and why.
    """
    if settings.journal == "memory":
        return MemoryJournal(
            clock, retention_seconds=settings.retention_seconds, max_bytes=settings.journal_cache_bytes
        )
    path = settings.journal.removeprefix(SQLITE)
    return await SqliteJournal.open(
        path,
        clock,
        retention_seconds=settings.retention_seconds,
        newest_bytes=settings.journal_cache_bytes,
    )


def open_certificate(settings: Settings) -> CertificateFiles | None:
    """The certificate of the server with its key; None without TLS.

    Raises:
        ConfigError: They were usable when the settings were read, and are no longer.
    """
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    try:
        return CertificateFiles(settings.tls_certificate_file, settings.tls_key_file)
    except UnusablePair as error:
        raise ConfigError([f"{error.setting}: {error}"]) from None


@contextmanager
def _uncollected() -> Iterator[None]:
    """What is created here stays: to search it for garbage again and again would take half of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _output_source(settings: Settings, loop_time: LoopTime, stack: AsyncExitStack) -> OutputSource:
    client = OutboundClient(settings.private_hosts, loop_time=loop_time)
    stack.push_async_callback(client.close)
    return OutputSource(client)


def make_upstream(  # noqa: PLR0913 - what all upstreams share, each by name
    name: str,
    config: UpstreamSettings,
    clock: Clock,
    metrics: Metrics,
    tracing: Tracing,
    bodies: BodyMemory | None = None,
    *,
    credential: Credential | None = None,
    loop_time: LoopTime | None = None,
    private_hosts: Hosts | None = None,
) -> Upstream:
    """One provider, from its settings and its dialect.

    Args:
        bodies: Memory for reading responses, shared by all upstreams; None for its own.
        credential: Replaces the key in the settings.
        loop_time: The time of the event loop for what providers send, shared likewise.
        private_hosts: The setting; None for no host.
    """
    dialect = dialect_of(name, config)
    key = _revealed(config.api_key) or ""
    shortest, longest = poll_interval(config, dialect)
    upstream = Upstream(
        name=name,
        dialect=dialect,
        session=Session(
            config.base_url or dialect.base_url,
            credential=credential or credential_of(dialect, key, clock),
            # With a base URL of the operator every call goes there, regardless of the hosts in the dialect.
            hosts=None if config.base_url else dialect.hosts,
            timeout_seconds=config.timeout_seconds,
            # Status calls never wait for a connection: the limiter counts the calls of each kind apart.
            connections=config.max_in_flight + config.max_streams,
            bodies=BodyLimit(config.max_response_bytes, bodies or BodyMemory()),
            on_lenient=metrics.lenient_readings.labels(name).inc,
            secrets=_callback_secrets(config),
            loop_time=loop_time,
            private_hosts=private_hosts or Hosts(()),
        ),
        limiter=CredentialLimiter(
            max_in_flight=config.max_in_flight,
            random=random.random,
            requests_per_second=config.requests_per_second,
            max_submits_in_flight=config.max_submits_in_flight,
            max_streams=config.max_streams,
            interval=longest,
            key_name=f"the bridge's key for the upstream {name!r}",
            off=not config.enabled,
        ),
        pace=Pace(
            min_seconds=shortest,
            max_seconds=longest,
            recommended_seconds=min(max(dialect.poll.recommended_seconds, shortest), longest),
            safety_net_seconds=longest * SAFETY_NET_INTERVALS,
            thrift=THRIFT[config.poll_economy],
            usual_seconds=min(max(dialect.poll.usual_seconds, shortest), longest),
        ),
        clock=clock,
        metrics=metrics,
        deadline_seconds=task_deadline(config, dialect),
        submit_timeout_seconds=config.submit_timeout_seconds,
        callback_secret=_revealed(config.callback_secret),
        verifier=make_verifier(
            dialect.callback_signature, _revealed(config.callback_signing_key), clock, fetch_fal
        ),
        max_streams=config.max_streams,
        tracing=tracing,
    )
    upstream.key_mark = mark_of_key(key)
    return upstream


def _group_seconds(settings: Settings) -> float:
    """How long a closed group is remembered: until its last task has ended and is no longer retained."""
    deadlines = [
        task_deadline(config, dialect_of(name, config)) for name, config in settings.upstreams.items()
    ]
    return settings.retention_seconds + max((seconds or 0.0 for seconds in deadlines), default=0.0)


def _open_key_file(name: str, config: UpstreamSettings, clock: Clock) -> tuple[KeyFile, RotatingCredential]:
    assert config.api_key_file is not None
    dialect = dialect_of(name, config)
    file = KeyFile(name, config.api_key_file, dialect)
    # A file without a key yet is reported by `missing_keys`; the key may come later.
    file.read()
    keep_from_logs(file.key)
    return file, RotatingCredential(credential_of(dialect, file.key, clock))


def _callback_secrets(config: UpstreamSettings) -> list[str]:
    secrets = [_revealed(config.callback_secret) or "", _revealed(config.callback_signing_key) or ""]
    return [*secrets, *(secret.removeprefix("whsec_") for secret in secrets)]


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


def _nothing() -> None:
    """Default of `Bridge.died`."""


async def _watch_revoked(revoked: RevokedTokens, subscriptions: Subscriptions, clock: Clock) -> None:
    while True:
        await clock.sleep(REVOKED_PERIOD_SECONDS)
        # In a thread: a network file system may be slow.
        await asyncio.to_thread(revoked.read)
        # Each time: a connection may have been authenticated just before its token was revoked.
        if revoked.ids:
            subscriptions.expire(revoked.ids)


async def _watch_certificate(files: CertificateFiles, clock: Clock) -> None:
    replaced = True
    while True:
        warning = files.current.warning(clock.time()) if replaced else None
        if warning is not None:
            fields = {"file": str(files.certificate_file), "warning": warning}
            logger.warning("TLS certificate not valid for long", extra=fields)
        await clock.sleep(CERTIFICATE_PERIOD_SECONDS)
        try:
            # In a thread: a network file system may be slow.
            replaced = await asyncio.to_thread(files.read)
        except Exception:
            # The last pair stays in use.
            logger.exception("unhandled exception in certificate rotation")


async def _measure_lag(clock: Clock, metrics: Metrics) -> None:
    # A sleep that takes longer than asked shows how long the event loop was busy with something else.
    while True:
        before = clock.monotonic()
        await clock.sleep(LAG_PERIOD_SECONDS)
        metrics.loop_lag_seconds.observe(max(clock.monotonic() - before - LAG_PERIOD_SECONDS, 0.0))
