"""`Idempotency-Key`: a submit that is sent once, whether or not its client repeats it.

Rule 1: the key is taken in the ledger before anything is sent to the provider, and all from there to the kept
        answer runs to completion, whether or not the client waits for it.
Rule 2: only an error that surely created nothing frees a key. What may have created a task, a process that
        ended in the middle included, is never sent again: a repeat finds the task by the client's own id, or
        is answered that it may exist.
Rule 3: a ledger that does not answer frees nothing. What became of the key is written once it does; until
        then, this process knows.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Generic, NamedTuple, TypeVar

from starlette.datastructures import Headers

from bridge.auth.caller import Caller
from bridge.core.task import TaskKey
from bridge.engine.base import Operation, OperationState
from bridge.errors import (
    BridgeError,
    IdempotencyMismatch,
    InvalidRequest,
    JournalError,
    Overloaded,
    RequestError,
    SubmitInFlight,
    TaskMayExist,
    UpstreamError,
)
from bridge.sources.upstream import Upstream
from bridge.telemetry.request_context import current_request
from bridge.watchers.submitter import MAY_EXIST, may_exist
from bridge.web.kept_answers import MAY_HAVE_CREATED, KeptAnswer, decode_answer
from bridge.web.services import Services

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
KEPT_SECONDS = 86_400.0
MAX_KEY = 255
MAX_UNFREED = 1024
"""Keys that wait to be freed. Answers wait without a limit: while the ledger is away, nothing is sent."""

UNFREED_SENTENCE = "the Idempotency-Key cannot be freed yet; nothing was submitted"

_BOUNDARY = re.compile(r'(?i)multipart/[^;]+;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))')
_MAX_CONTENT_TYPE = 512
_MAX_HASHED_IN_LOOP = 128 * 1024
_MIN_PAUSE = 0.1
_MAX_PAUSE = 5.0
_VISIBLE = re.compile(r"[\x21-\x7e]{1,255}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class SubmitKey(NamedTuple):
    """One submit that must happen once.

    Args:
        name: Of the operation: of the caller and the key, neither of which can be read from it.
        digest: Of what is asked for.
    """

    name: str
    digest: bytes


def idempotency_key(headers: Headers) -> str | None:
    """The client's key; None where it sent none.

    A string in quotes, as the IETF's draft has it, is the key between them: clients send both.

    Raises:
        InvalidRequest: It is malformed, or there are several.
    """
    values = headers.getlist(HEADER)
    if not values:
        return None
    if len(values) > 1:
        raise InvalidRequest(f"more than one `{HEADER}` was sent")
    key = values[0].strip()
    if key.startswith('"') and (quoted := _QUOTED.fullmatch(key)) is not None:
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    if not _VISIBLE.fullmatch(key):
        raise InvalidRequest(f"`{HEADER}` must be 1 to {MAX_KEY} visible ASCII characters")
    return key


async def submit_key(
    caller: Caller, key: str, *, method: str, path: str, query: bytes, body: bytes, content_type: str | None
) -> SubmitKey:
    """The operation behind a caller's key; the digest is of what is asked for, and not of headers.

    A body of parts counts without its boundary: libraries make up another one for each attempt.

    Args:
        path: Below the one under which the bridge is mounted.
        query: As it was sent.
    """
    whose = f"{caller.account}/{caller.name}"
    if caller.own_tags:
        # tokens of one subject with other tags open other tasks: neither may replay a submit of the other
        whose = f"tags {' '.join(sorted(caller.own_tags))}/{whose}"
    parts = (method.encode(), path.encode("utf-8", "surrogatepass"), query, body)
    boundary = _BOUNDARY.match((content_type or "")[:_MAX_CONTENT_TYPE])
    line = f"--{boundary[1] or boundary[2]}".encode("latin-1", "replace") if boundary is not None else b""
    if len(body) > _MAX_HASHED_IN_LOOP:
        digest = await asyncio.to_thread(_digest, parts, line)
    else:
        digest = _digest(parts, line)
    owner, named = (sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in (whose, key))
    return SubmitKey(f"submit:{owner[:32]}:{named}", digest)


def _digest(parts: Sequence[bytes], boundary: bytes) -> bytes:
    digest = sha256()
    for part in parts:
        text = part.replace(boundary, b"--") if boundary else part
        digest.update(b"%d:" % len(text))
        digest.update(text)
    return digest.digest()


@dataclass(slots=True)
class KeyedSubmit(Generic[Result]):
    """How a submit with a key is carried out.

    Args:
        upstream: Where it is sent, with the account whose task it creates.
        admit: Counts it against the limits; raises `LimitExceeded`. A repeat that is answered without the
            provider is not counted.
        carry_out: Sends it.
        answer_of: What a repeat is answered with; None where nothing was created.
        find: Finds the task by the client's own id; None where it is not found, or has none.
    """

    key: SubmitKey
    upstream: Upstream
    admit: Callable[[], None]
    carry_out: Callable[[], Awaitable[Result]]
    answer_of: Callable[[Result], KeptAnswer | None]
    find: Callable[[], Awaitable[TaskKey | None]]


class Replayed(NamedTuple):
    """A submit that was carried out before: its task, and its answer if that was kept."""

    task: TaskKey
    answer: KeptAnswer


@dataclass(slots=True, eq=False)
class _Open:
    """A key that this process asks the ledger about, carries out, or could not write yet.

    Args:
        decided: Set once it is known whether this process carries it out.
        unsaved: Whether the ledger does not have `answer` yet; None frees the key.
        carried_out: Whether this process carries it out, or has, and the ledger does not have the answer.
        abandoned: Whether the client was gone before anything was sent.
    """

    digest: bytes
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    unsaved: bool = False
    answer: bytes | None = None
    carried_out: bool = False
    abandoned: bool = False


class _Carried(NamedTuple, Generic[Result]):
    """What came of a submit: one of these is set."""

    result: Result | None = None
    error: Exception | None = None
    known: Operation | None = None


class IdempotentSubmits:
    """The submits of this process that have a key."""

    def __init__(self, services: Services) -> None:
        self._clock = services.clock
        self._ledger = services.ledger
        self._submitter = services.submitter
        self._open: dict[str, _Open] = {}
        self._unfreed = 0

    async def run(self, submit: KeyedSubmit[Result]) -> Result | Replayed:
        """Carry out a submit, or find what a submit with this key was answered.

        Cancellation: once the key is taken, the submit is carried out, and its answer kept.

        Raises:
            IdempotencyMismatch: The key was used for another request.
            SubmitInFlight: The first request with the key has not been answered.
            TaskMayExist: It is unknown whether the first request created a task.
            JournalError: The ledger does not answer; nothing was sent.
            BridgeError: As `submit` raises.
        """
        entry, known = await self._enter(submit.key)
        if entry is None:
            return await self._repeated(submit, known)
        answered: asyncio.Future[_Carried[Result]] = asyncio.get_running_loop().create_future()

        def close(*_: object) -> None:
            # An entry that ends before its answer is written stays: its operation must never be freed.
            if not entry.carried_out and not entry.unsaved and self._open.get(submit.key.name) is entry:
                del self._open[submit.key.name]
            entry.decided.set()
            answered.cancel()

        running = self._submitter.start(self._once(submit, entry, answered, close))
        running.add_done_callback(close)  # if it was cancelled before it began
        try:
            carried = await asyncio.shield(answered)
        except asyncio.CancelledError:
            entry.abandoned = True
            raise
        if carried.known is not None:
            return await self._repeated(submit, carried.known)
        if carried.error is not None:
            raise carried.error
        return carried.result  # type: ignore[return-value] # what is left

    async def _enter(self, key: SubmitKey) -> tuple[_Open | None, Operation]:
        """This process's entry for the operation, or what is known of one that it has open."""
        while (known := self._open.get(key.name)) is not None:
            await known.decided.wait()
            if self._open.get(key.name) is not known:
                continue
            if known.unsaved and known.answer is None:
                raise JournalError(UNFREED_SENTENCE)  # for another request too: it may have the key soon
            if known.digest != key.digest:
                return None, Operation(OperationState.MISMATCH)
            if known.unsaved:
                return None, Operation(OperationState.DONE, known.answer)
            return None, Operation(OperationState.PENDING)
        entry = self._open[key.name] = _Open(key.digest)
        return entry, Operation(OperationState.NEW)

    async def _once(
        self,
        submit: KeyedSubmit[Result],
        entry: _Open,
        answered: asyncio.Future[_Carried[Result]],
        close: Callable[[], None],
    ) -> None:
        """From the key that is taken to the answer that is kept; `answered` gets what the client gets."""
        key = submit.key
        try:
            try:
                operation = await self._ledger.begin(key.name, key.digest, seconds=KEPT_SECONDS)
            except JournalError as error:
                # it may be begun although no answer came; nothing was sent, so it is freed
                answered.set_result(_Carried(error=_nothing_sent(error)))
                self._save_later(key, entry)
                return
            if operation.state is not OperationState.NEW:
                answered.set_result(_Carried(known=operation))
                return
            entry.decided.set()
            entry.carried_out = True
            carried, entry.answer = await self._carry_out(submit, entry)
            if await self._save(key, entry.answer):
                entry.carried_out = False
            else:
                self._save_later(key, entry)
            answered.set_result(carried)
        finally:
            close()

    async def _carry_out(
        self, submit: KeyedSubmit[Result], entry: _Open
    ) -> tuple[_Carried[Result], bytes | None]:
        """What came of it, and what a repeat is answered with; None frees the key."""
        if entry.abandoned:
            return _Carried(error=Overloaded()), None
        try:
            submit.admit()
            result = await submit.carry_out()
        except asyncio.CancelledError:
            if not _was_sent() and await self._save(submit.key, None):
                entry.carried_out = False
            raise
        except Exception as error:  # noqa: BLE001 - raised again where the client is answered
            if _created_nothing(error):
                return _Carried(error=error), None
            forbid_retry(error)
            return _Carried(error=error), MAY_HAVE_CREATED.encode()
        try:
            kept = submit.answer_of(result)
            return _Carried(result), None if kept is None else kept.encode()
        except Exception:
            logger.exception("answer to a submit not kept")
            return _Carried(result), MAY_HAVE_CREATED.encode()  # the client still gets what was created

    async def _repeated(self, submit: KeyedSubmit[Result], operation: Operation) -> Replayed:
        """The answer to a repeat."""
        if operation.state is OperationState.MISMATCH:
            raise IdempotencyMismatch
        if operation.state is OperationState.PENDING:
            raise SubmitInFlight
        answer = operation.answer
        if operation.state is OperationState.DEAD:
            ((_, answer),) = await self._ledger.get([_late_answer(submit.key)])
        kept = decode_answer(answer)
        whose = (submit.upstream.name, submit.upstream.account)
        if kept.task is not None and (kept.task.upstream, kept.task.account) == whose:
            return Replayed(kept.task, kept)
        task = await submit.find()
        if task is None:
            raise TaskMayExist
        return Replayed(task, KeptAnswer(task=task))

    async def _save(self, key: SubmitKey, answer: bytes | None) -> bool:
        """Write what became of a key; False if the ledger does not answer."""
        try:
            if await self._ledger.finish(key.name, answer) or answer is None:
                return True
            # Begun in a session that has ended, or lost by the engine: in the first case no session can
            # finish it, and the answer is kept beside it.
            again = await self._ledger.begin(key.name, key.digest, seconds=KEPT_SECONDS)
            if again.state is OperationState.NEW:
                await self._ledger.finish(key.name, answer)
            elif again.state is OperationState.DEAD:
                await self._ledger.put(_late_answer(key), answer, expect=None, seconds=KEPT_SECONDS)
        except JournalError:
            return False
        return True

    def _save_later(self, key: SubmitKey, entry: _Open) -> None:
        """Offer it to the ledger until that answers; until then this process answers repeats."""
        if entry.answer is None and self._unfreed >= MAX_UNFREED:
            return  # whether it is freed or not, it cannot be used until this process ends
        entry.unsaved = True
        entry.decided.set()
        self._submitter.start(self._offer(key, entry), drained=False)

    async def _offer(self, key: SubmitKey, entry: _Open) -> None:
        self._unfreed += entry.answer is None
        try:
            pause = _MIN_PAUSE
            until = self._clock.monotonic() + KEPT_SECONDS
            while self._clock.monotonic() < until:
                await self._clock.sleep(pause)
                if await self._save(key, entry.answer):
                    entry.carried_out = False
                    break
                pause = min(2 * pause, _MAX_PAUSE)
        finally:
            self._unfreed -= entry.answer is None
            entry.unsaved = False
            if not entry.carried_out:
                del self._open[key.name]


def _late_answer(key: SubmitKey) -> str:
    """The document that has the answer if the operation was begun in a session that has ended."""
    return f"answer-of-{key.name}"


def _nothing_sent(error: JournalError) -> JournalError:
    """The same error, which states what it means for a submit."""
    return type(error)(f"{error}; nothing was submitted", retry_after=error.retry_after)


def _was_sent() -> bool:
    """Whether the request that is being carried out was sent to the provider."""
    request = current_request()
    return request is None or request.create_sent


def _created_nothing(error: Exception) -> bool:
    """Whether it is sure that a submit which ended so created no task."""
    if isinstance(error, UpstreamError):
        return not may_exist(error)
    return isinstance(error, RequestError) or not _was_sent()


def forbid_retry(error: Exception) -> None:
    """With the same key a retry cannot succeed, with another one it may create a second task."""
    if isinstance(error, BridgeError):
        error.retryable, error.retry_after = False, None
        if MAY_EXIST not in str(error):
            error.args = (f"{error}; {MAY_EXIST}",)
