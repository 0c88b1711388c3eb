"""Waits for the engine's answers: for so long and no longer, counted by what came of each call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bridge.clock import Clock
from bridge.errors import EngineRefused, EngineUnavailable

DEFAULT_ANSWERS = 2
"""A call may be sent only when the calls before it were answered: it waits for both answers."""

CALL_ANSWERS = {"bury": 6, "call": 4, "census": 4, "claim": 4, "confirm": 2, "listing": 10, "rewant": 10}
"""Operations that an engine may answer with several answers, one after the other. Each may take the timeout:
a way of 200 ms is not an outage.
"""

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class EngineCalls:
    """The calls of one replica.

    Args:
        timeout: Seconds that one answer may take.
        drop: Called with the reason when a call fails: the connection is not used again.

    Attributes:
        called: Called with the operation, the outcome and the seconds of each call.
    """

    def __init__(self, clock: Clock, timeout: float, drop: Callable[[str], None]) -> None:
        self._clock = clock
        self._timeout = timeout
        self._drop = drop
        self.called: Callable[[str, str, float], None] = lambda *_: None

    async def answer(
        self, operation: str, answer: Awaitable[Result], *, seconds: float | None = None
    ) -> Result:
        """The answer to a call.

        Args:
            seconds: How long to wait for it; None for the time of the operation.

        Raises:
            EngineUnavailable: None came in time, or one that cannot be used. The connection is dropped.
        """
        if seconds is None:
            seconds = CALL_ANSWERS.get(operation, DEFAULT_ANSWERS) * self._timeout
        started = self._clock.monotonic()
        outcome = "ok"
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            outcome = "timeout"
            self._drop(f"no answer to {operation} in {seconds:g} s")
            raise EngineUnavailable(f"the engine did not answer in {seconds:g} s") from None
        except EngineUnavailable as error:
            outcome = "refused" if isinstance(error, EngineRefused) else "unavailable"
            self._drop(str(error))
            raise
        except asyncio.CancelledError:
            outcome = "unavailable"
            raise
        except Exception as error:
            # Another version's data, a bug: as good as no answer, and the next connection may fare better.
            outcome = "refused"
            logger.exception("unhandled exception in engine call", extra={"operation": operation})
            self._drop(f"{operation}: {type(error).__name__}")
            raise EngineUnavailable(f"the engine's answer to {operation} cannot be used") from error
        finally:
            self.called(operation, outcome, self._clock.monotonic() - started)
