"""What a job of a delivery holds: the body as it is sent, with a gap for the offset of its state.

The body is written with the state, so that every attempt has the same bytes, whichever bridge and whichever
version of it makes the attempt. Only the offset is known later: the journal assigns it as it records.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import orjson

from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.task import State, TaskKey
from bridge.webhooks.endpoint import EventType
from bridge.wire.document import document, timestamp
from bridge.wire.text import dumps

_FORMAT = 1
_CURSOR_KEY = b'"cursor":"'
_MAX_HEAD = 16 * 1024


class DeliveryMessage(NamedTuple):
    """One delivery.

    Args:
        id: The same for each attempt (`webhook-id`).
        type: An `EventType`, or what another version writes.
        task: Its ref; empty for a test.
        written_at: Unix seconds.
        url: Where it goes; None for where its webhook is at.
        payload: The body without the offset.
        gap: Where in the payload the offset belongs.
    """

    id: str
    type: str
    task: str
    written_at: float
    url: str | None
    payload: bytes
    gap: int

    def body(self, offset: int) -> bytes:
        """What is sent."""
        return b"%b%d%b" % (self.payload[: self.gap], offset, self.payload[self.gap :])

    def encode(self) -> bytes:
        """As the body of a job."""
        head = {
            "v": _FORMAT,
            "id": self.id,
            "type": self.type,
            "task": self.task,
            "at": self.written_at,
            "gap": self.gap,
        }
        if self.url is not None:
            head["url"] = self.url
        return orjson.dumps(head) + b"\n" + self.payload


def decode_message(encoded: bytes) -> DeliveryMessage | None:
    """What `encode` wrote; None for anything else."""
    head, newline, payload = encoded.partition(b"\n")
    try:
        fields = orjson.loads(head)
        message = DeliveryMessage(
            str(fields["id"]),
            str(fields["type"]),
            str(fields["task"]),
            float(fields["at"]),
            str(fields["url"]) if "url" in fields else None,
            payload,
            int(fields["gap"]),
        )
    except (ValueError, TypeError, KeyError):
        return None
    fits = newline and 0 <= message.gap <= len(payload) and message.id.isascii() and message.id.isprintable()
    return message if fits else None


def payload_of(key: TaskKey, epoch: str, kind: EventType, state: State) -> tuple[bytes, int]:
    """The body about a state, without its offset, and where that belongs.

    The time left is that of the moment of the change: a body that is sent again is the same.
    """
    data = document(Event(key, Cursor(epoch, 0), state), now=state.changed_at)
    # Within a text the quotes are escaped, so this is the key itself; what follows is `EPOCH-0"`.
    start = data.rindex(_CURSOR_KEY) + len(_CURSOR_KEY) + len(epoch) + 1
    head = b'{"type":"%b","timestamp":%b,"data":' % (kind.encode(), dumps(timestamp(state.changed_at)))
    return b"%b%b%b}" % (head, data[:start], data[start + 1 :]), len(head) + start


def delivery_id(target: str, key: TaskKey, kind: str, content: bytes, moment: float | None) -> str:
    """The id of a delivery: the same wherever and however often the same state is recorded.

    Args:
        target: The webhook, or the URL.
        content: Digest of the state's content.
        moment: When an open state began, Unix seconds: one content may come again. None for an end.
    """
    parts = (target, key.upstream, key.account, key.task_id, kind, content.hex(), repr(moment))
    text = "\n".join(f"{len(part)}:{part}" for part in parts)
    return "msg_" + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def ordering_of(key: TaskKey) -> str:
    """Names a task without its account."""
    text = f"{key.upstream}\n{key.account}\n{key.task_id}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
