"""`serve` with several workers: the listeners first, then the keeper, then the supervisor."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from uvicorn.loops.auto import auto_loop_factory

from bridge.clock import SystemClock
from bridge.config.certificate import CertificateFiles, UnusablePair
from bridge.config.load import load
from bridge.config.settings import SQLITE, Settings
from bridge.engine.embedded import steady_microseconds
from bridge.engine.keeper.server import Keeper
from bridge.engine.store import Store, StoreLimits
from bridge.errors import ConfigError
from bridge.journal.sqlite.store_recorder import StoreRecorder
from bridge.server.listeners import (
    LISTENERS,
    listen,
    listen_together,
    listen_when_released,
    report_listening,
)
from bridge.server.workers.launching import Launch
from bridge.server.workers.supervisor import Supervisor

# Of the service as a whole: a worker that is replaced cannot have other ones than those beside it.
FIXED = (
    "workers",
    "host",
    "port",
    "admin_address",
    "journal",
    "engine",
    "engine_name",
    "engine_history",
    "engine_log",
    "engine_raw_bytes",
)

logger = logging.getLogger("bridge")


def serve_workers(settings: Settings, path: Path | None, overrides: dict[str, Any]) -> int:
    """Serve with as many workers as the settings say, until a signal.

    Args:
        path: The configuration file; None without.
        overrides: Settings of the command line.

    Returns:
        The exit code: 0 after a clean end.

    Raises:
        OSError: An address cannot be bound; its `filename` is the address.
        JournalError: The journal cannot be used.
        ConfigError: The certificate can no longer be used.
    """
    _check_certificate(settings)
    timeout = settings.write_timeout_seconds
    listeners = listen_when_released(
        lambda: listen_together(settings.host, settings.port, settings.workers, timeout)
    )
    admin_address = settings.admin_address
    admin = None if admin_address is None else listen_when_released(lambda: listen(*admin_address, timeout))

    def started() -> None:
        tls = settings.tls_certificate_file is not None
        report_listening(listeners[0], LISTENERS[0], tls=tls, announces=True)
        if admin is not None:
            report_listening(admin, LISTENERS[1], tls=False, announces=True)

    async def run() -> int:
        launch = Launch(settings, path, overrides)
        async with _keeper(settings) as keeper:
            supervisor = Supervisor(
                launch,
                listeners,
                admin,
                connect=None if keeper is None else keeper.connect,
                reload=lambda: _reload(launch),
                started=started,
            )
            return await supervisor.run()

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(run())


@asynccontextmanager
async def _keeper(settings: Settings) -> AsyncIterator[Keeper | None]:
    """What the workers share, in this process; None if that is a server of its own.

    Raises:
        JournalError: The journal cannot be used.
    """
    if settings.has_shared_engine:
        yield None
        return
    limits = StoreLimits(
        history=settings.engine_history,
        log=settings.engine_log,
        raw_bytes=settings.engine_raw_bytes,
        retention_seconds=settings.retention_seconds,
    )
    clock = SystemClock()
    store, now = Store(limits), steady_microseconds(clock)
    recorder = await StoreRecorder.open(
        settings.journal.removeprefix(SQLITE),
        store,
        clock,
        now=now,
        retention_seconds=settings.retention_seconds,
    )
    keeper = Keeper(store, now, recorder=recorder)
    recorder.recorded = keeper.recorded
    try:
        yield keeper
    finally:
        keeper.close()
        await recorder.close()


def _check_certificate(settings: Settings) -> None:
    # Each worker reads it as well; an error is reported once, before any is started.
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return
    try:
        CertificateFiles(settings.tls_certificate_file, settings.tls_key_file)
    except UnusablePair as error:
        raise ConfigError([f"{error.setting}: {error}"]) from None


def _reload(launch: Launch) -> Launch:
    """The settings as they are now.

    Raises:
        ConfigError: They are wrong, or need a restart of the service.
    """
    settings = load(launch.path, **launch.overrides)
    changed = [name for name in FIXED if getattr(settings, name) != getattr(launch.settings, name)]
    if changed:
        raise ConfigError([f"{name}: a change needs a restart of the service" for name in changed])
    return Launch(settings, launch.path, launch.overrides)
