"""Checks a shared engine before the bridge listens."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from bridge.app.replicas import redis_connect
from bridge.config.engine_memory import retention_warning
from bridge.config.settings import Settings
from bridge.engine.base import Census
from bridge.engine.redis.connect import EngineUnfit, Facts
from bridge.engine.redis.engine import RedisEngine
from bridge.errors import ConfigError, EngineUnavailable

CHECK_SECONDS = 4.0
"""An engine that answers later is away: a start does not wait for it."""


class EngineReport(NamedTuple):
    """An engine that can be used.

    Args:
        sentence: What it is.
        warnings: What its operator should change.
    """

    sentence: str
    warnings: tuple[str, ...] = ()


def check_engine(settings: Settings) -> EngineReport:
    """Connect to the engine of the settings, and check that it can be used.

    Raises:
        ConfigError: It cannot be used as it is.
        EngineUnavailable: It cannot be reached now.
    """
    try:
        return asyncio.run(_check(settings))
    except TimeoutError:
        raise EngineUnavailable("the engine did not answer in time") from None
    except EngineUnfit as error:
        raise ConfigError([f"engine: {error}"]) from None


async def _check(settings: Settings) -> EngineReport:
    async with asyncio.timeout(CHECK_SECONDS):
        engine = await redis_connect(settings)()
        assert isinstance(engine, RedisEngine), "the settings have a shared engine"
        try:
            await engine.check()
            census = await engine.census()
        finally:
            await engine.close()
    warnings = _memory_warnings(settings, engine.facts, census)
    return EngineReport(f"{engine.where} can be used: {_described(engine.facts, census)}.", warnings)


def _described(facts: Facts, census: Census) -> str:
    if not facts.product:
        return "INFO not permitted"
    version = ".".join(map(str, facts.version))
    of = f" of {census.limit >> 20}" if census.limit else ""
    return f"{facts.product.capitalize()} {version}, {census.used >> 20}{of} MiB in use"


def _memory_warnings(settings: Settings, facts: Facts, census: Census) -> tuple[str, ...]:
    warnings = [retention_warning(settings, census.limit)]
    if facts.product and not census.limit:
        warnings.append(
            "engine: it has no maxmemory, so it grows until its machine has no memory left, and no alert"
            " comes before: `CONFIG SET maxmemory 2gb`, and the same in its configuration file"
        )
    return tuple(warning for warning in warnings if warning is not None)
