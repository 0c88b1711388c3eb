"""What replicas learn for one another: aliases, rejected keys, whether callbacks arrive, runs.

Rule 1: nothing waits for the engine but the lookup of an alias, and that only as long as a call may take.
Rule 2: what is shared is small and may be lost: each replica works without it, only less well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple
from weakref import WeakValueDictionary

from bridge.clock import Clock
from bridge.core.rate_limit import KEY_RETRY_SECONDS
from bridge.core.schedule import CallbackSupport
from bridge.core.task import OWN_ACCOUNT, TaskKey, check_task_id
from bridge.engine.base import DocumentEntry
from bridge.errors import BridgeError, CredentialRefused, EngineUnavailable
from bridge.replica.learned import EXCHANGE_SECONDS, SharedRuns
from bridge.replica.replica import Replica
from bridge.sources.accounts import REFUSED_SECONDS, AccountRegistry
from bridge.sources.upstream import Upstream

MAX_UNSENT = 10_000
CALLBACKS_SECONDS = 86_400.0

REST_SECONDS = 3 * KEY_RETRY_SECONDS
"""How long it is known that the operator's key is rejected, if it is not tried again."""

_ALIAS, _REFUSED, _CALLBACKS, _OWN_KEY = "alias:", "refused:", "callbacks:", "key:"

logger = logging.getLogger(__name__)


def is_knowledge(name: str) -> bool:
    """Whether a small document is one of these, by its name."""
    return name.startswith((_ALIAS, _REFUSED, _CALLBACKS, _OWN_KEY))


class _Document(NamedTuple):
    name: str
    value: bytes
    seconds: float
    announced: bool


class _KeyJudged(NamedTuple):
    """What the provider says of the operator's key.

    Args:
        by: The session whose call shows it.
        key: Its mark, see `mark_of_key`.
        inferred: Whether only the 402s and 403s of several tasks speak against it.
    """

    by: str
    key: str
    rejected: bool
    inferred: bool


class SharedCallbacks(CallbackSupport):
    """A `CallbackSupport` that reports when it changes."""

    __slots__ = ("__weakref__", "changed")
    changed: Callable[[bool], None]

    def __init__(self, changed: Callable[[bool], None]) -> None:
        object.__setattr__(self, "changed", changed)
        object.__setattr__(self, "come", True)

    def __setattr__(self, name: str, value: object) -> None:
        changed = name == "come" and value != self.come
        object.__setattr__(self, name, value)
        if changed:
            self.changed(bool(value))

    def take_over(self, come: bool) -> None:
        """As another replica has found out."""
        object.__setattr__(self, "come", come)


class SharedKnowledge:
    """Exchanges it over the engine.

    Args:
        retention_seconds: How long an alias is kept.
    """

    def __init__(self, replica: Replica, clock: Clock, *, retention_seconds: float) -> None:
        self._connection = replica.connection
        self._clock = clock
        self._retention = retention_seconds
        self._registry: AccountRegistry | None = None
        self._callbacks: WeakValueDictionary[str, SharedCallbacks] = WeakValueDictionary()
        self._runs: list[SharedRuns] = []
        self._own_keys: dict[str, Upstream] = {}
        self._unsent: deque[_Document] = deque(maxlen=MAX_UNSENT)
        self._more = asyncio.Event()
        replica.on_document.append(self._apply_entry)
        self._connection.workers += [
            self._send,
            self._read_callbacks,
            self._read_own_keys,
            self._exchange_runs,
        ]

    # What is shared

    def share(self, upstream: Upstream) -> None:
        """Share what calls of this upstream teach; for the operator's account run times too."""
        name = f"{upstream.name}/{upstream.account}"
        callbacks = SharedCallbacks(lambda come: self._put(f"{_CALLBACKS}{name}", b"1" if come else b"0"))
        upstream.callbacks = self._callbacks[name] = callbacks
        if upstream.account == OWN_ACCOUNT:
            self._own_keys[upstream.name] = upstream
            upstream.key_judged = lambda error: self._report_key(upstream, error)
            self._runs.append(SharedRuns(upstream.name, upstream.learned, self._connection, self._clock))

    def share_refusals(self, registry: AccountRegistry) -> None:
        """A key that a provider rejects here is rejected at every replica."""
        self._registry = registry
        registry.on_refused = lambda upstream, account: self._put(
            f"{_REFUSED}{upstream}/{account}", b"1", REFUSED_SECONDS
        )

    def _report_key(self, upstream: Upstream, error: CredentialRefused | None) -> None:
        """The provider rejects the operator's key, or accepts it again (None): the others need not ask."""
        judged = _KeyJudged(
            by=self._connection.session,
            key=upstream.key_mark,
            rejected=error is not None,
            inferred=error is not None and upstream.limiter.inferred,
        )
        self._put(f"{_OWN_KEY}{upstream.name}", json.dumps(judged._asdict()).encode(), REST_SECONDS)

    def _hear_key(self, name: str, value: bytes | None) -> None:
        upstream = self._own_keys.get(name)
        judged = _read_judged(value)
        if upstream is None or judged is None or judged.by == self._connection.session:
            return
        if judged.key != upstream.key_mark:
            return  # another key, of before or after a rotation
        if not judged.rejected:
            upstream.key_accepted_elsewhere()
            return
        key_name = upstream.limiter.key_name
        error = CredentialRefused(f"the provider rejects {key_name} in another bridge")
        error.key_name = key_name
        upstream.key_rejected_elsewhere(error, inferred=judged.inferred)

    async def find_alias(self, upstream: str, account: str, alias: str) -> TaskKey | None:
        """The task that a replica found by a client's own id; None if none did, or the engine is away."""
        try:
            ((_, value),) = await self._connection.call(
                "get", lambda engine: engine.get([_alias_name(upstream, account, alias)])
            )
            return None if value is None else TaskKey(upstream, check_task_id(value.decode()), account)
        except (EngineUnavailable, BridgeError, ValueError):
            return None

    def save_alias(self, alias: str, key: TaskKey) -> None:
        """Which task a client's own id belongs to."""
        name = _alias_name(key.upstream, key.account, alias)
        value = key.task_id.encode(errors="surrogateescape")
        self._enqueue(_Document(name, value, self._retention, announced=False))

    def _put(self, name: str, value: bytes, seconds: float = CALLBACKS_SECONDS) -> None:
        self._enqueue(_Document(name, value, seconds, announced=True))

    def _enqueue(self, document: _Document) -> None:
        self._unsent.append(document)
        self._more.set()

    def _apply_entry(self, entry: DocumentEntry) -> None:
        kind, _, name = entry.name.partition(":")
        upstream, _, account = name.partition("/")
        if f"{kind}:" == _REFUSED and self._registry is not None and entry.value is not None:
            self._registry.refused_elsewhere(upstream, account)
        elif f"{kind}:" == _OWN_KEY:
            self._hear_key(name, entry.value)
        elif f"{kind}:" == _CALLBACKS and name in self._callbacks:
            self._callbacks[name].take_over(entry.value != b"0")

    # Workers: each runs while the log is followed

    async def _send(self) -> None:
        while True:
            self._more.clear()
            while self._unsent:
                document = self._unsent[0]
                await self._connection.call(
                    "put",
                    lambda engine, document=document: engine.put(  # type: ignore[misc]
                        document.name,
                        document.value,
                        expect=None,
                        seconds=document.seconds,
                        announced=document.announced,
                    ),
                )
                if self._unsent and self._unsent[0] is document:
                    self._unsent.popleft()
            await self._clock.wait(self._more, None)

    async def _read_callbacks(self) -> None:
        """What others found out before the log was followed here."""
        names = [f"{_CALLBACKS}{name}" for name in self._callbacks]
        if not names:
            return
        documents = await self._connection.call("get", lambda engine: engine.get(names))
        for name, (_, value) in zip(names, documents, strict=True):
            callbacks = self._callbacks.get(name.removeprefix(_CALLBACKS))
            if callbacks is not None and value is not None:
                callbacks.take_over(value != b"0")

    async def _read_own_keys(self) -> None:
        """Which of the operator's keys were rejected before the log was followed here."""
        names = list(self._own_keys)
        if not names:
            return
        documents = await self._connection.call(
            "get", lambda engine: engine.get([f"{_OWN_KEY}{name}" for name in names])
        )
        for name, (_, value) in zip(names, documents, strict=True):
            self._hear_key(name, value)

    async def flush(self) -> None:
        """Send what was learned since the last exchange, at the end; it is lost if the engine is away."""
        with contextlib.suppress(EngineUnavailable):
            for runs in self._runs:
                await runs.exchange()

    async def _exchange_runs(self) -> None:
        while self._runs:
            for runs in self._runs:
                await runs.exchange()
            await self._clock.sleep(EXCHANGE_SECONDS)


def _alias_name(upstream: str, account: str, alias: str) -> str:
    # A hash: a client chooses the alias, of any length and with any characters.
    digest = blake2b(alias.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return f"{_ALIAS}{upstream}/{account}/{digest}"


def _read_judged(value: bytes | None) -> _KeyJudged | None:
    """What a replica wrote, of another version perhaps; None if it makes no sense."""
    try:
        fields = json.loads(value or b"")
        by, key, rejected, inferred = (fields[name] for name in _KeyJudged._fields)
    except (ValueError, TypeError, KeyError):
        return None
    texts, flags = (by, key), (rejected, inferred)
    sane = all(isinstance(one, str) for one in texts) and all(isinstance(one, bool) for one in flags)
    return _KeyJudged(by, key, rejected, inferred) if sane else None
