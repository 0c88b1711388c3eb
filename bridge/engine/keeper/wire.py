"""What workers and the keeper write to each other: frames, and how each operation is encoded in them.

A frame is its length, the number of the call, one byte that says what it is, and a MessagePack body. The
encoding of every operation follows from its signature in `Engine`, and what arrives is checked against that:
a body that does not fit is an error, never a value of another type.
"""

from __future__ import annotations

import inspect
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, get_type_hints

import msgspec

from bridge.core.task import TaskKey
from bridge.engine import base
from bridge.engine.base import Engine, Entry

HEAD: Final = struct.Struct("!IIB")
MAX_FRAME: Final = 64 * 1024 * 1024

# Instead of the number of an operation, in frames to a worker.
DONE: Final = 0
DEFECT: Final = 1  # the body is a sentence
PUSHED: Final = 2  # entries of the log

ENTRIES: Final[tuple[type[Any], ...]] = Entry.__args__
_KINDS: Final = {kind: number for number, kind in enumerate(ENTRIES)}
_ENTRY_DECODERS: Final = [msgspec.msgpack.Decoder(kind) for kind in ENTRIES]
_PARTS: Final = msgspec.msgpack.Decoder(list[tuple[int, msgspec.Raw]])
_ENCODER: Final = msgspec.msgpack.Encoder()

encode = _ENCODER.encode


class MalformedFrame(Exception):
    """What arrived is not a frame, or its body does not fit the operation."""


class EngineMethod(NamedTuple):
    """One method of `Engine` on the wire.

    Args:
        positional: How many of its arguments are positional; the others are named.
        names: Of all arguments, in the order in which they are encoded.
    """

    name: str
    positional: int
    names: Sequence[str]
    arguments: msgspec.msgpack.Decoder[tuple[Any, ...]]
    result: msgspec.msgpack.Decoder[Any]


def _operations() -> Iterator[EngineMethod]:
    known = vars(base) | {"TaskKey": TaskKey}
    for name, method in vars(Engine).items():
        if name.startswith("_") or name in ("close", "read"):
            continue
        hints = get_type_hints(method, known)
        parameters = list(inspect.signature(method).parameters.values())[1:]
        types = tuple(hints[parameter.name] for parameter in parameters)
        yield EngineMethod(
            name,
            sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters),
            [parameter.name for parameter in parameters],
            msgspec.msgpack.Decoder(tuple[types]),  # type: ignore[valid-type]
            msgspec.msgpack.Decoder(hints["return"]),
        )


OPERATIONS: Final[Sequence[EngineMethod]] = list(_operations())
NUMBERS: Final = {operation.name: number for number, operation in enumerate(OPERATIONS)}
READ: Final = len(OPERATIONS)
_READ_ARGUMENTS: Final = msgspec.msgpack.Decoder(tuple[int, int])


def frame(number: int, what: int, body: bytes) -> bytes:
    """One frame."""
    return HEAD.pack(len(body), number, what) + body


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """Entries of the log as the body of a frame."""
    return encode([(_KINDS[type(entry)], entry) for entry in entries])


def decode_entries(body: bytes | memoryview) -> list[Entry]:
    """What `encode_entries` encoded.

    Raises:
        MalformedFrame: It is something else.
    """
    try:
        return [_ENTRY_DECODERS[kind].decode(entry) for kind, entry in _PARTS.decode(body)]
    except (msgspec.MsgspecError, IndexError, ValueError) as error:
        raise MalformedFrame(str(error)) from None


def decode_arguments(operation: EngineMethod, body: memoryview) -> tuple[Any, ...]:
    """The arguments of a call.

    Raises:
        MalformedFrame: They are others than those of the operation.
    """
    try:
        return operation.arguments.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedFrame(f"{operation.name}: {error}") from None


def decode_read(body: memoryview) -> tuple[int, int]:
    """Offset and number of entries, of a read.

    Raises:
        MalformedFrame: It is something else.
    """
    try:
        return _READ_ARGUMENTS.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedFrame(f"read: {error}") from None


def decode_result(operation: EngineMethod, body: memoryview) -> Any:
    """The result of a call.

    Raises:
        MalformedFrame: It is another one than that of the operation.
    """
    try:
        return operation.result.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedFrame(f"{operation.name}: {error}") from None


class FrameSplitter:
    """Splits what a socket received into frames."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def split(self, data: bytes) -> Iterator[tuple[int, int, memoryview]]:
        """Number, kind and body of each frame that is complete now; a body is valid until the next call.

        Raises:
            MalformedFrame: A frame is too long.
        """
        rest = self._rest
        whole: bytes | bytearray = data
        if rest:
            rest += data
            whole = rest
        view, at, size = memoryview(whole), 0, len(whole)
        try:
            while size - at >= HEAD.size:
                length, number, what = HEAD.unpack_from(view, at)
                if length > MAX_FRAME:
                    raise MalformedFrame(f"a frame of {length} bytes")
                end = at + HEAD.size + length
                if end > size:
                    break
                yield number, what, view[at + HEAD.size : end]
                at = end
        finally:
            # A new object: views of the old one may still be in use.
            self._rest = bytearray(view[at:])
