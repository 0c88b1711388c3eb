"""The place where the settings say that states are recorded, opened for one command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bridge.app.replicas import redis_connect
from bridge.config.settings import SQLITE, Settings
from bridge.engine.base import Engine
from bridge.errors import EngineUnavailable, JournalError
from bridge.replica.connection import Connect


def journal_file(settings: Settings) -> Path:
    """The file of the journal.

    Raises:
        JournalError: It is in memory.
    """
    if not settings.journal.startswith(SQLITE):
        raise JournalError('with journal = "memory" nothing is stored: only a running bridge knows it')
    return Path(settings.journal.removeprefix(SQLITE))


@asynccontextmanager
async def engine_of(settings: Settings, connect: Connect | None) -> AsyncIterator[Engine]:
    """The engine of the settings, for one command.

    Args:
        connect: Opens another one.

    Raises:
        JournalError: It cannot be used, or ceased to answer.
    """
    try:
        engine = await (connect or redis_connect(settings))()
    except EngineUnavailable as error:
        raise JournalError(f"the engine {settings.engine} cannot be used: {error}") from error
    try:
        yield engine
    finally:
        await engine.close()
