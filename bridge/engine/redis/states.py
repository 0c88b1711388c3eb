"""States, notices, the log, and the orders over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import (
    DEFAULT_JOB_LIMITS,
    MAX_TASKS,
    Applied,
    Apply,
    ApplyOutcome,
    End,
    Entry,
    JobLimits,
    Mode,
    Past,
    Record,
)
from bridge.engine.redis.keys import (
    Keys,
    account_text,
    details_names,
    escaped,
    listed_name,
    read_task,
    task_text,
)
from bridge.engine.redis.link import reads_answer
from bridge.engine.redis.replies import read_past, read_record
from bridge.engine.redis.tasks import RedisTasks
from bridge.engine.redis.wire import Argument

_PORTION = 1000
# Read by `apply.lua`; behind it come texts with their lengths.
_STATE = Struct(">Bc?HHIII")
_MODES = {Mode.FREE: 0, Mode.OWNER: 1, Mode.AMEND: 2}
_ENDS = {end: b"%d" % end for end in End}
_VERDICTS = {verdict.value.encode(): verdict for verdict in ApplyOutcome}


class _KeyTable:
    """The keys of a call, each once, and where they are in it."""

    def __init__(self, *keys: bytes) -> None:
        self.keys = list(keys)
        self._places: dict[bytes, int] = {}
        self._accounts: dict[tuple[str, bytes], int] = {}

    def of(self, *keys: bytes) -> int:
        """The place of the first of some keys that follow each other, from 1."""
        place = self._places.get(keys[0])
        if place is None:
            place = self._places[keys[0]] = len(self.keys) + 1
            self.keys += keys
        return place

    def of_account(self, own: Keys, upstream: str, account: bytes) -> int:
        """The place of the keys of an account: open and ended tasks, its upstream's list, its orphans."""
        place = self._accounts.get((upstream, account))
        if place is None:
            orders = [own.changed(upstream, account, final=final) for final in (False, True)]
            place = self.of(*orders, own.named("list", upstream), own.orphans(account))
            self._accounts[upstream, account] = place
        return place


class RedisStates(RedisTasks):
    """What is recorded, and reading it."""

    @reads_answer
    async def apply(
        self, session: str, states: Sequence[Apply], *, limits: JobLimits = DEFAULT_JOB_LIMITS
    ) -> list[Applied]:
        """See `Engine.apply`."""
        if not states:
            return []
        own = self.keys
        places = _KeyTable(
            *(own.meta, own.log, own.sessions, own.owned, own.wants, own.accounts, own.expiry, own.queues)
        )
        _, ended_life, open_life = self._lives
        arguments: list[Argument] = [session, self.limits.log, self.limits.history, ended_life, open_life]
        arguments += (limits.jobs, limits.size)
        for state in states:
            arguments += self._state_arguments(state, places)
        answers = await self.run("apply", places.keys, *arguments)
        return [_read_applied(state, answer) for state, answer in zip(states, answers, strict=True)]

    def _state_arguments(self, state: Apply, places: _KeyTable) -> list[Argument]:
        own, key = self.keys, state.key
        task, account, tails = task_text(key), account_text(key.account), own.tails(key)
        raw = state.raw if state.raw is not None and len(state.raw) <= self.limits.raw_bytes else None
        details = [] if state.details is None else [state.details, *details_names(state.details)]
        fields = _STATE.pack(
            _MODES[state.mode],
            _ENDS[state.end],
            raw is not None,
            len(details),
            len(state.jobs),
            places.of(own.record(task), own.history(task)),
            places.of_account(own, key.upstream, account),
            places.of(tails) if tails is not None else 0,
        )
        stamp = state.stamp
        texts = (b"%d" % state.expect, b"%d" % stamp.version, stamp.session.encode(), state.digest, task)
        fields += b"".join([len(text).to_bytes(4) + text for text in texts])
        arguments: list[Argument] = [fields, state.document, raw or b"", *details]
        for job in state.jobs:
            queue = [own.named(f"jobs-{part}", job.queue) for part in ("all", "ready", "order", "info")]
            arguments += (
                places.of(*queue),
                job.queue,
                job.id,
                job.body,
                escaped(job.ordering),
                job.due,
                job.attempts,
            )
        return arguments

    @reads_answer
    async def records(self, keys: Sequence[TaskKey]) -> list[Record]:
        """See `Engine.records`."""
        if not keys:
            return []
        answers = await self.plain(*(("HGETALL", self.keys.record(task_text(key))) for key in keys))
        return [read_record(key, fields) for key, fields in zip(keys, answers, strict=True)]

    @reads_answer
    async def history(self, key: TaskKey, after: int) -> list[Past]:
        """See `Engine.history`."""
        (texts,) = await self.plain(("LRANGE", self.keys.history(task_text(key)), -self.limits.history, -1))
        past: list[Past] = [read_past(text) for text in texts]
        return [state for state in past if state.offset > after]

    @reads_answer
    async def newest(self, upstream: str, account: str, *, final: bool, limit: int) -> list[TaskKey]:
        """See `Engine.newest`."""
        if limit <= 0:
            return []
        key = self.keys.changed(upstream, account_text(account), final=final)
        (tasks,) = await self.plain(("ZREVRANGE", key, 0, limit - 1))
        return [read_task(task) for task in tasks]

    @reads_answer
    async def listing(
        self, upstream: str, *, tag: str = "", group: str = "", after: int = 0, limit: int = MAX_TASKS
    ) -> list[tuple[int, TaskKey]]:
        """See `Engine.listing`."""
        names = [listed_name(kind, name) for kind, name in (("tag", tag), ("group", group)) if name] or [b""]
        key = self.keys.named("list", upstream)
        found: list[tuple[int, TaskKey]] = []
        while len(found) < limit:
            name, count = names[0], limit - len(found) if len(names) == 1 else _PORTION
            first = b"(%b\0%016d\1" % (name, max(after, 0))
            (members,) = await self.plain(("ZRANGEBYLEX", key, first, b"(%b\1" % name, "LIMIT", 0, count))
            places = [member[len(name) :] for member in members]
            if len(names) > 1 and places:
                (scores,) = await self.plain(("ZMSCORE", key, *(names[1] + place for place in places)))
                chosen = [place for place, score in zip(places, scores, strict=True) if score is not None]
            else:
                chosen = places
            found += [_read_listed(place) for place in chosen]
            if len(members) < count:
                break
            after = _read_listed(places[-1])[0]
        return found[:limit]

    @reads_answer
    async def register(self, session: str, key: TaskKey, details: bytes) -> int:
        """See `Engine.register`."""
        own, task, tails = self.keys, task_text(key), self.keys.tails(key)
        _, ended_life, open_life = self._lives
        keys = [own.meta, own.log, own.sessions, own.expiry, own.record(task), own.history(task)]
        keys += (own.named("list", key.upstream), tails or own.expiry)
        offset = await self.run(
            "register",
            keys,
            *(session, task, details, int(tails is not None), self.limits.log, ended_life, open_life),
            *details_names(details),
        )
        return int(offset)

    async def read(self, after: int, *, block: float, limit: int = 1000) -> list[Entry]:
        """See `Engine.read`."""
        return await self.reader.read(after, block=block, limit=limit)

    @reads_answer
    async def announce(self, session: str, key: TaskKey, code: str, body: bytes | None) -> int:
        """See `Engine.announce`."""
        own, task, tails = self.keys, task_text(key), self.keys.tails(key)
        offset = await self.run(
            "announce",
            (own.meta, own.log, own.sessions, own.expiry, own.record(task), tails or own.expiry),
            *(session, task, code, body or b"", int(body is not None), self.limits.log, self._lives[0]),
            int(tails is not None),
        )
        return int(offset)

    @reads_answer
    async def confirm(self, session: str, confirmed: Sequence[tuple[TaskKey, Confirmation]]) -> None:
        """See `Engine.confirm`."""
        own = self.keys
        for start in range(0, len(confirmed), MAX_TASKS):
            keys = [own.meta, own.log, own.sessions]
            arguments: list[Argument] = [session, self.limits.log]
            for key, (observed_at, *eta) in confirmed[start : start + MAX_TASKS]:
                task = task_text(key)
                keys.append(own.record(task))
                arguments += (
                    task,
                    repr(observed_at),
                    " ".join("-" if one is None else repr(one) for one in eta),
                )
            await self.run("confirm", keys, *arguments)


def _read_applied(state: Apply, answer: Any) -> Applied:
    if isinstance(answer, bytes):
        return Applied(ApplyOutcome.RECORDED, int(answer), state.stamp.version)
    verdict, offset, version, dropped = answer[:4]
    record = read_record(state.key, answer[4]) if len(answer) > 4 else None
    return Applied(_VERDICTS[verdict], int(offset), int(version), record, dropped)


def _read_listed(member: bytes) -> tuple[int, TaskKey]:
    """Offset and task as they are in a listing, after a zero byte."""
    return int(member[1:17]), read_task(member[18:])
