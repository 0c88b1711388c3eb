"""Which contents of a key file are a key, and when it counts as another one."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from bridge.dialects.registry import load_dialect
from bridge.sources.key_file import MAX_KEY_BYTES, KeyFile


def opened(path: Path, preset: str = "qingbo") -> KeyFile:
    return KeyFile(preset, path, load_dialect(preset, preset, None))


@pytest.mark.parametrize(
    "content", [b"key-1", b"key-1\n", b"key-1\r\n", b"\xef\xbb\xbfkey-1\n", b"  key-1 \n\n"]
)
def test_what_is_around_the_key_does_not_matter(tmp_path: Path, content: bytes) -> None:
    file = opened(tmp_path / "key")
    file.path.write_bytes(content)
    assert file.read()
    assert file.key == "key-1"
    assert not file.read()


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\xff\xfe", b"two\nlines", b"nul\0", b"k" * (MAX_KEY_BYTES + 1)]
)
def test_what_is_no_key_keeps_the_old_one_with_one_warning(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = opened(tmp_path / "key")
    file.path.write_text("key-1")
    file.read()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            file.path.write_bytes(content)
            assert not file.read()
    assert [record.getMessage() for record in caplog.records] == ["API key file unusable"]
    assert file.key == "key-1"
    file.path.write_text("key-2")
    assert file.read()
    assert file.key == "key-2"


def test_a_missing_file_a_folder_and_a_pipe_are_no_key_and_hold_nothing_up(tmp_path: Path) -> None:
    assert not opened(tmp_path / "missing").read()
    assert not opened(tmp_path).read()
    os.mkfifo(tmp_path / "pipe")
    assert not opened(tmp_path / "pipe").read()


def test_a_swapped_symbolic_link_and_a_change_in_place_are_seen(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(f"key-{name}")
    (tmp_path / "data").symlink_to("a")
    (tmp_path / "key").symlink_to("data/key")
    file = opened(tmp_path / "key")
    file.read()
    (tmp_path / "next").symlink_to("b")
    (tmp_path / "next").replace(tmp_path / "data")
    assert file.read()
    assert file.key == "key-b"
    before = file.path.stat()
    file.path.write_text("key-c")
    os.utime(file.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.read()
    assert file.key == "key-c"
