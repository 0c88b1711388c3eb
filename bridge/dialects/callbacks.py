"""Reads a provider's callback: which task to poll and what to respond. Its claims are never read."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from bridge.dialects.base import Callback
from bridge.dialects.lenient import read_json
from bridge.dialects.paths import Field

_MAX_CHALLENGE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRules:
    """Shape of a callback.

    Args:
        challenge: Where a verification call has the value that it wants back.
        echo: The key under which that value is returned.
        reply: Body of the response to every other callback.
    """

    task_id: Field[str]
    challenge: Field[str | int]
    echo: str
    reply: bytes | None

    def read(self, body: bytes) -> Callback:
        """The task to poll and the response; a hostile body gives an empty callback."""
        text = read_json(body)
        document = text.document if text is not None else None
        if isinstance(document, list):
            document = document[0] if len(document) == 1 else None
        if not isinstance(document, dict):
            return Callback(None, self.reply, challenge=False)
        challenge = self.challenge.read(document)
        if challenge is not None:
            return Callback(None, orjson.dumps({self.echo: challenge}), challenge=True)
        return Callback(self.task_id.read(document), self.reply, challenge=False)


def challenge_value(value: object) -> str | int | None:
    """A value that may be sent back exactly as it came: a short string or a whole number."""
    if isinstance(value, str):
        return value if 0 < len(value) <= _MAX_CHALLENGE else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
