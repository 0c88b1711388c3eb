"""`serve` with several workers: the listeners first, then the keeper, then the supervisor."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from uvicorn.loops.auto import auto_loop_factory

from bridge.config.load import load
from bridge.config.settings import Settings
from bridge.errors import ConfigError
from bridge.server.listeners import listen, listen_together
from bridge.server.server import LISTENERS, report_listening
from bridge.server.workers.launching import Launch
from bridge.server.workers.supervisor import Supervisor

# Of the service as a whole: a worker that is replaced cannot have other ones than those beside it.
FIXED = (
    "workers",
    "host",
    "port",
    "admin_host",
    "admin_port",
    "journal",
    "engine",
    "engine_name",
    "log_format",
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
        ConfigError: The certificate cannot be used any more.
    """
    timeout = settings.write_timeout_seconds
    listeners = listen_together(settings.host, settings.port, settings.workers, timeout)
    admin = None if settings.admin_address is None else listen(*settings.admin_address, timeout)

    def started() -> None:
        tls = settings.tls_certificate_file is not None
        report_listening(listeners[0], LISTENERS[0], tls=tls, announces=True)
        if admin is not None:
            report_listening(admin, LISTENERS[1], tls=False, announces=True)

    async def run() -> int:
        launch = Launch(settings, path, overrides)
        supervisor = Supervisor(
            launch, listeners, admin, connect=None, reload=lambda: _reload(launch), started=started
        )
        return await supervisor.run()

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(run())


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
