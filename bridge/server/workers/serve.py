"""`serve` with several workers: listeners first, then the supervisor."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.loops.auto import auto_loop_factory

from bridge.server.listeners import listen, listen_together
from bridge.server.server import LISTENERS, report_listening
from bridge.server.workers.launching import Launch
from bridge.server.workers.supervisor import Supervisor


def serve_workers(launch: Launch, reload: object) -> int:
    """Serve with the workers of the settings, until a signal.

    Returns:
        The exit code: 0 after a clean end.

    Raises:
        OSError: An address cannot be bound; its `filename` is the address.
    """
    settings = launch.settings
    timeout = settings.write_timeout_seconds
    listeners = listen_together(settings.host, settings.port, settings.workers, timeout)
    admin = None if settings.admin_address is None else listen(*settings.admin_address, timeout)

    def started() -> None:
        tls = settings.tls_certificate_file is not None
        report_listening(listeners[0], LISTENERS[0], tls=tls, announces=True)
        if admin is not None:
            report_listening(admin, LISTENERS[1], tls=False, announces=True)

    async def run() -> int:
        supervisor = Supervisor(
            launch, listeners, admin, connect=None, reload=lambda: launch, started=started
        )
        return await supervisor.run()

    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(run())
