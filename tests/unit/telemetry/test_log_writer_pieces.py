"""Several processes write their lines to one pipe: no line ends up inside another."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

import pytest

from bridge.telemetry.log_writer import to_descriptor


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], list[bytes]]:
    """What single writes a text becomes."""

    def write(data: bytes) -> list[bytes]:
        pieces: list[bytes] = []

        def taken(_descriptor: int, piece: memoryview) -> int:
            pieces.append(bytes(piece))
            return len(piece)

        monkeypatch.setattr(os, "write", taken)
        to_descriptor(2)(data)
        return pieces

    return write


def test_many_lines_leave_in_pieces_that_the_kernel_writes_whole(
    written: Callable[[bytes], list[bytes]],
) -> None:
    lines = b"".join(b"x" * size + b"\n" for size in (10, 3000, 900, 300, 4000, 1, select.PIPE_BUF - 1))
    pieces = written(lines)
    assert b"".join(pieces) == lines
    assert all(piece.endswith(b"\n") and len(piece) <= select.PIPE_BUF for piece in pieces)


def test_a_longer_line_leaves_at_once_and_alone(written: Callable[[bytes], list[bytes]]) -> None:
    long = b"y" * 10_000 + b"\n"
    assert written(b"a\n" + long + b"b\n") == [b"a\n", long, b"b\n"]


def test_text_without_an_end_of_line_leaves_too(written: Callable[[bytes], list[bytes]]) -> None:
    assert b"".join(written(b"z" * 9000)) == b"z" * 9000
