"""The names of keys, and tasks as they are written in them.

All keys have one tag, the name of the service in braces: a cluster keeps them in one slot.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from bridge.core.task import TaskKey

MAX_NAMES = 64


_FIXED = {
    b"meta": "hash",
    b"log": "stream",
    b"s": "sorted",
    b"about": "hash",
    b"owned": "sorted",
    b"wants": "sorted",
    b"expiry": "sorted",
    b"accounts": "set",
    b"queues": "hash",
    b"answers": "sorted",
}
_QUEUE_PARTS = {
    "all": "hash",
    "ready": "sorted",
    "order": "sorted",
    "info": "hash",
    "flight": "sorted",
    "age": "sorted",
}
_NAMED = {b"t": "record", b"h": "list"} | dict.fromkeys(
    (b"orphans", b"open", b"ended", b"tails", b"list", b"tasks"), "sorted"
)
_NAMED |= {b"listed": "set"}
_NAMED |= {f"jobs-{part}".encode(): kind for part, kind in _QUEUE_PARTS.items()}


class Keys:
    """The keys of one service.

    Args:
        name: Of the service.
    """

    def __init__(self, name: str) -> None:
        self._prefix = prefix = b"{%b}:" % name.encode()
        self.meta = prefix + b"meta"
        self.log = prefix + b"log"
        self.sessions = prefix + b"s"
        self.about = prefix + b"about"
        self.owned = prefix + b"owned"
        self.wants = prefix + b"wants"
        self.expiry = prefix + b"expiry"
        self.accounts = prefix + b"accounts"
        self.queues = prefix + b"queues"
        self.answers = prefix + b"answers"
        self._record, self._history = prefix + b"t:", prefix + b"h:"

    def kind(self, key: bytes) -> tuple[str, bool]:
        """What a key should hold, and whether it is of one task, account or queue only; empty if it is
        another's.
        """
        name = key.removeprefix(self._prefix)
        if name in _FIXED:
            return _FIXED[name], False
        return _NAMED.get(name.partition(b":")[0], ""), True

    def record(self, task: bytes) -> bytes:
        """The record of a task."""
        return self._record + task

    def history(self, task: bytes) -> bytes:
        """Its recorded states."""
        return self._history + task

    def named(self, kind: str, name: str) -> bytes:
        """The key of something that has a name."""
        return self._prefix + f"{kind}:{name}".encode("utf-8", "surrogatepass")

    def operation(self, name: bytes) -> bytes:
        """An operation that must happen once."""
        return self._prefix + b"op:" + name

    def queue(self, name: str) -> list[bytes]:
        """The keys of a queue of jobs, in the order in which scripts expect them."""
        return [self.named(f"jobs-{part}", name) for part in _QUEUE_PARTS]

    def queue_of(self, key: bytes) -> str | None:
        """The queue to which a key belongs; None if it belongs to none."""
        kind, _, name = key.removeprefix(self._prefix).partition(b":")
        return name.decode("utf-8", "surrogatepass") if kind.startswith(b"jobs-") else None

    def orphans(self, account: bytes) -> bytes:
        """The orphans of an account."""
        return self._prefix + b"orphans:" + account

    def changed(self, upstream: str, account: bytes, *, final: bool) -> bytes:
        """The tasks of an account by their last change: those that have ended, or the open ones."""
        return b"%b%b:%b/%b" % (self._prefix, b"ended" if final else b"open", upstream.encode(), account)

    def tasks(self, upstream: str, account: bytes) -> bytes:
        """The tasks of an account by their first state, as a whole and of each name."""
        return b"%btasks:%b/%b" % (self._prefix, upstream.encode(), account)

    def listed(self, upstream: str) -> bytes:
        """The accounts that have such a list."""
        return self.named("listed", upstream)

    def one_list(self, upstream: str) -> bytes:
        """The one list of all accounts, of versions before: emptied into those of each when it is read."""
        return self.named("list", upstream)

    def tails(self, key: TaskKey) -> bytes | None:
        """Where a task is found by what comes after the last `/` of its id; None for an id without one."""
        if "/" not in key.task_id:
            return None
        last_part = key.task_id.rpartition("/")[2].encode("utf-8", "surrogatepass")
        return b"%btails:%b/%b/%b" % (
            self._prefix,
            key.upstream.encode(),
            account_text(key.account),
            last_part,
        )


def account_text(account: str) -> bytes:
    """An account as it is written in keys: without a slash."""
    if "/" in account or "%" in account:
        account = account.replace("%", "%25").replace("/", "%2F")
    return account.encode("utf-8", "surrogatepass")


def task_text(key: TaskKey) -> bytes:
    """A task as it is written in keys and entries."""
    task_id = key.task_id.encode("utf-8", "surrogatepass")
    return b"%b/%b/%b" % (key.upstream.encode(), account_text(key.account), task_id)


def read_task(text: bytes) -> TaskKey:
    """The reverse.

    Raises:
        ValueError: It is not one.
    """
    upstream, account, task_id = text.decode("utf-8", "surrogatepass").split("/", 2)
    return TaskKey(upstream, task_id, _unescaped(account))


def read_account(text: bytes) -> str:
    """The reverse of `account_text`."""
    return _unescaped(text.decode("utf-8", "surrogatepass"))


def _unescaped(account: str) -> str:
    return account.replace("%2F", "/").replace("%25", "%") if "%" in account else account


def details_names(details: bytes | None) -> list[bytes]:
    """Tags and group in the details of a task, as they are in listings; none if they are malformed."""
    if details is None:
        return []
    try:
        fields = orjson.loads(details)
    except orjson.JSONDecodeError:
        return []
    if not isinstance(fields, dict):
        return []
    tags, group = fields.get("tags"), fields.get("group")
    names = _unique("tag", tags if isinstance(tags, list) else [])
    if isinstance(group, str) and group:
        names.append(listed_name("group", group))
    return names[-MAX_NAMES:]


def _unique(kind: str, names: Iterable[object]) -> list[bytes]:
    return [listed_name(kind, name) for name in dict.fromkeys(n for n in names if isinstance(n, str) and n)]


def listed_name(kind: str, name: str) -> bytes:
    """A tag or group in listings, where a zero byte ends it."""
    return f"{kind}:".encode() + escaped(name)


def escaped(name: str) -> bytes:
    """A text without zero bytes, different for different texts."""
    text = name.encode("utf-8", "surrogatepass")
    return text.replace(b"\1", b"\1\1").replace(b"\0", b"\1\2")
