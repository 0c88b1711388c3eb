"""What is kept of the answer to a submit that has an `Idempotency-Key`."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from bridge.core.task import TaskKey, check_task_id
from bridge.errors import InvalidRequest
from bridge.wire.text import dumps

MAX_BODY = 64 * 1024
_WORTH_COMPRESSING = 512
_HEADER = re.compile(r"[a-z-]{1,64}:[\x20-\x7e]{0,2048}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """The first answer, or the task that it named.

    Args:
        status: HTTP status; 0 if only the task is known.
        headers: Of the answer, names in lower case, without those that every answer has.
        body: None above 64 KiB, or if only the task is known: the answer is made of the task then.
        task: None where none is known.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    task: TaskKey | None = None

    def encode(self) -> bytes:
        """One line of JSON, then the body."""
        body = self.body
        if body is not None and len(body) > MAX_BODY:
            body = None
        fields: dict[str, object] = {"status": self.status, "headers": self.headers}
        if self.task is not None:
            fields["task"] = list(self.task)
        if body is None:
            return dumps(fields)
        packed = len(body) > _WORTH_COMPRESSING
        return dumps(fields | {"packed": packed}) + b"\n" + (zlib.compress(body, 1) if packed else body)


MAY_HAVE_CREATED = KeptAnswer()
"""A task may exist, and which one is unknown."""


def decode_answer(encoded: bytes | None) -> KeptAnswer:
    """What `encode` wrote, perhaps in another version; `MAY_HAVE_CREATED` if it cannot be read."""
    head, separator, body = (encoded or b"").partition(b"\n")
    try:
        fields = orjson.loads(head)
        status, headers = fields["status"], fields["headers"]
        if not isinstance(status, int) or not all(map(_is_header, headers.items())):
            return MAY_HAVE_CREATED
        if separator and not 200 <= status < 600:
            return MAY_HAVE_CREATED
        task = _task(fields["task"]) if "task" in fields else None
        whole = _unpacked(body) if separator and fields["packed"] else body
    except (ValueError, TypeError, KeyError, AttributeError, InvalidRequest, zlib.error):
        return MAY_HAVE_CREATED
    return KeptAnswer(status=status, headers=headers, body=whole if separator else None, task=task)


def _is_header(header: tuple[str, object]) -> bool:
    name, value = header
    return isinstance(value, str) and _HEADER.fullmatch(f"{name}:{value}") is not None


def _task(fields: list[str]) -> TaskKey:
    upstream, task_id, account = map(str, fields)
    return TaskKey(upstream, check_task_id(task_id), account)


def _unpacked(data: bytes) -> bytes:
    """The decompressed body.

    Raises:
        ValueError: It is longer than any that was kept, or cut short.
    """
    inflate = zlib.decompressobj()
    body = inflate.decompress(data, MAX_BODY + 1)
    if len(body) > MAX_BODY or not inflate.eof:
        raise ValueError("not a kept body")
    return body
