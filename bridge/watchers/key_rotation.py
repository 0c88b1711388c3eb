"""Puts a new API key into use while the bridge runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bridge.sources.credentials import RotatingCredential, credential_of
from bridge.sources.key_file import KeyFile
from bridge.sources.upstream import Upstream, mark_of_key
from bridge.telemetry.request_context import detach_from_request

PERIOD_SECONDS = 1.0

logger = logging.getLogger(__name__)


class KeyRotation:
    """Reads the key file of one upstream again and again.

    Args:
        credential: What the session of `upstream` sends.
        replaced: Called with the name of the upstream after another key is in use.
        keep_from_logs: Called with each new key before it is used.
    """

    def __init__(
        self,
        upstream: Upstream,
        file: KeyFile,
        credential: RotatingCredential,
        *,
        replaced: Callable[[str], None],
        keep_from_logs: Callable[[str], None],
    ) -> None:
        self._upstream = upstream
        upstream.key_mark = mark_of_key(file.key)
        self._file = file
        self._credential = credential
        self._replaced = replaced
        self._keep_from_logs = keep_from_logs

    async def run(self) -> None:
        """Read the file once a second until cancelled."""
        detach_from_request()
        while True:
            await self._upstream.clock.sleep(PERIOD_SECONDS)
            try:
                await self.refresh()
            except Exception:
                # One upstream's file must not stop the bridge for the others; the old key stays in use.
                logger.exception(
                    "unhandled exception in key rotation", extra={"upstream": self._upstream.name}
                )

    async def refresh(self) -> None:
        """Read the file; if it holds another key, use that one."""
        # In a thread: a network file system may be slow.
        if not await asyncio.to_thread(self._file.read):
            return
        key = self._file.key
        self._keep_from_logs(key)
        self._credential.replace(credential_of(self._upstream.dialect, key, self._upstream.clock))
        self._upstream.key_mark = mark_of_key(key)
        self._upstream.replace_key()
        self._replaced(self._upstream.name)
