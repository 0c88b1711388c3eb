"""Entity tags as clients and proxies return them.

Compressing proxies append the encoding inside or behind the quotes (`-gzip`, `-br`, `;gzip`, `--gzip`) and
pass it back as it is; others make the tag weak, drop the quotes or encode them.
"""

from __future__ import annotations

from itertools import islice
from urllib.parse import unquote

from bridge.core.cursor import Cursor

MAX_CURSORS = 3
_WILDCARD = "*"
# What a cursor may consist of, without the characters that begin a suffix.
_OF_A_CURSOR = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789~")
_BEFORE_A_CURSOR = _OF_A_CURSOR | frozenset("-._")


def names(tags: str, cursor: str) -> bool:
    """Whether a list of entity tags names the state at `cursor`.

    Compared without regard to weakness, as RFC 9110 section 13.1.2 asks for `If-None-Match`. A cursor is so
    distinct that its text anywhere in the list, not as a part of a longer cursor, is that cursor.

    Args:
        tags: The value of `If-None-Match`, or a cursor alone.
    """
    if tags.strip() == _WILDCARD:
        return True
    if "%" in tags:
        tags = unquote(tags)
    start = tags.find(cursor)
    while start >= 0:
        end = start + len(cursor)
        before, after = tags[start - 1 : start], tags[end : end + 1]
        if before not in _BEFORE_A_CURSOR and after not in _OF_A_CURSOR:
            return True
        start = tags.find(cursor, end)
    return False


def cursors(tags: str) -> list[Cursor]:
    """The first few cursors in a list of entity tags, in their order.

    Args:
        tags: As in `names`.
    """
    return list(islice(Cursor.find(unquote(tags) if "%" in tags else tags), MAX_CURSORS))
