"""The file an API key is read from, again and again: keys are rotated while the bridge runs.

Read whole each time instead of by its modification time: an orchestrator replaces a symbolic link, some file
systems keep times of a second, and a key is a few bytes.
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from bridge.dialects.credentials import check_key
from bridge.dialects.dialect import Dialect
from bridge.errors import InvalidRequest

MAX_KEY_BYTES = 64 * 1024

logger = logging.getLogger(__name__)


class UnusableKey(Exception):
    """The file holds no key; the message is why, without anything of its content."""


@dataclass(slots=True)
class KeyFile:
    """Finds out when the key in a file has changed.

    Attributes:
        key: The newest usable key; empty before the first.
        problem: Why the file holds no usable key now; None while it does.
    """

    upstream: str
    path: Path
    dialect: Dialect
    key: str = field(init=False, default="", repr=False)
    problem: str | None = field(init=False, default=None)

    def read(self) -> bool:
        """Read the file; whether `key` is another one now.

        While the file is missing, empty or unreadable the old key is kept, with one warning.
        """
        fields: dict[str, object] = {"upstream": self.upstream, "file": str(self.path)}
        try:
            key = read_key(self.path, self.dialect)
        except UnusableKey as error:
            if self.problem is None:
                kept = "the last key is kept" if self.key else "calls go out without a key"
                logger.warning("API key file unusable", extra=fields | {"error": f"{error}; {kept}"})
            self.problem = str(error)
            return False
        if self.problem is not None:
            self.problem = None
            logger.warning("API key file usable again", extra=fields)
        changed = key != self.key
        self.key = key
        return changed


def read_key(path: Path, dialect: Dialect) -> str:
    """The key in a file, without the blanks and line ends around it.

    Raises:
        UnusableKey: The file cannot be read, or holds no key of this provider.
    """
    try:
        content = read_regular(path, MAX_KEY_BYTES)
    except OSError as error:
        raise UnusableKey(error.strerror or "it cannot be read") from None
    try:
        # Editors of some systems put a byte order mark in front.
        key = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise UnusableKey("it is not UTF-8 text") from None
    if not key:
        raise UnusableKey("it is empty")
    try:
        check_key(dialect, key)
    except InvalidRequest as error:
        raise UnusableKey(str(error)) from None
    return key


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most `max_bytes` bytes.

    Raises:
        OSError: It cannot be read.
        UnusableKey: It is something else, or larger.
    """
    # Without waiting: a named pipe would hold the thread until a writer comes.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnusableKey("it is not a regular file")
        content = os.read(descriptor, max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise UnusableKey(f"it is larger than {max_bytes} bytes")
    return content
