"""The small document of webhooks in the ledger, as this process last read it.

Every bridge has the same. It is written with compare-and-set, announced, and read again every few seconds.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping

from bridge.engine.ledger import Ledger
from bridge.errors import JournalError
from bridge.webhooks.endpoint import Webhook
from bridge.webhooks.stored import StoredWebhooks, decode_stored, mark_of_url

DOCUMENT = "webhooks"
NEWS = "webhooks:changed"
"""Announced after the document was written: it has the secrets, and announced documents are kept in a log."""

STORED_SECONDS = 10 * 365 * 86_400.0
NEWS_SECONDS = 60.0
_CHANGES = 8
_NOT_READ = -1

logger = logging.getLogger(__name__)


class WebhookDocument:
    """Reads and changes it.

    Args:
        static: The endpoints of the configuration, by id.
        taken: Called with the content before and the content now, each time it was read again or changed.
        outdated: Called when the ledger may have another one.

    Attributes:
        stored: The content.
        stale: Whether the ledger may have another one.
    """

    def __init__(
        self,
        ledger: Ledger,
        static: Mapping[str, Webhook],
        *,
        taken: Callable[[StoredWebhooks, StoredWebhooks], None],
        outdated: Callable[[], None],
    ) -> None:
        self.stored = StoredWebhooks()
        self.stale = True
        self._version = _NOT_READ
        self._ledger = ledger
        self._static = static
        self._taken = taken
        self._outdated = outdated
        ledger.hear(self._heard)
        ledger.on_return(self._returned)

    def _heard(self, name: str, value: bytes | None) -> None:
        del value
        if name == NEWS:
            self._returned()

    def _returned(self) -> None:
        self.stale = True
        self._outdated()

    async def read(self) -> None:
        """Read it again.

        Raises:
            JournalError: The ledger is away.
        """
        self.stale = False
        try:
            ((version, value),) = await self._ledger.get([DOCUMENT])
            if value is None and self.stored.endpoints:
                await self._put_back(version)
                return
        except JournalError:
            self.stale = True
            raise
        if version != self._version:
            self._take(self._decoded(value), version)

    async def _put_back(self, version: int) -> None:
        """Write it again: it is never deleted, so an engine without it has lost what it had.

        If another bridge was faster, its document is read the next time.
        """
        put = await self._ledger.put(DOCUMENT, self.stored.encode(), expect=version, seconds=STORED_SECONDS)
        if put.written:
            self._version = put.version
            logger.warning("webhooks written again", extra={"webhooks": len(self.stored.endpoints)})
        else:
            self.stale = True

    async def change(self, change: Callable[[StoredWebhooks], None]) -> None:
        """Change it, from what it is now.

        Args:
            change: Called again when another bridge was faster.

        Raises:
            JournalError: It has happened or not.
        """
        for _ in range(_CHANGES):
            ((version, value),) = await self._ledger.get([DOCUMENT])
            stored = self._decoded(value)
            change(stored)
            encoded = stored.encode()
            if encoded == value:
                self._take(stored, version)
                return
            put = await self._ledger.put(DOCUMENT, encoded, expect=version, seconds=STORED_SECONDS)
            if put.written:
                self._take(stored, put.version)
                news = str(put.version).encode()
                with contextlib.suppress(JournalError):  # the others read it again in any case
                    await self._ledger.put(NEWS, news, expect=None, seconds=NEWS_SECONDS, announced=True)
                return
        raise JournalError("too many bridges change the webhooks at once")

    def _decoded(self, value: bytes | None) -> StoredWebhooks:
        stored = decode_stored(value)
        for name, endpoint in self._static.items():
            health = stored.health.get(name)
            if health is not None and health.at != mark_of_url(endpoint.url):
                del stored.health[name]  # the operator has changed its URL since
        return stored

    def _take(self, stored: StoredWebhooks, version: int) -> None:
        before, self.stored, self._version = self.stored, stored, version
        self._taken(before, stored)
