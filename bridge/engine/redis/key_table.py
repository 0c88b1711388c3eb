"""The keys of calls that are about several tasks or queues, and how scripts are given jobs."""

from __future__ import annotations

from bridge.engine.base import Job
from bridge.engine.redis.keys import Keys, escaped
from bridge.engine.redis.wire import Argument


class KeyTable:
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
        """The place of the keys of an account: open tasks, ended ones, list, orphans, who has a list."""
        place = self._accounts.get((upstream, account))
        if place is None:
            orders = [own.changed(upstream, account, final=final) for final in (False, True)]
            # Of different accounts of one upstream the last key is the same one.
            place = self.of(*orders, own.tasks(upstream, account), own.orphans(account), own.listed(upstream))
            self._accounts[upstream, account] = place
        return place


def job_arguments(own: Keys, job: Job, places: KeyTable) -> tuple[Argument, ...]:
    """A job as `apply.lua` and `add_jobs.lua` read it."""
    return (
        places.of(*own.queue(job.queue)),
        job.queue,
        job.id,
        job.body,
        escaped(job.ordering),
        job.due,
        job.attempts,
        b"1" if job.replaceable else b"",
    )
