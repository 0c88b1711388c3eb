"""Budgets, samples, small documents, operations, jobs and holds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bridge.core.price import MAX_FACTOR, raised_factor, sane_raise
from bridge.core.schedule import MAX_BACKOFF, MAX_WAIT
from bridge.engine.base import (
    CLAIM_BYTES,
    DEFAULT_JOB_LIMITS,
    LEARNED_SECONDS,
    Held,
    Job,
    JobLimits,
    Lent,
    Operation,
    OperationState,
    Put,
    Report,
    Take,
    Waiting,
)
from bridge.engine.redis.key_table import KeyTable, job_arguments
from bridge.engine.redis.link import MICROSECONDS, EngineLink, in_microseconds, reads_answer
from bridge.engine.redis.wire import Argument

FIRST_PAUSE = 1.0
_MAX_SLOTS = 10_000
_MAX_SAMPLES = 4_000
_MIN_RATE = 1e-6
_EVER = 1e12  # seconds
_PORTION = 100  # queues or jobs in one call


class RedisDocuments(EngineLink):
    """Everything that is not about one task."""

    @reads_answer
    async def take(self, session: str, take: Take) -> Lent:
        """See `Engine.take`."""
        apart: int | str = ""
        if take.rate is not None and take.rate > 0:
            # Rounded up: a microsecond less would make 41 requests of 40 per second.
            apart = math.ceil(MICROSECONDS / max(take.rate, _MIN_RATE))
        name = take.credential
        answer = await self.run(
            "take",
            (
                self.keys.sessions,
                *(self.keys.named(kind, name) for kind in ("budget", "permits", "planned", "planned-for")),
            ),
            session,
            apart,
            min(max(take.slots, 0), _MAX_SLOTS),
            round(min(max(take.horizon, 0.0), MAX_WAIT) * MICROSECONDS),
            max(take.permits, 0),
            "" if take.max_permits is None else take.max_permits,
            repr(max(float(take.planned), 0.0)) if math.isfinite(take.planned) else "0",
            max(take.open_tasks, 0),
            repr(raised_factor(take.factor, 1.0)),
            repr(sane_raise(take.raised)),
            repr(MAX_FACTOR),
        )
        now, permits, next_slot, paused, failures, planned, open_tasks, factor, *slots = answer
        return Lent(
            now=int(now),
            slots=[int(slot) for slot in slots],
            permits=permits,
            next_slot=int(next_slot),
            paused_until=int(paused),
            failures=int(failures),
            planned=float(planned),
            open_tasks=int(open_tasks),
            factor=float(factor),
        )

    @reads_answer
    async def report(
        self, session: str, credential: str, report: Report, *, seconds: float = 0.0
    ) -> tuple[int, int]:
        """See `Engine.report`."""
        own = self.keys
        paused, failures = await self.run(
            "report",
            (own.meta, own.log, own.sessions, own.named("budget", credential)),
            *(session, credential, report.value, repr(seconds) if seconds > 0 else "0", self.limits.log),
            *(repr(MAX_WAIT), repr(FIRST_PAUSE), repr(MAX_BACKOFF)),
        )
        return int(paused), failures

    @reads_answer
    async def probe(self, session: str, credential: str, *, seconds: float) -> bool:
        """See `Engine.probe`."""
        keys = (self.keys.sessions, self.keys.named("budget", credential))
        return bool(await self.run("probe", keys, session, in_microseconds(seconds)))

    @reads_answer
    async def learn(self, name: str, samples: Sequence[bytes], *, keep: int) -> None:
        """See `Engine.learn`."""
        # No more than are kept: a script can take only so many arguments.
        newest = samples[-min(keep, _MAX_SAMPLES) :] if keep > 0 else ()
        keys = (self.keys.named("learned", name),)
        await self.run("learn", keys, max(keep, 0), round(LEARNED_SECONDS * 1000), *newest)

    @reads_answer
    async def learned(self, names: Sequence[str]) -> list[list[bytes]]:
        """See `Engine.learned`."""
        if not names:
            return []
        return await self.plain(
            *(("LRANGE", self.keys.named("learned", name), -_MAX_SAMPLES, -1) for name in names)
        )

    @reads_answer
    async def put(
        self, name: str, value: bytes | None, *, expect: int | None, seconds: float, announced: bool = False
    ) -> Put:
        """See `Engine.put`."""
        own = self.keys
        written, version, now = await self.run(
            "put",
            (own.meta, own.log, own.named("doc", name)),
            *(name.encode("utf-8", "surrogatepass"), value or b"", int(value is not None)),
            *("" if expect is None else expect, in_microseconds(seconds), int(announced), self.limits.log),
        )
        return Put(bool(written), int(version), now)

    @reads_answer
    async def get(self, names: Sequence[str]) -> list[tuple[int, bytes | None]]:
        """See `Engine.get`."""
        if not names:
            return []
        keys = [self.keys.named("doc", name) for name in names]
        answers = await self.run("get", keys)
        return [(int(version), value) for version, value in answers]

    @reads_answer
    async def begin(self, session: str, name: str, digest: bytes, *, seconds: float) -> Operation:
        """See `Engine.begin`."""
        keys = (self.keys.sessions, self.keys.operation(name.encode("utf-8", "surrogatepass")))
        state, *answer = await self.run("begin", keys, session, digest, in_microseconds(seconds))
        return Operation(OperationState(state.decode()), answer[0] if answer else None)

    @reads_answer
    async def finish(self, session: str, name: str, answer: bytes | None) -> bool:
        """See `Engine.finish`."""
        own = self.keys
        finished, *too_many = await self.run(
            "finish",
            (own.sessions, own.operation(name.encode("utf-8", "surrogatepass")), own.answers, own.meta),
            *(session, answer or b"", int(answer is not None), name.encode("utf-8", "surrogatepass")),
            *(self.limits.max_answers, self.limits.answer_bytes),
        )
        if too_many:
            await self.run("forget_answers", [own.operation(forgotten) for forgotten in too_many])
        return bool(finished)

    @reads_answer
    async def add_jobs(self, jobs: Sequence[Job], *, limits: JobLimits = DEFAULT_JOB_LIMITS) -> int:
        """See `Engine.add_jobs`."""
        dropped = 0
        for start in range(0, len(jobs), _PORTION):
            places = KeyTable(self.keys.queues)
            arguments: list[Argument] = []
            for job in jobs[start : start + _PORTION]:
                arguments += (*job_arguments(self.keys, job, places), job.offset)
            dropped += int(await self.run("add_jobs", places.keys, limits.jobs, limits.size, *arguments))
        return dropped

    @reads_answer
    async def claim_jobs(
        self, session: str, queue: str, *, limit: int, lease: float, ahead: float = 0.0
    ) -> list[Job]:
        """See `Engine.claim_jobs`."""
        keys = (self.keys.sessions, self.keys.queues, *self.keys.queue(queue))
        seconds = in_microseconds(lease), in_microseconds(ahead)
        answers = await self.run("claim_jobs", keys, session, queue, max(limit, 0), *seconds, CLAIM_BYTES)
        return [
            Job(
                queue=queue,
                id=id_.decode("utf-8", "surrogatepass"),
                body=body,
                ordering=_unescaped(ordering),
                due=int(due),
                attempts=attempts,
                replaceable=replaceable == b"1",
                offset=int(offset),
            )
            for id_, body, ordering, due, attempts, replaceable, offset in answers
        ]

    @reads_answer
    async def finish_job(
        self, session: str, queue: str, job: str, *, retry_at: int = 0, attempted: bool = True
    ) -> bool:
        """See `Engine.finish_job`."""
        keys = (self.keys.sessions, self.keys.queues, *self.keys.queue(queue))
        return bool(await self.run("finish_job", keys, session, queue, job, retry_at, int(attempted)))

    @reads_answer
    async def waiting(self, queues: Sequence[str]) -> list[Waiting]:
        """See `Engine.waiting`."""
        found: list[Waiting] = []
        for start in range(0, len(queues), _PORTION):
            portion = queues[start : start + _PORTION]
            keys = [self.keys.queues, *(key for queue in portion for key in self.keys.queue(queue))]
            answers = await self.run("waiting", keys, *portion)
            found += [
                Waiting(int(jobs), int(float(oldest)))
                for jobs, oldest in zip(answers[::2], answers[1::2], strict=True)
            ]
        return found

    @reads_answer
    async def drop_queue(self, queue: str) -> int:
        """See `Engine.drop_queue`."""
        return int(await self.run("drop_queue", (self.keys.queues, *self.keys.queue(queue)), queue))

    @reads_answer
    async def hold(self, counter: str, hold: str, amount: float, *, limit: float, window: float) -> Held:
        """See `Engine.hold`."""
        length: int | str = max(round(window * MICROSECONDS), 1) if window < _EVER else ""
        keys = (self.keys.named("hold", counter),)
        ok, used = await self.run("hold", keys, hold, repr(float(amount)), repr(float(limit)), length)
        return Held(bool(ok), float(used))

    @reads_answer
    async def settle(self, counter: str, hold: str, amount: float) -> None:
        """See `Engine.settle`."""
        await self.run("settle", (self.keys.named("hold", counter),), hold, repr(float(amount)))


def _unescaped(text: bytes) -> str:
    """The reverse of `escaped`."""
    out = text.replace(b"\1\1", b"\1\3").replace(b"\1\2", b"\0").replace(b"\1\3", b"\1")
    return out.decode("utf-8", "surrogatepass")
