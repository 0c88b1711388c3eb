"""What a provider's callback asks of us; its claims are never read."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from bridge.dialects.base import Callback
from bridge.dialects.paths import Field
from bridge.dialects.values import object_from

_MAX_CHALLENGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRules:
    """Shape of a callback.

    Args:
        challenge: Where a verification call keeps the value it wants back.
        echo: Under which key it wants it.
        reply: What every other callback is answered with.
    """

    task_id: Field[str]
    challenge: Field[str | int]
    echo: str
    reply: bytes | None

    def read(self, body: bytes) -> Callback:
        """What to look at and what to answer; hostile bodies give an empty callback."""
        document = object_from(body)
        if document is None:
            return Callback(None, self.reply, challenge=False)
        challenge = self.challenge.read(document)
        if challenge is not None:
            return Callback(None, orjson.dumps({self.echo: challenge}), challenge=True)
        return Callback(self.task_id.read(document), self.reply, challenge=False)


def challenge_value(value: object) -> str | int | None:
    """A value fit to be sent back: short text or a whole number, exactly as it came."""
    if isinstance(value, str):
        return value if 0 < len(value) <= _MAX_CHALLENGE else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
