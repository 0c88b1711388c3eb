"""Frames ByteSpike's event stream in each way it might be framed; the docs show none of them (seed 004)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from bridge.simulator.tasks import Json

FRAMINGS = frozenset(
    {
        "data-only",
        "named",
        "wrapped",
        "wrapped-task",
        "heartbeat-comments",
        "heartbeat-events",
        "with-ids",
        "crlf",
        "split",
        "cut",
        "no-final",
        "done-marker",
        "silent",
        "duplicate",
        "reorder",
    }
)
# Characters of two and three bytes in UTF-8, which `split` cuts in the middle.
SPLIT_COMMENT = ": gr\u00fc\u00dfe \u2013 \u4f60\u597d\n\n"


class BadFraming(ValueError):
    """There is no framing of this name."""


def parse_framing(text: str) -> frozenset[str]:
    """Parse a framing; several can be combined: `named,with-ids,crlf`.

    Raises:
        BadFraming: one of the names is unknown.
    """
    words = frozenset(word.strip() for word in text.split(",") if word.strip())
    if unknown := sorted(words - FRAMINGS):
        raise BadFraming(f"unknown framing: {', '.join(unknown)}; available: {', '.join(sorted(FRAMINGS))}")
    return words


@dataclass(slots=True)
class Framer:
    """Encodes one stream. Returns bytes to send and does no I/O."""

    words: frozenset[str]
    _sent: int = 0
    _held: bytes = field(default=b"")

    def opening(self) -> bytes:
        if "split" in self.words:
            return self._encode(SPLIT_COMMENT)
        return self.beat()

    def beat(self) -> bytes:
        """Return a heartbeat; empty where the framing has none."""
        if "heartbeat-comments" in self.words:
            return self._encode(": heartbeat\n\n")
        if "heartbeat-events" in self.words:
            return self._encode("event: ping\ndata: {}\n\n")
        return b""

    def update(self, payload: Json, *, final: bool) -> bytes:
        """Return the frame of one state; none or two where the framing reorders or duplicates."""
        if final and "no-final" in self.words:
            return self._take_held()
        frame = self._frame(payload, final=final)
        if "duplicate" in self.words:
            return frame + frame
        if "reorder" not in self.words:
            return frame
        if not final and not self._held:
            self._held = frame
            return b""
        return frame + self._take_held()

    def closing(self) -> bytes:
        marker = self._encode("data: [DONE]\n\n") if "done-marker" in self.words else b""
        return self._take_held() + marker

    def cuts(self, *, final: bool) -> bool:
        """Whether to cut the connection in the middle of the last frame: the second, or the only one."""
        return "cut" in self.words and (self._sent > 1 or final)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Split `data` into the writes to make: a single one, or one per byte."""
        if "split" not in self.words:
            yield data
            return
        for byte in data:
            yield bytes([byte])

    def _frame(self, payload: Json, *, final: bool) -> bytes:
        name = "task.updated" if self._sent else "status"
        if final:
            name = str(payload.get("status"))
        self._sent += 1
        lines = [f"id: {self._sent}"] if "with-ids" in self.words else []
        if "named" in self.words:
            lines.append(f"event: {name}")
        lines.append(f"data: {orjson.dumps(self._wrapped(name, payload)).decode()}")
        return self._encode("\n".join([*lines, "", ""]))

    def _wrapped(self, name: str, payload: Json) -> Json:
        if "wrapped" in self.words:
            return {"event": name, "data": payload}
        if "wrapped-task" in self.words:
            return {"type": name, "task": payload}
        return payload

    def _take_held(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def _encode(self, text: str) -> bytes:
        return (text.replace("\n", "\r\n") if "crlf" in self.words else text).encode()
