"""The name of a copy: a function of the task and the output's number alone.

A second copy, by another bridge or after a restart, is therefore the same object. Nothing that the provider
says about a file is part of its name: its media type is stored beside it.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from bridge.core.task import UPSTREAM_NAME, TaskKey

MAX_NAME = 512

_READABLE = 40  # characters of a task id, to recognize it in a list of objects
_UNREADABLE = re.compile(r"[^A-Za-z0-9]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(?:/[A-Za-z0-9][A-Za-z0-9-]*)*", re.ASCII)
_OBJECT = re.compile(rf"{UPSTREAM_NAME.pattern}/(?:[A-Za-z0-9-]+-)?[0-9a-f]{{40}}/\d+", re.ASCII)


def object_name(key: TaskKey, n: int) -> str:
    """`<upstream>/<readable part of the task id>-<hash of account and id>/<n>`, ASCII, under 140 characters.

    The hash is another one for ids that read alike, and for the tasks of two accounts.

    Args:
        key: The task.
        n: Which of its outputs; the first is 0.
    """
    readable = _UNREADABLE.sub("-", key.task_id[:_READABLE]).strip("-")
    # The lengths keep two pairs of account and id apart that read the same when joined.
    identity = f"{len(key.account)} {key.account} {key.task_id}".encode()
    digest = blake2b(identity, digest_size=20).hexdigest()
    return f"{key.upstream}/{readable}{'-' if readable else ''}{digest}/{n}"


def check_name(name: str) -> str:
    """Return `name` unchanged: what every store does first, although names come from `object_name`.

    Raises:
        ValueError: It has a segment that is empty or starts with anything but a letter or a digit, any other
            character than those, `-` and `/`, or more than 512 characters.
    """
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise ValueError("not the name of a stored file")
    return name


def is_object_name(name: str) -> bool:
    """Whether `object_name` may have made it: nothing else in a bucket is ever deleted."""
    return _OBJECT.fullmatch(name) is not None
