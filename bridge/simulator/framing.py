"""Writes ByteSpike's event stream in each way it might be framed; the docs show none of them (seed 004)."""

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
# Two and three byte characters, which `split` cuts through.
SPLIT_COMMENT = ": gr\u00fc\u00dfe \u2013 \u4f60\u597d\n\n"


class BadFraming(ValueError):
    """No framing has this name."""


def parse_framing(text: str) -> frozenset[str]:
    """The words of a framing; several can be joined: `named,with-ids,crlf`.

    Raises:
        BadFraming: one of the words is not known.
    """
    words = frozenset(word.strip() for word in text.split(",") if word.strip())
    if strange := sorted(words - FRAMINGS):
        raise BadFraming(
            f"no framing is called {', '.join(strange)}; there are {', '.join(sorted(FRAMINGS))}"
        )
    return words


@dataclass(slots=True)
class Framer:
    """The writer of one stream. Its answers are what is to be sent; it sends nothing itself."""

    words: frozenset[str]
    _sent: int = 0
    _held: bytes = field(default=b"")

    def opening(self) -> bytes:
        if "split" in self.words:
            return self._ended(SPLIT_COMMENT)
        return self.beat()

    def beat(self) -> bytes:
        """A sign of life, where the framing has one."""
        if "heartbeat-comments" in self.words:
            return self._ended(": heartbeat\n\n")
        if "heartbeat-events" in self.words:
            return self._ended("event: ping\ndata: {}\n\n")
        return b""

    def update(self, payload: Json, *, final: bool) -> bytes:
        """The frame of one state; none, one or two frames where the framing holds back or repeats."""
        if final and "no-final" in self.words:
            return self._taken()
        frame = self._frame(payload, final=final)
        if "duplicate" in self.words:
            return frame + frame
        if "reorder" not in self.words:
            return frame
        if not final and not self._held:
            self._held = frame
            return b""
        return frame + self._taken()

    def closing(self) -> bytes:
        marker = self._ended("data: [DONE]\n\n") if "done-marker" in self.words else b""
        return self._taken() + marker

    def cuts(self, *, final: bool) -> bool:
        """Whether the connection ends in the middle of the frame just made: the second, or the only one."""
        return "cut" in self.words and (self._sent > 1 or final)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What is given to the socket at once: everything, or one byte after the other."""
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
        return self._ended("\n".join([*lines, "", ""]))

    def _wrapped(self, name: str, payload: Json) -> Json:
        if "wrapped" in self.words:
            return {"event": name, "data": payload}
        if "wrapped-task" in self.words:
            return {"type": name, "task": payload}
        return payload

    def _taken(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def _ended(self, text: str) -> bytes:
        return (text.replace("\n", "\r\n") if "crlf" in self.words else text).encode()
