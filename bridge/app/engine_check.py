"""Checks a shared engine before the bridge listens."""

from __future__ import annotations

import asyncio

from bridge.app.replicas import redis_connect
from bridge.config.settings import Settings
from bridge.engine.redis.connect import EngineUnfit
from bridge.engine.redis.engine import RedisEngine
from bridge.errors import ConfigError, EngineUnavailable

CHECK_SECONDS = 4.0
"""An engine that answers later is away: a start does not wait for it."""


def check_engine(settings: Settings) -> str:
    """Connect to the engine of the settings, and check that it can be used.

    Returns:
        What it is, in one sentence.

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


async def _check(settings: Settings) -> str:
    async with asyncio.timeout(CHECK_SECONDS):
        engine = await redis_connect(settings)()
        assert isinstance(engine, RedisEngine), "the settings have a shared engine"
        try:
            await engine.check()
            census = await engine.census()
        finally:
            await engine.close()
    facts = engine.facts
    version = ".".join(map(str, facts.version))
    memory = (
        f"{census.used >> 20} of {census.limit >> 20} MiB" if census.limit else f"{census.used >> 20} MiB"
    )
    product = (
        f"{facts.product.capitalize()} {version}, {memory} in use" if facts.product else "INFO not permitted"
    )
    return f"{engine.where} can be used: {product}."
