"""Copies of outputs in a directory.

A copy is two files: its bytes, `<n>.<random>`, and `<n>.json`, which describes it and names the first. Both
are written in `.parts`, flushed to the disk and renamed, the description last: it is what makes a copy exist.
So a reader finds the old copy or the new one, and a crash leaves neither half. What a killed copy leaves lies
in `.parts` or is named by no description, until `delete_before` removes it.

Below the directory no symbolic link is followed: a process that can write there could otherwise have the
bridge serve any file that it can read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple, TypeVar

import msgspec

from bridge.clock import Clock
from bridge.outputs.names import check_name
from bridge.outputs.store import FileTooLarge, NotStored, StoredFile, StoreError

LEFT_SECONDS = 3600.0
"""A file of no copy was left behind if it was last written so long ago; a running copy keeps writing."""

_PARTS = ".parts"
_JSON = ".json"
_WRITE_BYTES = 1024 * 1024  # collected for one call of a thread: chunks are often much smaller
_READ_BYTES = 256 * 1024
_MAX_DESCRIPTION = 4096
_ATTEMPTS = 5
_THREADS = 8
_BATCH = 64  # folders that one call of a thread lists: some milliseconds
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe would wait for its writer
_EXISTING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Result = TypeVar("Result")
Segments = tuple[str, ...]


class _Description(msgspec.Struct, frozen=True):
    file: str
    size: int
    media_type: str
    etag: str


class _OpenCopy(NamedTuple):
    descriptor: int
    stored: StoredFile


class FileStore:
    """Satisfies `OutputStore`. Only its own user may read the files and folders it makes.

    Args:
        directory: Where the copies are; `check` makes it, but not the one it is in.
    """

    def __init__(self, directory: Path, clock: Clock) -> None:
        self._root = directory
        self._clock = clock
        # Its own threads: a disk that hangs, as one in the network may, holds up nothing else.
        self._threads = ThreadPoolExecutor(_THREADS, "outputs")

    async def check(self) -> None:
        """See `OutputStore`."""
        await self._in_thread(self._check)

    async def put(
        self, name: str, chunks: AsyncIterator[bytes], *, media_type: str, max_bytes: int
    ) -> StoredFile:
        """See `OutputStore`."""
        *folders, last = check_name(name).split("/")
        part = token_hex(16)
        try:
            descriptor = await self._in_thread(partial(self._begin, part), undo=os.close)
            try:
                size, etag = await self._write(descriptor, chunks, max_bytes)
            finally:
                await self._in_thread(partial(os.close, descriptor))
            description = _Description(f"{last}.{part}", size, media_type, etag)
            return await self._in_thread(partial(self._commit, (*folders,), last, part, description))
        finally:
            await self._in_thread(partial(self._remove_part, part))

    async def find(self, name: str) -> StoredFile | None:
        """See `OutputStore`."""
        opened = await self._open(name)
        if opened is None:
            return None
        await self._in_thread(partial(os.close, opened.descriptor))
        return opened.stored

    @contextlib.asynccontextmanager
    async def open(
        self, name: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[tuple[StoredFile, AsyncIterator[bytes]]]:
        """See `OutputStore`."""
        opened = await self._open(name)
        if opened is None:
            raise NotStored
        descriptor, stored = opened
        try:
            yield stored, self._read(descriptor, start, stored.size if end is None else min(end, stored.size))
        finally:
            await self._in_thread(partial(os.close, descriptor))

    async def link(self, name: str) -> None:
        """See `OutputStore`: a directory has no URLs."""
        check_name(name)

    async def delete_before(self, unix_time: float, *, limit: int) -> int:
        """See `OutputStore`."""
        deleted = 0
        with contextlib.closing(self._walk()) as walk:
            there_is_more = True
            while there_is_more and deleted < limit:
                batch = partial(self._collect_batch, walk, unix_time, limit - deleted)
                there_is_more, count = await self._in_thread(batch)
                deleted += count
        return deleted

    async def close(self) -> None:
        """See `OutputStore`."""
        self._threads.shutdown(wait=False)

    async def _in_thread(
        self, work: Callable[[], Result], *, undo: Callable[[Result], object] | None = None
    ) -> Result:
        """Run `work` in a thread, to its end also when cancelled: it uses descriptors that are closed later.

        Args:
            undo: Called with its result then, which is returned to no caller.

        Raises:
            StoreError: The operating system refused.
        """
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():  # a second cancellation does not end it either
                with contextlib.suppress(asyncio.CancelledError, OSError, StoreError):
                    await asyncio.shield(running)
            if undo is not None and running.exception() is None:
                undo(running.result())
            raise
        except OSError as error:
            raise StoreError(_sentence(error)) from error

    async def _write(self, descriptor: int, chunks: AsyncIterator[bytes], max_bytes: int) -> tuple[int, str]:
        """The size and the hash of what was written and flushed."""
        collected = bytearray()
        digest = sha256()
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise FileTooLarge
            collected += chunk
            if len(collected) >= _WRITE_BYTES:
                await self._in_thread(partial(_write_all, descriptor, bytes(collected), digest.update))
                collected.clear()
        await self._in_thread(partial(_write_all, descriptor, bytes(collected), digest.update))
        await self._in_thread(partial(os.fsync, descriptor))
        return size, digest.hexdigest()[:32]

    async def _read(self, descriptor: int, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            read = partial(os.pread, descriptor, min(_READ_BYTES, end - start), start)
            chunk = await self._in_thread(read)
            if not chunk:
                raise StoreError("a stored file is shorter than it was")
            yield chunk
            start += len(chunk)

    def _check(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._root.mkdir(mode=0o700)
        part, text = token_hex(16), b"a test of this directory"
        descriptor = self._begin(part)
        try:
            os.write(descriptor, text)
            os.fsync(descriptor)
            with self._folder(_PARTS) as folder:
                if _content(folder, part) != text:
                    raise StoreError("the directory of outputs does not keep what is written")
        finally:
            os.close(descriptor)
            self._remove_part(part)

    @contextlib.contextmanager
    def _folder(self, *segments: str, make: bool = False) -> Iterator[int]:
        """The descriptor of a folder below the directory, which itself may be a symbolic link."""
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for segment in segments:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(segment, 0o700, dir_fd=descriptor)
                        os.fsync(descriptor)
                below = os.open(segment, _FOLDER, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def _begin(self, part: str) -> int:
        with self._folder(_PARTS, make=True) as parts:
            return os.open(part, _NEW, 0o600, dir_fd=parts)

    def _remove_part(self, part: str) -> None:
        # If that fails, `delete_before` will remove it.
        with contextlib.suppress(OSError), self._folder(_PARTS) as parts:
            os.unlink(part, dir_fd=parts)

    def _commit(self, folders: Segments, last: str, part: str, description: _Description) -> StoredFile:
        """Give a written part its name.

        A part keeps its random name, so that no two copies share a file: each can remove the one that it
        replaces, also while others replace it.
        """
        now = self._clock.time()
        for attempt in count(1):
            try:
                with self._folder(_PARTS) as parts, self._folder(*folders, make=True) as folder:
                    replaced = _describe(folder, last)
                    os.rename(part, description.file, src_dir_fd=parts, dst_dir_fd=folder)
                    self._write_description(parts, folder, last, description, now)
                    os.fsync(folder)
                    if replaced is not None:
                        _unlink(folder, replaced.file)
                    break
            except FileNotFoundError:
                # A folder that was empty: `delete_before`, of any bridge, has removed it by now.
                if attempt == _ATTEMPTS:
                    raise
        return StoredFile(description.size, description.media_type, description.etag, now)

    def _write_description(
        self, parts: int, folder: int, last: str, description: _Description, now: float
    ) -> None:
        part = token_hex(16)
        descriptor = os.open(part, _NEW, 0o600, dir_fd=parts)
        try:
            os.write(descriptor, msgspec.json.encode(description))
            os.utime(descriptor, (now, now))
            os.fsync(descriptor)
            os.rename(part, f"{last}{_JSON}", src_dir_fd=parts, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(description.file, dir_fd=folder)
                os.unlink(part, dir_fd=parts)
            raise
        finally:
            os.close(descriptor)

    async def _open(self, name: str) -> _OpenCopy | None:
        *folders, last = check_name(name).split("/")
        open_copy = partial(self._open_copy, (*folders,), last)
        return await self._in_thread(open_copy, undo=_close_copy)

    def _open_copy(self, folders: Segments, last: str) -> _OpenCopy | None:
        for _ in range(_ATTEMPTS):  # it may be replaced between two steps
            try:
                with self._folder(*folders) as folder:
                    description = _describe(folder, last)
                    if description is None:
                        return None
                    written = os.stat(f"{last}{_JSON}", dir_fd=folder, follow_symlinks=False).st_mtime
                    descriptor = os.open(description.file, _EXISTING, dir_fd=folder)
            except OSError as error:
                if not _is_absent(error):
                    raise
                continue
            found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode) and found.st_size == description.size:
                stored = StoredFile(description.size, description.media_type, description.etag, written)
                return _OpenCopy(descriptor, stored)
            os.close(descriptor)
        return None

    def _walk(self, *segments: str) -> Generator[Segments]:
        """Each folder below the directory, those in it first; `.parts` too."""
        try:
            with self._folder(*segments) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        yield from self._walk(*segments, entry.name)
        except OSError as error:
            if not _is_absent(error):
                raise
        if segments:
            yield segments

    def _collect_batch(self, walk: Iterator[Segments], before: float, limit: int) -> tuple[bool, int]:
        """Whether there are more folders in `walk`, and how many copies were deleted."""
        deleted = 0
        for _ in range(_BATCH):
            segments = next(walk, None)
            if segments is None:
                return False, deleted
            try:
                deleted += self._collect(segments, before, limit - deleted)
            except OSError as error:
                if not _is_absent(error):
                    raise
            if deleted >= limit:
                break
        return True, deleted

    def _collect(self, segments: Segments, before: float, limit: int) -> int:
        left_before = self._clock.time() - LEFT_SECONDS
        deleted = 0
        with self._folder(*segments) as folder:
            names = os.listdir(folder)  # noqa: PTH208 - of a descriptor, which `Path` does not take
            used: set[str] = set()
            for name in names:
                if not name.endswith(_JSON):
                    continue
                description = _describe(folder, name.removesuffix(_JSON))
                if deleted < limit and _is_older(folder, name, before):
                    os.unlink(name, dir_fd=folder)
                    deleted += 1
                elif description is not None:
                    used.add(name)
                    used.add(description.file)
                    continue
                if description is not None:
                    _unlink(folder, description.file)
            for name in names:
                if name not in used and _is_older(folder, name, left_before):
                    _unlink(folder, name)
            is_left = os.fstat(folder).st_mtime < left_before  # a new one is about to be used
        if is_left and segments != (_PARTS,):
            with contextlib.suppress(OSError), self._folder(*segments[:-1]) as above:
                os.rmdir(segments[-1], dir_fd=above)
        return deleted


def _close_copy(opened: _OpenCopy | None) -> None:
    if opened is not None:
        os.close(opened.descriptor)


def _write_all(descriptor: int, content: bytes, hashed: Callable[[bytes], None]) -> None:
    hashed(content)
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _describe(folder: int, last: str) -> _Description | None:
    """What is written of a copy; None without one that can be read, which is as good as none."""
    try:
        description = msgspec.json.decode(_content(folder, f"{last}{_JSON}"), type=_Description)
    except (msgspec.DecodeError, FileNotFoundError):
        return None
    except OSError as error:
        if _is_absent(error):
            return None
        raise
    # The file is beside it, also if the description was edited.
    is_beside = description.file.startswith(f"{last}.") and "/" not in description.file
    return description if is_beside and description.size >= 0 else None


def _content(folder: int, name: str) -> bytes:
    descriptor = os.open(name, _EXISTING, dir_fd=folder)
    try:
        return os.read(descriptor, _MAX_DESCRIPTION)
    finally:
        os.close(descriptor)


def _is_older(folder: int, name: str, than: float) -> bool:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return found.st_mtime < than and not stat.S_ISDIR(found.st_mode)


def _unlink(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _is_absent(error: OSError) -> bool:
    # ELOOP: a symbolic link, which is not followed
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def _sentence(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the directory of outputs is full"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "the directory of outputs is not writable or not readable for the bridge"
    if _is_absent(error):
        return "the directory of outputs does not exist, or is none"
    return f"the directory of outputs fails: {os.strerror(error.errno or errno.EIO)}"
