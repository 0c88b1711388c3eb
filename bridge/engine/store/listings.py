"""Orders over tasks: by last change and by first state."""

from __future__ import annotations

import bisect
import itertools

import orjson

from bridge.core.task import TaskKey

MAX_TAGS = 64
_COMPACTED_ABOVE = 64


class FirstSeen:
    """Tasks in the order of their first state."""

    __slots__ = ("_dead", "_keys", "_offsets")

    def __init__(self) -> None:
        self._offsets: list[int] = []
        self._keys: list[TaskKey | None] = []
        self._dead = 0

    def __len__(self) -> int:
        return len(self._keys) - self._dead

    def add(self, offset: int, key: TaskKey) -> None:
        """Add a task; one of an older offset too, if it is tagged later."""
        index = bisect.bisect_left(self._offsets, offset)
        if index < len(self._offsets) and self._offsets[index] == offset:
            self._dead -= self._keys[index] is None
            self._keys[index] = key
            return
        self._offsets.insert(index, offset)
        self._keys.insert(index, key)

    def remove(self, offset: int) -> None:
        """Remove a task."""
        index = bisect.bisect_left(self._offsets, offset)
        if index == len(self._offsets) or self._offsets[index] != offset or self._keys[index] is None:
            return
        self._keys[index] = None
        self._dead += 1
        # Now and then, so that each removal costs the same on average.
        if self._dead > _COMPACTED_ABOVE and self._dead * 2 > len(self._keys):
            kept = [(o, k) for o, k in zip(self._offsets, self._keys, strict=True) if k is not None]
            self._offsets = [offset for offset, _ in kept]
            self._keys = [key for _, key in kept]
            self._dead = 0

    def before(self, offset: int, limit: int) -> list[tuple[int, TaskKey]]:
        """Up to `limit` tasks first seen before an offset (0: of all), newest first."""
        end = bisect.bisect_left(self._offsets, offset) if offset else len(self._offsets)
        found = (
            (self._offsets[index], key)
            for index in range(end - 1, -1, -1)
            if (key := self._keys[index]) is not None
        )
        return list(itertools.islice(found, limit))

    def after(self, offset: int, limit: int) -> list[tuple[int, TaskKey]]:
        """Up to `limit` tasks first seen after an offset, oldest first."""
        start = bisect.bisect_right(self._offsets, offset)
        found = (
            (self._offsets[index], key)
            for index in range(start, len(self._keys))
            if (key := self._keys[index]) is not None
        )
        return list(itertools.islice(found, limit))

    def has(self, offset: int) -> bool:
        """Whether a task was first seen at this offset."""
        index = bisect.bisect_left(self._offsets, offset)
        return index < len(self._offsets) and self._offsets[index] == offset and self._keys[index] is not None


class Listings:
    """The tasks of each account, and of each of its tags and groups, by first state; of each account by last
    change.
    """

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str, str, str], FirstSeen] = {}
        # Of each upstream and account: the open tasks and the ended ones, unchanged for longest first.
        self._by_account: dict[tuple[str, str], tuple[dict[TaskKey, None], dict[TaskKey, None]]] = {}

    def change(self, key: TaskKey, *, final: bool | None) -> None:
        """A task has changed; None: it is deleted."""
        account = (key.upstream, key.account)
        by_end = self._by_account.get(account)
        if by_end is None:
            by_end = self._by_account[account] = ({}, {})
        for keys in by_end:
            keys.pop(key, None)
        if final is not None:
            by_end[final][key] = None
        elif not any(by_end):
            del self._by_account[account]

    def newest(self, upstream: str, account: str, *, final: bool, limit: int) -> list[TaskKey]:
        """The tasks of one account, newest change first."""
        keys = self._by_account.get((upstream, account), ({}, {}))[final]
        return list(itertools.islice(reversed(keys), limit))

    def relist(self, key: TaskKey, first_seen: int, before: bytes | None, after: bytes | None) -> None:
        """The details of a task that has a state have changed."""
        self._remove(key, names_of(before), first_seen)
        for kind, name in names_of(after):
            self._add(key, first_seen, kind, name)

    def add(self, key: TaskKey, first_seen: int, details: bytes | None) -> None:
        """A task has its first state."""
        self._add(key, first_seen, "", "")
        for kind, name in names_of(details):
            self._add(key, first_seen, kind, name)

    def remove(self, key: TaskKey, first_seen: int, details: bytes | None) -> None:
        """A task is deleted."""
        self._remove(key, [("", ""), *names_of(details)], first_seen)

    def first_seen(
        self, upstream: str, account: str, *, tag: str, group: str, before: int, limit: int
    ) -> list[tuple[int, TaskKey]]:
        """Tasks of one account by first state, newest first; with tag and group those of both."""
        if tag and group:
            return self._of_both(upstream, account, tag, group, before, limit)
        kind, name = ("tag", tag) if tag else ("group", group) if group else ("", "")
        tasks = self._by_name.get((upstream, account, kind, name))
        return tasks.before(before, limit) if tasks is not None else []

    def oldest(self, upstream: str, account: str, *, after: int, limit: int) -> list[tuple[int, TaskKey]]:
        """Tasks of one account by first state, oldest first."""
        tasks = self._by_name.get((upstream, account, "", ""))
        return tasks.after(after, limit) if tasks is not None else []

    def accounts(self, upstream: str) -> list[str]:
        """Those that have tasks."""
        return sorted(account for found, account in self._by_account if found == upstream)

    def _of_both(
        self, upstream: str, account: str, tag: str, group: str, before: int, limit: int
    ) -> list[tuple[int, TaskKey]]:
        with_tag = self._by_name.get((upstream, account, "tag", tag))
        in_group = self._by_name.get((upstream, account, "group", group))
        if with_tag is None or in_group is None:
            return []
        few, many = sorted((with_tag, in_group), key=len)
        found: list[tuple[int, TaskKey]] = []
        while len(found) < limit and (portion := few.before(before, limit)):
            found += [one for one in portion if many.has(one[0])]
            before = portion[-1][0]
        return found[:limit]

    def _add(self, key: TaskKey, first_seen: int, kind: str, name: str) -> None:
        self._by_name.setdefault((key.upstream, key.account, kind, name), FirstSeen()).add(first_seen, key)

    def _remove(self, key: TaskKey, names: list[tuple[str, str]], first_seen: int) -> None:
        for kind, name in names:
            place = (key.upstream, key.account, kind, name)
            tasks = self._by_name.get(place)
            if tasks is not None:
                tasks.remove(first_seen)
                if not len(tasks):
                    del self._by_name[place]


def names_of(details: bytes | None) -> list[tuple[str, str]]:
    """Tags and group in the details of a task; none if they are not what they should be."""
    if details is None:
        return []
    try:
        fields = orjson.loads(details)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(fields, dict):
        return []
    tags, group = fields.get("tags"), fields.get("group")
    tags = tags if isinstance(tags, list) else []
    names = [("tag", tag) for tag in dict.fromkeys(tag for tag in tags if isinstance(tag, str) and tag)]
    if isinstance(group, str) and group:
        names.append(("group", group))
    return names[-MAX_TAGS:] if len(names) > MAX_TAGS else names
