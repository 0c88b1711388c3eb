"""The file with the tokens that were revoked, read again and again while the bridge runs.

Read whole each time, for the reasons in `bridge.sources.key_file`. A file that is being written may be short
for a moment: an entry is dropped only when two readings in a row do not have it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from bridge.sources.key_file import UnusableKey, read_regular

MAX_LIST_BYTES = 4 * 1024 * 1024  # about 100,000 UUIDs

logger = logging.getLogger(__name__)


class UnusableList(Exception):
    """The file holds no list; the message is why, without anything of its content."""


@dataclass(slots=True)
class RevokedTokens:
    """The ids (`jti`) of the tokens that are no longer accepted.

    Attributes:
        ids: What the newest usable file holds, and what the one before it held.
        problem: Why the file is not usable now; None while it is.
    """

    path: Path
    ids: frozenset[str] = field(init=False, default=frozenset(), repr=False)
    problem: str | None = field(init=False, default=None)
    _newest: frozenset[str] = field(init=False, default=frozenset(), repr=False)

    def read(self) -> None:
        """Read the file. While it is missing or not usable the last list is kept, with one warning."""
        fields: dict[str, object] = {"file": str(self.path)}
        try:
            listed = read_list(self.path)
        except UnusableList as error:
            if self.problem is None:
                fields["error"] = f"{error}; the last list, of {len(self.ids)} tokens, is kept"
                logger.warning("revoked tokens file unusable", extra=fields)
            self.problem = str(error)
            return
        if self.problem is not None:
            self.problem = None
            logger.warning("revoked tokens file usable again", extra=fields | {"tokens": len(listed)})
        if listed == self._newest == self.ids:
            return
        added = len(listed - self.ids)
        self.ids, self._newest = listed | self._newest, listed
        if added:
            logger.info("tokens revoked", extra=fields | {"tokens": added})


def read_list(path: Path) -> frozenset[str]:
    """The ids in a file: one a line; blank lines and lines that begin with `#` are left out.

    Raises:
        UnusableList: The file cannot be read, or is not a list.
    """
    try:
        content = read_regular(path, MAX_LIST_BYTES)
    except OSError as error:
        raise UnusableList(error.strerror or "it cannot be read") from None
    except UnusableKey as error:
        raise UnusableList(str(error)) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnusableList("it is not UTF-8 text") from None
    if "\0" in text:
        raise UnusableList("it contains null characters")
    # Not `splitlines`, which also splits at characters that an id may contain.
    lines = (line.strip(" \t\r") for line in text.split("\n"))
    return frozenset(line for line in lines if line and not line.startswith("#"))
