"""Who polls which task: sessions, interest, owners, orphans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bridge.core.task import TaskKey
from bridge.engine.base import (
    CALL_SECONDS,
    MAX_TASKS,
    Called,
    Owner,
    Record,
    Release,
    Released,
    SessionState,
    Want,
    Wanted,
    Welcome,
)
from bridge.engine.redis.keys import account_text, read_task, task_text
from bridge.engine.redis.link import (
    BLANK_SECONDS,
    FORMAT,
    EngineLink,
    in_microseconds,
    other_format,
    reads_answer,
)
from bridge.engine.redis.replies import read_record
from bridge.engine.redis.wire import Argument

ABOUT_BYTES = 1024
MAX_OFFSET = 2**53 - 1
OPEN_SECONDS = 7 * 86_400.0

_WANTED_AFTER_CALL = 60.0
_PORTION = 1000  # tasks named by one command that does little with each
_MAX_TAILS = 100


class RedisTasks(EngineLink):
    """Sessions and ownership."""

    _burials: dict[bytes, list[bytes]]

    @property
    def _lives(self) -> tuple[int, int, int]:
        """How long records are kept, in microseconds: blank ones, those that have ended, open ones."""
        retention = self.limits.retention_seconds
        return tuple(map(in_microseconds, (BLANK_SECONDS, retention, max(retention, OPEN_SECONDS))))  # type: ignore[return-value] # three

    @reads_answer
    async def session(
        self, session: str, *, ttl: float, known_head: int, new_epoch: str, about: bytes, opens: bool
    ) -> Welcome:
        """See `Engine.session`."""
        keys = self.keys
        answer = await self.run(
            "session",
            (keys.meta, keys.log, keys.sessions, keys.about, keys.owned, keys.wants, keys.expiry),
            session,
            in_microseconds(ttl),
            known_head if known_head <= MAX_OFFSET else 0,
            new_epoch,
            self.facts.history,
            about[:ABOUT_BYTES],
            int(opens),
            self.limits.log,
            FORMAT,
        )
        if answer[0] == b"format":
            raise self.reject(other_format(answer[1]), lasting=True)
        welcome = _read_welcome(answer)
        if answer[5]:
            await self._forget(answer[5])
        return welcome

    @reads_answer
    async def leave(self, session: str) -> None:
        """See `Engine.leave`."""
        keys = self.keys
        if await self.run("leave", (keys.sessions, keys.about), session):
            name = session.encode()
            while tasks := await self._owned(name, MAX_TASKS):
                await self._bury(name, tasks, 0.0, 0)

    @reads_answer
    async def bury(self, *, limit: int, spacing: float) -> int:
        """See `Engine.bury`."""
        buried = 0
        now, *names = await self.run("dead", (self.keys.sessions, self.keys.owned))
        for name in names:
            while buried < limit:
                if not self._burials.get(name):
                    self._burials[name] = await self._wanted_first(name, int(now))
                if not (waiting := self._burials[name]):
                    break
                tasks = [waiting.pop() for _ in range(min(len(waiting), limit - buried, MAX_TASKS))]
                buried += await self._bury(name, tasks, spacing, buried)
            if not self._burials.get(name):
                self._burials.pop(name, None)
        return buried

    async def _owned(self, session: bytes, count: int, *, after: bytes = b"") -> list[bytes]:
        """Some of the tasks that name a session as their owner, or did, in order."""
        first, last = b"(%b\0%b" % (session, after), b"(%b\1" % session
        (members,) = await self.plain(("ZRANGEBYLEX", self.keys.owned, first, last, "LIMIT", 0, count))
        return [member[len(session) + 1 :] for member in members]

    async def _wanted_first(self, session: bytes, now: int) -> list[bytes]:
        """All tasks of a dead session, those that are wanted last: they are taken from the end."""
        wanted: list[bytes] = []
        others: list[bytes] = []
        last = b""
        while tasks := await self._owned(session, _PORTION, after=last):
            (scores,) = await self.plain(("ZMSCORE", self.keys.wants, *tasks))
            for task, score in zip(tasks, scores, strict=True):
                (wanted if score is not None and float(score) > now else others).append(task)
            last = tasks[-1]
        return [*reversed(others), *reversed(wanted)]

    async def _bury(self, session: bytes, tasks: Sequence[bytes], spacing: float, first: int) -> int:
        keys = [self.keys.sessions, self.keys.owned, self.keys.accounts, self.keys.about]
        arguments: list[Argument] = [session, in_microseconds(spacing), first]
        for task in tasks:
            account = _account(task)
            keys += (self.keys.record(task), self.keys.orphans(account))
            arguments += (task, account)
        return int(await self.run("bury", keys, *arguments))

    @reads_answer
    async def want(self, session: str, wants: Sequence[Want], *, linger: float) -> list[Wanted]:
        """See `Engine.want`."""
        if not wants:
            return []
        own = self.keys
        keys = [own.sessions, own.owned, own.wants, own.accounts, own.expiry, own.meta, own.about]
        arguments: list[Argument] = [session, in_microseconds(linger), self._lives[0]]
        for key, may_own in wants:
            task, tails = task_text(key), own.tails(key)
            keys += (own.record(task), own.orphans(account_text(key.account)), tails or own.expiry)
            arguments += (task, account_text(key.account), int(may_own), int(tails is not None))
        answers = await self.run("want", keys, *arguments)
        return [
            Wanted(_OWNERS[owner], read_record(want.key, fields))
            for want, (owner, fields) in zip(wants, answers, strict=True)
        ]

    @reads_answer
    async def owned(self, session: str, *, after: TaskKey | None, limit: int) -> list[TaskKey]:
        """See `Engine.owned`."""
        keys = (self.keys.sessions, self.keys.owned)
        tasks = await self.run("owned", keys, session, b"" if after is None else task_text(after), limit)
        return [read_task(task) for task in tasks]

    @reads_answer
    async def rewant(self, keys: Sequence[TaskKey], *, linger: float) -> None:
        """See `Engine.rewant`."""
        tasks, till = [task_text(key) for key in keys], in_microseconds(linger)
        for start in range(0, len(tasks), _PORTION):
            await self.run("rewant", (self.keys.wants,), till, *tasks[start : start + _PORTION])

    @reads_answer
    async def keep(self, session: str, key: TaskKey, *, called_back: bool) -> None:
        """See `Engine.keep`."""
        own, task = self.keys, task_text(key)
        tails, orphans = own.tails(key), own.orphans(account_text(key.account))
        await self.run(
            "keep",
            (
                own.sessions,
                own.owned,
                own.accounts,
                own.expiry,
                own.record(task),
                orphans,
                tails or own.expiry,
                own.meta,
                own.meta,
            ),
            *(
                session,
                task,
                account_text(key.account),
                int(called_back),
                int(tails is not None),
                self._lives[0],
            ),
        )

    @reads_answer
    async def claim(self, session: str, *, account: str, limit: int) -> list[Record]:
        """See `Engine.claim`."""
        own, name = self.keys, account_text(account)
        orphans = own.orphans(name)
        (tasks,) = await self.plain(("ZRANGE", orphans, 0, min(limit, MAX_TASKS) - 1)) if limit > 0 else ([],)
        if not tasks:
            return []
        keys = [own.sessions, own.owned, own.wants, own.accounts, orphans, *map(own.record, tasks)]
        answers = await self.run("claim", keys, session, name, *tasks)
        return [_read_claimed(task, fields) for task, fields in answers]

    @reads_answer
    async def release(self, session: str, releases: Sequence[Release], *, transfer: bool) -> list[Released]:
        """See `Engine.release`."""
        if not releases:
            return []
        own = self.keys
        keys = [own.sessions, own.owned, own.wants, own.accounts]
        arguments: list[Argument] = [session, int(transfer)]
        for key, due, polled_at in releases:
            task = task_text(key)
            keys += (own.record(task), own.orphans(account_text(key.account)))
            arguments += (task, account_text(key.account), due, polled_at)
        return [Released(answer.decode()) for answer in await self.run("release", keys, *arguments)]

    @reads_answer
    async def call(
        self, session: str, key: TaskKey, *, called_back: bool = False
    ) -> tuple[Called, TaskKey | None]:
        """See `Engine.call`."""
        answer = await self._call(session, key, called_back=called_back)
        if answer == "unknown" and (whole := await self._named(key)) is not None:
            key = whole
            answer = await self._call(session, key, called_back=called_back, found=True)
        if answer in ("dead", "unknown"):
            return Called.UNKNOWN, None
        return Called(answer), key

    async def _call(self, session: str, key: TaskKey, *, called_back: bool, found: bool = False) -> str:
        own, task = self.keys, task_text(key)
        record, orphans = own.record(task), own.orphans(account_text(key.account))
        answer = await self.run(
            "call",
            (own.meta, own.log, own.sessions, own.owned, own.wants, own.accounts, record, orphans, own.about),
            *(session, task, account_text(key.account), int(called_back), self.limits.log),
            *(in_microseconds(CALL_SECONDS), in_microseconds(_WANTED_AFTER_CALL), int(found)),
        )
        return bytes(answer).decode()

    async def _named(self, key: TaskKey) -> TaskKey | None:
        """The newest open task of the same account whose id ends in `/<task_id>`."""
        ending = f"/{key.task_id}"
        tails = self.keys.tails(key._replace(task_id=ending))
        assert tails is not None, "it has a slash"
        (members,) = await self.plain(("ZREVRANGE", tails, 0, _MAX_TAILS - 1))
        tasks = [task for task in members if read_task(task).task_id.endswith(ending)]
        if not tasks:
            return None
        ends = await self.plain(*(("HGET", self.keys.record(task), "e") for task in tasks))
        for task, end in zip(tasks, ends, strict=True):
            if end != b"1":
                return read_task(task)
        return None

    async def _forget(self, tasks: Sequence[bytes]) -> None:
        """Delete expired records, with all keys that lead to them."""
        own = self.keys
        keys = [own.sessions, own.owned, own.wants, own.accounts, own.expiry]
        arguments: list[Argument] = [*self._lives]
        for task in tasks:
            key, account = read_task(task), _account(task)
            tails = own.tails(key) or own.expiry
            keys += (own.record(task), own.history(task), own.orphans(account))
            keys += [own.changed(key.upstream, account, final=final) for final in (False, True)]
            keys += (own.tasks(key.upstream, account), own.listed(key.upstream), tails)
            arguments += (task, account)
        await self.run("forget", keys, *arguments)


_OWNERS = {owner.value.encode(): owner for owner in Owner}


def _account(task: bytes) -> bytes:
    return task.split(b"/", 2)[1]


def _read_welcome(answer: Sequence[Any]) -> Welcome:
    state, now, epoch, head, live, _ = answer
    return Welcome(
        state=SessionState(state.decode()),
        now=int(now),
        epoch=epoch.decode(),
        head=int(head),
        sessions={name.decode(): about for name, about in zip(live[::2], live[1::2], strict=True)},
    )


def _read_claimed(task: bytes, fields: Sequence[bytes]) -> Record:
    return read_record(read_task(task), fields)
