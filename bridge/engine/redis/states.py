"""States, notices, the log, and the orders over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import (
    DEFAULT_JOB_LIMITS,
    FORGOTTEN_SECONDS,
    MAX_TASKS,
    Applied,
    Apply,
    ApplyOutcome,
    End,
    Entry,
    JobLimits,
    Listing,
    Mode,
    Past,
    Record,
)
from bridge.engine.redis.key_table import KeyTable, job_arguments
from bridge.engine.redis.keys import (
    account_text,
    details_names,
    listed_name,
    read_account,
    read_task,
    task_text,
)
from bridge.engine.redis.link import in_microseconds, reads_answer
from bridge.engine.redis.replies import read_past, read_record
from bridge.engine.redis.tasks import RedisTasks
from bridge.engine.redis.wire import Argument

_PORTION = 1000
# Read by `apply.lua`; behind it come texts with their lengths.
_STATE = Struct(">Bc?HHIII")
_MODES = {Mode.FREE: 0, Mode.OWNER: 1, Mode.AMEND: 2}
_KEEP = 4
_ENDS = {end: b"%d" % end for end in End}
_VERDICTS = {verdict.value.encode(): verdict for verdict in ApplyOutcome}


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
        places = KeyTable(
            *(own.meta, own.log, own.sessions, own.owned, own.wants, own.accounts, own.expiry, own.queues)
        )
        _, ended_life, open_life = self._lives
        arguments: list[Argument] = [session, self.limits.log, self.limits.history, ended_life, open_life]
        arguments += (limits.jobs, limits.size)
        for state in states:
            arguments += self._state_arguments(state, places)
        answers = await self.run("apply", places.keys, *arguments)
        return [_read_applied(state, answer) for state, answer in zip(states, answers, strict=True)]

    def _state_arguments(self, state: Apply, places: KeyTable) -> list[Argument]:
        own, key = self.keys, state.key
        task, account, tails = task_text(key), account_text(key.account), own.tails(key)
        raw = state.raw if state.raw is not None and len(state.raw) <= self.limits.raw_bytes else None
        details = [] if state.details is None else [state.details, *details_names(state.details)]
        fields = _STATE.pack(
            _MODES[state.mode] + (_KEEP if state.keep else 0),
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
            arguments += job_arguments(own, job, places)
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
        self,
        upstream: str,
        account: str,
        *,
        tag: str = "",
        group: str = "",
        before: int = 0,
        limit: int = MAX_TASKS,
    ) -> list[Listing]:
        """See `Engine.listing`."""
        # Of a group there are mostly fewer than of a tag.
        names = [listed_name(kind, name) for kind, name in (("group", group), ("tag", tag)) if name] or [b""]
        key = self.keys.tasks(upstream, account_text(account))
        found: list[Listing] = []
        while len(found) < limit:
            name, count = names[0], limit - len(found) if len(names) == 1 else _PORTION
            newest = b"(%b\0%016d" % (name, before) if before > 0 else b"(%b\1" % name
            question = ("ZRANGE", key, newest, b"(%b\0" % name, "BYLEX", "REV", "LIMIT", 0, count)
            members = await self._listed(upstream, question)
            found += await self._described(key, members, names)
            if len(members) < count:
                break
            before = int(members[-1][len(name) + 1 : len(name) + 17])
        return found[:limit]

    @reads_answer
    async def oldest(self, upstream: str, account: str, *, after: int, limit: int) -> list[Listing]:
        """See `Engine.oldest`."""
        key = self.keys.tasks(upstream, account_text(account))
        found: list[Listing] = []
        while len(found) < limit:
            count = limit - len(found)
            question = ("ZRANGEBYLEX", key, b"(\0%016d\1" % max(after, 0), b"(\1", "LIMIT", 0, count)
            members = await self._listed(upstream, question)
            found += await self._described(key, members, [b""])
            if len(members) < count:
                break
            after = int(members[-1][1:17])
        return found

    @reads_answer
    async def accounts(self, upstream: str) -> list[str]:
        """See `Engine.accounts`."""
        names = await self._listed(upstream, ("SMEMBERS", self.keys.listed(upstream)))
        return sorted(read_account(name) for name in names)

    async def _listed(self, upstream: str, question: tuple[Argument, ...]) -> list[bytes]:
        """The answer to a question about lists, once they have what a version before wrote.

        Such a bridge may run beside this one: what it lists again is found at the next question.
        """
        own = self.keys
        one_list, listed = own.one_list(upstream), own.listed(upstream)
        while True:
            unsorted, answer = await self.plain(("ZRANGE", one_list, 0, _PORTION - 1), question)
            if not unsorted:
                found: list[bytes] = answer
                return found
            places = KeyTable(one_list, listed)
            arguments: list[Argument] = []
            for member in unsorted:
                account = member.split(b"\0", 2)[2].split(b"/", 2)[1]
                arguments += (member, places.of(own.tasks(upstream, account)), account)
            await self.run("sort_in", places.keys, *arguments)

    async def _described(self, key: bytes, members: Sequence[bytes], names: Sequence[bytes]) -> list[Listing]:
        """Members of the first name as they are listed: those that have the other names too."""
        places = [member[len(names[0]) :] for member in members]
        for name in names[1:] if places else ():
            (scores,) = await self.plain(("ZMSCORE", key, *(name + place for place in places)))
            places = [place for place, score in zip(places, scores, strict=True) if score is not None]
        if not places:
            return []
        tasks = [place[18:] for place in places]
        answers = await self.run("details", [self.keys.record(task) for task in tasks])
        found: list[Listing] = []
        outdated: list[bytes] = []
        for place, task, (first_seen, details) in zip(places, tasks, answers, strict=True):
            if first_seen is None or int(first_seen) != int(place[1:17]):
                # Of a record that a version before deleted, or that has expired without a bridge.
                outdated += [name + place for name in (*names, b"")]
            elif names == [b""] or {*names} <= {*details_names(details)}:
                found.append(Listing(int(first_seen), read_task(task), details))
        if outdated:
            await self.plain(("ZREM", key, *dict.fromkeys(outdated)))
        return found

    @reads_answer
    async def forget(self, session: str, key: TaskKey) -> bool:
        """See `Engine.forget`."""
        own, task, account = self.keys, task_text(key), account_text(key.account)
        keys = [own.meta, own.log, own.sessions, own.owned, own.wants, own.accounts, own.expiry]
        keys += (own.record(task), own.history(task), own.orphans(account))
        keys += (own.changed(key.upstream, account, final=final) for final in (False, True))
        keys += (own.tasks(key.upstream, account), own.listed(key.upstream), own.tails(key) or own.expiry)
        known_for = in_microseconds(FORGOTTEN_SECONDS)
        return bool(await self.run("delete", keys, session, task, account, self.limits.log, known_for))

    @reads_answer
    async def register(self, session: str, key: TaskKey, details: bytes) -> int:
        """See `Engine.register`."""
        own, task, tails = self.keys, task_text(key), self.keys.tails(key)
        _, ended_life, open_life = self._lives
        keys = [own.meta, own.log, own.sessions, own.expiry, own.record(task), own.history(task)]
        keys += (own.tasks(key.upstream, account_text(key.account)), tails or own.expiry)
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
