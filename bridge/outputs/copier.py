"""Copies the outputs of a task that has ended: before its end is recorded, or else afterwards.

Rule 1: an end waits for its copies, at most `wait_seconds` in all. Then it is recorded with those that are
        there, even if the provider or the store hangs. No copy changes its status.
Rule 2: what is missing then is a job, written in the same step as the end (`CopyPlanner`). Any bridge
        carries it out and amends the end. A bridge that is killed leaves its jobs to the others.
Rule 3: a copy's name derives from task and number: made twice, it is the same object.
Rule 4: never whole in memory, and never more than `copies_in_flight` at once.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from hashlib import blake2b
from typing import NamedTuple, Protocol
from urllib.parse import parse_qs, quote, urlsplit

import orjson

from bridge.clock import Clock
from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.core.merge import amends, is_ended
from bridge.core.schedule import backoff
from bridge.core.task import Output, State, Status, TaskKey
from bridge.engine.base import Job
from bridge.errors import BridgeError, JournalError, UpstreamError, UpstreamRefused
from bridge.journal.base import Journal
from bridge.outputs.media_type import media_type_of
from bridge.outputs.names import object_name
from bridge.outputs.source import EXPIRED, OutputSource
from bridge.outputs.store import FileTooLarge, OutputStore, StoreError
from bridge.sources.upstream import Upstream

QUEUE = "copies"
STALLED_SECONDS = 120.0
"""Without a byte that the store took, a copy is given up: it is tried again."""

COPY_SECONDS = 3600.0
"""The longest that one attempt takes."""

LEASE_SECONDS = 2 * COPY_SECONDS
FIRST_RETRY_SECONDS = 10.0
MAX_RETRY_SECONDS = 3600.0
MAX_ATTEMPTS = 12
"""About four hours of them."""

MAX_REFUSED = 4
"""So often a link is tried that the provider refuses: some have the file a moment after the end."""

MAX_WAITING_ENDS = 1000
"""Ends that wait for copies at once: of more, the jobs make the copies."""

MAX_RENEWED = 200
"""Ends whose links are signed again for one client."""

CLOCK_ERROR_SECONDS = 60.0
"""Between a bridge and a store, with room to spare."""

DUE_BEFORE_MICROSECONDS = 1_000_000

_SIGNED_AT = "X-Amz-Date"

logger = logging.getLogger(__name__)


class CopyResult(StrEnum):
    """What became of a copy; the label of `bridge_output_copies_total`."""

    IN_TIME = "in_time"  # the end was recorded with it
    LATER = "later"  # the end was amended
    ERROR = "error"  # an attempt failed
    FAILED = "failed"  # given up


class CopyCounts(Protocol):
    """Counts copies."""

    def copied(self, result: CopyResult, size: int, seconds: float) -> None:
        """A copy was made."""

    def failed(self, result: CopyResult, number: int = 1) -> None:
        """Attempts failed, or copies were given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyLimits:
    """The settings of copies.

    Args:
        wait_seconds: How long an end waits for all of its copies.
        max_bytes: The largest file that is copied.
        max_bytes_per_task: Of all files of one task together.
        in_flight: Copies at once in this process.
    """

    wait_seconds: float
    max_bytes: int
    max_bytes_per_task: int
    in_flight: int


class CopyJob(NamedTuple):
    """What a job holds.

    Args:
        ended_at: Unix seconds.
    """

    key: TaskKey
    ended_at: float

    def encode(self) -> bytes:
        """As the body of a job."""
        return orjson.dumps({"v": 1, "task": [*self.key], "at": self.ended_at})

    @classmethod
    def decode(cls, body: bytes) -> CopyJob | None:
        """What `encode` wrote; None for anything else."""
        try:
            fields = orjson.loads(body)
            return cls(TaskKey(*map(str, fields["task"])), float(fields["at"]))
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(slots=True, eq=False)
class _Copies:
    """The copies of one task that are being made.

    Attributes:
        urls: Of those that are there, by number.
        failures: Why others failed.
        left: Bytes that may still be copied of this task.
        since: Copies that were written after this are of the end, Unix seconds; None for none.
        late: Whether the end is recorded.
        wake: Set when all are done, or an end must wait no longer.
    """

    left: int
    since: float | None
    late: bool
    urls: dict[int, str] = field(default_factory=dict)
    failures: dict[int, Exception] = field(default_factory=dict)
    running: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, size: int) -> None:
        """So many bytes more are copied.

        Raises:
            FileTooLarge: They are too many.
        """
        self.left -= size
        if self.left < 0:
            raise FileTooLarge


class Copier:
    """Makes copies, and remembers how that goes.

    Args:
        upstream_of: The upstream of a task as its account sees it; raises a BridgeError where it is not at
            hand, such as a caller's key that only another bridge has.
        random: Returns 0-1, for jitter.
    """

    def __init__(
        self,
        source: OutputSource,
        store: OutputStore,
        journal: Journal,
        clock: Clock,
        limits: CopyLimits,
        *,
        upstream_of: Callable[[TaskKey], Upstream],
        counts: CopyCounts,
        random: Callable[[], float],
    ) -> None:
        self._source = source
        self._store = store
        self._journal = journal
        self._clock = clock
        self._limits = limits
        self._upstream_of = upstream_of
        self._counts = counts
        self._random = random
        self._room = asyncio.Semaphore(limits.in_flight)
        self._copies: dict[TaskKey, _Copies] = {}
        self._draining = False
        self.in_flight = 0
        self.waiting_ends = 0
        self.last_error: str | None = None
        self.last_error_at: float | None = None

    @property
    def room_for_jobs(self) -> int:
        """How many jobs are carried out at once: half of the copies are for ends that wait."""
        return max(1, self._limits.in_flight // 2)

    def before_end(self, upstream: Upstream, key: TaskKey, state: State) -> Awaitable[State] | None:
        """Copy the outputs of a task whose end is about to be recorded; see `Upstream.before_end`.

        Returns:
            The end with what was copied within `wait_seconds`; None if there is nothing to copy, or no time.
        """
        if state.status is not Status.COMPLETED or self._draining or key in self._copies:
            return None
        if self.waiting_ends >= MAX_WAITING_ENDS:
            return None
        numbers = [n for n, output in enumerate(state.outputs) if self._can_copy(upstream, key, output)]
        return self._copy_before_end(upstream, key, state, numbers) if numbers else None

    async def _copy_before_end(
        self, upstream: Upstream, key: TaskKey, state: State, numbers: Sequence[int]
    ) -> State:
        copies = _Copies(self._limits.max_bytes_per_task, since=None, late=False)
        self._begin(upstream, key, state, numbers, copies)
        self.waiting_ends += 1
        try:
            await self._clock.wait(copies.wake, self._limits.wait_seconds)
        except BaseException:
            self._abandon(key, copies)
            raise
        finally:
            self.waiting_ends -= 1
            copies.late = True
        if copies.running and not copies.started:
            self._abandon(key, copies)  # all of them still wait for their turn: the job does, too
        return _with_urls(state, copies.urls)

    async def carry_out(self, job: Job) -> float | None:
        """Copy what an end was recorded without; see `bridge.journal.jobs.Handle`.

        Raises:
            JournalError: The end cannot be read or amended.
        """
        wanted = CopyJob.decode(job.body)
        if wanted is None:
            logger.warning("copy job not readable")
            return None
        key = wanted.key
        (event,) = await self._journal.latest([key])
        if event is None or not is_ended(event.state):
            return None  # forgotten, or the task of another life
        try:
            upstream = self._upstream_of(key)
        except BridgeError as error:
            return self._again(job, key, {0: error})
        copies = self._copies.get(key)
        if copies is None:
            outputs = event.state.outputs
            numbers = [n for n, output in enumerate(outputs) if self._can_copy(upstream, key, output)]
            if not numbers:
                return None
            try:
                left = await self._left(key, outputs)
            except StoreError as error:
                return self._again(job, key, {0: error})
            copies = _Copies(left, since=wanted.ended_at - CLOCK_ERROR_SECONDS, late=True)
            self._begin(upstream, key, event.state, numbers, copies)
        # Else it continues what the end did not wait for.
        try:
            await asyncio.gather(*copies.running.values(), return_exceptions=True)
        except BaseException:
            self._abandon(key, copies)
            raise
        if copies.urls:
            await self._journal.amend(key, lambda state: _amended(state, copies.urls))
        return self._again(job, key, copies.failures) if copies.failures else None

    async def renew_links(self, events: Sequence[Event | None]) -> bool:
        """Sign the links to copies again that expire soon, in ends that are about to be shown; never fails.

        Recorded, as a link that was signed now is good for all that read the state in the next time.

        Returns:
            Whether there were any.
        """
        now, renewed = self._clock.time(), 0
        for event in events:
            if event is None or not is_ended(event.state):
                continue
            outputs = event.state.outputs
            numbers = [n for n, output in enumerate(outputs) if _expires_soon(output.stored_url, now)]
            if not numbers:
                continue
            try:
                links = {n: await self._store.link(object_name(event.key, n)) for n in numbers}
                urls = {n: url for n, url in links.items() if url is not None}
                await self._journal.amend(event.key, partial(_with_urls, urls=urls, anew=True))
            except (StoreError, JournalError):
                return renewed > 0  # the file can be read through the bridge all the same
            renewed += 1
            if renewed == MAX_RENEWED:
                break
        return renewed > 0

    def drain(self) -> None:
        """Record ends without waiting from now on: what is not copied is left to the jobs."""
        self._draining = True
        for copies in self._copies.values():
            copies.wake.set()

    async def close(self) -> None:
        """Cancel what is being copied: nothing is left of it, and its job is due again."""
        self.drain()
        running = [task for copies in self._copies.values() for task in copies.running.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _can_copy(self, upstream: Upstream, key: TaskKey, output: Output) -> bool:
        if output.stored_url is not None:
            return False
        return output.data is not None or self._source.can_read(upstream, key, output)

    # One task

    def _begin(
        self, upstream: Upstream, key: TaskKey, state: State, numbers: Sequence[int], copies: _Copies
    ) -> None:
        self._copies[key] = copies
        for n in numbers:
            copies.running[n] = asyncio.create_task(
                self._copy_one(upstream, key, state.outputs[n], n, copies)
            )
            # mypy does not know the type of a lambda with a default
            copies.running[n].add_done_callback(lambda _, n=n: self._ended(key, copies, n))  # type: ignore[misc]

    async def _left(self, key: TaskKey, outputs: Sequence[Output]) -> int:
        """Bytes that may be copied of a task of which some copies are made.

        Raises:
            StoreError: The store does not say how large they are.
        """
        left = self._limits.max_bytes_per_task
        for n, output in enumerate(outputs):
            stored = await self._store.find(object_name(key, n)) if output.stored_url is not None else None
            left -= stored.size if stored is not None else 0
        return left

    def _ended(self, key: TaskKey, copies: _Copies, n: int) -> None:
        copies.running.pop(n, None)
        if not copies.running:
            copies.wake.set()
            if self._copies.get(key) is copies:
                del self._copies[key]

    def _abandon(self, key: TaskKey, copies: _Copies) -> None:
        if self._copies.get(key) is copies:
            del self._copies[key]
        for task in list(copies.running.values()):
            task.cancel()

    async def _copy_one(
        self, upstream: Upstream, key: TaskKey, output: Output, n: int, copies: _Copies
    ) -> None:
        began = self._clock.monotonic()
        async with self._room:
            copies.started.add(n)
            self.in_flight += 1
            try:
                async with asyncio.timeout(COPY_SECONDS):
                    size = await self._transfer(upstream, key, output, n, copies)
                    url = await self._store.link(object_name(key, n))
            except (UpstreamError, StoreError, TimeoutError) as error:
                self._failed(n, copies, error)
            except Exception as error:
                # Neither the end nor the other copies of the task may fail for a fault of ours.
                logger.exception("unhandled exception in copy", extra={"task": key.ref})
                self._failed(n, copies, error)
            else:
                result = CopyResult.LATER if copies.late else CopyResult.IN_TIME
                self._counts.copied(result, size, self._clock.monotonic() - began)
                copies.urls[n] = url or path_of(key, n)
            finally:
                self.in_flight -= 1

    def note(self, sentence: str) -> None:
        """Show in `/status` what went wrong."""
        self.last_error, self.last_error_at = sentence, self._clock.time()

    def _failed(self, n: int, copies: _Copies, error: Exception) -> None:
        copies.failures[n] = error
        self._counts.failed(CopyResult.ERROR)
        self.note(_sentence(error))

    async def _transfer(
        self, upstream: Upstream, key: TaskKey, output: Output, n: int, copies: _Copies
    ) -> int:
        """Copy one file; how many bytes it has."""
        name = object_name(key, n)
        if copies.since is not None:
            stored = await self._store.find(name)
            if stored is not None and stored.modified >= copies.since:
                return stored.size  # whole: only the end was not amended
        largest = min(self._limits.max_bytes, copies.left)
        async with AsyncExitStack() as stack:
            if output.data is not None:
                content = _decoded(output.data)
                media_type = media_type_of(content[:1024], output.media_type, output.type).name
                chunks = _in_chunks(content)
            else:
                file = await stack.enter_async_context(self._source.open(upstream, key, output))
                if file.length is not None and file.length > largest:
                    raise FileTooLarge
                media_type = media_type_of(
                    await file.head(), file.headers.get("content-type"), output.type
                ).name
                chunks = file.chunks()
            stalled = await stack.enter_async_context(asyncio.timeout(STALLED_SECONDS))
            counted = self._counted(chunks, copies, stalled)
            # declared as an iterator, made by a generator, which has to be closed
            stack.push_async_callback(counted.aclose)  # type: ignore[attr-defined]
            stored = await self._store.put(name, counted, media_type=media_type, max_bytes=largest)
            return stored.size

    async def _counted(
        self, chunks: AsyncIterator[bytes], copies: _Copies, stalled: asyncio.Timeout
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        taken = 0
        try:
            async for chunk in chunks:
                taken += len(chunk)
                copies.take(len(chunk))
                yield chunk
                stalled.reschedule(loop.time() + STALLED_SECONDS)
        except BaseException:
            copies.left += taken  # the other files of the task may take its place
            raise

    # Failures

    def _again(self, job: Job, key: TaskKey, failures: Mapping[int, Exception]) -> float | None:
        """When a job is due again, some copies of which failed; None if it is given up."""
        attempts, error = max(job.attempts, 1), next(iter(failures.values()))
        fields: dict[str, object] = {"task": key.ref, "attempts": attempts, "error": _sentence(error)}
        hopeful = attempts < MAX_ATTEMPTS and any(_may_succeed(one, attempts) for one in failures.values())
        if not hopeful:
            self._counts.failed(CopyResult.FAILED, len(failures))
            logger.warning("outputs not copied", extra=fields)
            return None
        logger.info("copy of outputs failed, another attempt follows", extra=fields)
        return backoff(
            attempts - 1, first=FIRST_RETRY_SECONDS, limit=MAX_RETRY_SECONDS, jitter=self._random()
        )


class CopyPlanner:
    """Plans a job for each end that has outputs without a copy. Satisfies `bridge.journal.base.JobPlanner`.

    Args:
        now: Microseconds of the ledger's clock.
        wrote: Called when there are new jobs.
        dropped: Called with how many had no room.
    """

    def __init__(
        self, *, now: Callable[[], int], wrote: Callable[[], None], dropped: Callable[[int], None]
    ) -> None:
        self._now = now
        self._wrote = wrote
        self._dropped = dropped

    def plan(self, key: TaskKey, previous: State | None, state: State, details: TaskDetails) -> Sequence[Job]:
        """See `JobPlanner`."""
        del details
        if state.status is not Status.COMPLETED or not any(map(_lacks_copy, state.outputs)):
            return ()
        if amends(previous, state):
            return ()  # its job knows
        return [
            Job(
                queue=QUEUE,
                id=blake2b("\0".join(key).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest(),
                body=CopyJob(key, state.changed_at).encode(),
                # A little before: the clock of the engine may be behind what this process takes it for.
                due=self._now() - DUE_BEFORE_MICROSECONDS,
            )
        ]

    def written(self, key: TaskKey, jobs: Sequence[Job], dropped: int) -> None:
        """See `JobPlanner`."""
        if dropped:
            logger.warning("outputs not copied", extra={"task": key.ref, "error": "too many copies wait"})
            self._dropped(dropped)
        if jobs:
            self._wrote()


def path_of(key: TaskKey, n: int) -> str:
    """Where the bridge itself serves an output."""
    return f"/v1/tasks/{key.upstream}/{quote(key.task_id, safe='')}/outputs/{n}"


def _lacks_copy(output: Output) -> bool:
    return output.stored_url is None and (output.fetchable or output.file_id is not None)


def _expires_soon(url: str | None, now: float) -> bool:
    """Whether a signed link (AWS Signature Version 4, in the query) is past the half of its time."""
    if url is None or _SIGNED_AT not in url:
        return False
    query = parse_qs(urlsplit(url).query)
    try:
        signed_at = datetime.strptime(query[_SIGNED_AT][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return now > signed_at.timestamp() + float(query["X-Amz-Expires"][0]) / 2
    except (KeyError, ValueError):
        return False


def _with_urls(state: State, urls: Mapping[int, str], *, anew: bool = False) -> State:
    if not urls:
        return state
    outputs = tuple(
        replace(output, stored_url=urls[n]) if n in urls and (anew or output.stored_url is None) else output
        for n, output in enumerate(state.outputs)
    )
    return replace(state, outputs=outputs)


def _amended(state: State, urls: Mapping[int, str]) -> State | None:
    amended = _with_urls(state, urls)
    return None if amended.outputs == state.outputs else amended


def _may_succeed(error: Exception, attempts: int) -> bool:
    if isinstance(error, UpstreamRefused):
        return error.provider_status in EXPIRED and attempts < MAX_REFUSED
    return not isinstance(error, FileTooLarge)


def _sentence(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the copy took too long, or nothing arrived for too long"
    if isinstance(error, BridgeError | StoreError):
        return str(error)
    return "a fault of the bridge: its log has the traceback"


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data)
    except ValueError:
        raise UpstreamRefused("the content that the provider sent inline is not base64") from None


async def _in_chunks(content: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
