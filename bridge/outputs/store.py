"""Where copies of outputs are kept: a directory or a bucket behind one interface.

Names come from `bridge.outputs.names`. Every store passes `tests/contract/test_output_stores.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol


class StoreError(Exception):
    """The store of outputs failed: it cannot be reached, refused, or is full.

    Its sentence names neither an address nor a credential: it may be logged and shown.

    Attributes:
        retryable: Whether the same call may succeed later, without an operator.
    """

    retryable = True

    def __init__(self, message: str = "", *, retryable: bool | None = None) -> None:
        super().__init__(message or self.__class__.__doc__)
        if retryable is not None:
            self.retryable = retryable


class NotStored(StoreError):
    """No copy of this name is stored."""

    retryable = False


class FileTooLarge(StoreError):
    """The file is larger than a copy may be."""

    retryable = False


class StoredFile(NamedTuple):
    """A file in a store.

    Args:
        size: Bytes.
        media_type: As it was given to `put`.
        etag: Without quotes; another one when the bytes are others.
        modified: When it was written, Unix time in seconds.
    """

    size: int
    media_type: str
    etag: str
    modified: float


class OutputStore(Protocol):
    """A place for files, each under the name that its task and number give it.

    Several bridges may use one store at once. Every call may raise `StoreError`; a name that `check_name`
    refuses raises `ValueError`.
    """

    async def check(self) -> None:
        """Write a small file, read it and delete it again, as copies will be.

        Raises:
            StoreError: The store cannot be reached, or does not let the bridge do one of these; says which.
        """

    async def put(
        self, name: str, chunks: AsyncIterator[bytes], *, media_type: str, max_bytes: int
    ) -> StoredFile:
        """Store a file whole, or not at all; instead of the one that has this name, if there is one.

        Backpressure: holds a few chunks, never the file.
        Cancellation: nothing is left under the name that was not there before; the same when `chunks` raises,
        whose error passes through unchanged.

        Args:
            max_bytes: The longest file that is taken.

        Raises:
            FileTooLarge: There are more bytes.
        """

    async def find(self, name: str) -> StoredFile | None:
        """What is stored under a name; None for nothing."""

    def open(
        self, name: str, *, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[tuple[StoredFile, AsyncIterator[bytes]]]:
        """Read the bytes `start` to `end` of a file, as `content[start:end]` would.

        All bytes are of one version of the file, the one described, also while it is replaced.
        Backpressure: nothing is read ahead but what the connection buffers.

        Args:
            start: First byte, from 0; at or after the end of the file nothing is read.
            end: The byte after the last one; None for all that follow.

        Raises:
            NotStored: On entering.
            StoreError: Also by the iterator, where the file breaks off.
        """

    async def link(self, name: str) -> str | None:
        """A URL at which clients read the file without the bridge, signed or public.

        None where only the bridge serves it. A signed one is good for a while: ask for each answer.
        """

    async def delete_before(self, unix_time: float, *, limit: int) -> int:
        """Delete files that were written before a time, at most `limit`; how many there were.

        Idempotent: two bridges may do so at once.
        """

    async def close(self) -> None:
        """Close the connections."""
