"""The webhooks that were added while a bridge ran: read where they are stored, and added elsewhere."""

from __future__ import annotations

from typing import Protocol

from bridge.app.storage import engine_of, has_engine_table, journal_file, opened_file
from bridge.config.settings import Settings
from bridge.engine.base import Put
from bridge.errors import JournalError
from bridge.journal.sqlite.engine_rows import read_document
from bridge.replica.connection import Connect
from bridge.webhooks.document import DOCUMENT, STORED_SECONDS
from bridge.webhooks.stored import StoredWebhooks, decode_stored

_ATTEMPTS = 5


class DocumentStore(Protocol):
    """Of a ledger or an engine, what small documents need."""

    async def get(self, names: list[str]) -> list[tuple[int, bytes | None]]:
        """See `Ledger`."""

    async def put(self, name: str, value: bytes | None, *, expect: int | None, seconds: float) -> Put:
        """See `Ledger`."""


async def stored_webhooks(settings: Settings, connect: Connect | None) -> StoredWebhooks:
    """Those of the journal or engine of the settings; bridges may be running.

    Args:
        connect: Opens the engine; None for the one of the settings.

    Raises:
        JournalError: They cannot be read, and why.
    """
    if settings.has_shared_engine or connect is not None:
        async with engine_of(settings, connect) as engine:
            ((_, value),) = await engine.get([DOCUMENT])
            return decode_stored(value)
    with opened_file(journal_file(settings)) as connection:
        found = read_document(connection, DOCUMENT) if has_engine_table(connection) else None
        return decode_stored(found)


async def add_webhooks(store: DocumentStore, encoded: bytes | None) -> int:
    """Add those that are not known, by their ids; returns how many.

    Raises:
        JournalError: They cannot be written.
    """
    added = decode_stored(encoded)
    for _ in range(_ATTEMPTS if added.endpoints else 0):
        ((version, value),) = await store.get([DOCUMENT])
        known = decode_stored(value)
        new = {name: one for name, one in added.endpoints.items() if name not in known.endpoints}
        known.endpoints |= new
        known.health |= {name: one for name, one in added.health.items() if name in new}
        if (
            not new
            or (await store.put(DOCUMENT, known.encode(), expect=version, seconds=STORED_SECONDS)).written
        ):
            return len(new)
    if added.endpoints:
        raise JournalError("bridges change webhooks all the time; run the command again")
    return 0
