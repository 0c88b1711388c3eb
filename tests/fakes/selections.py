"""Selections over a memory journal and a real hub, with followers that remember what they were sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import orjson

from bridge.auth.caller import CallerRights
from bridge.auth.grants import Grant
from bridge.config.settings import Settings
from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.event import Event
from bridge.core.selection import Selection, SelectionKind
from bridge.core.task import OWN_ACCOUNT, State, TaskKey
from bridge.delivery.first_states import PendingFollow
from bridge.delivery.groups import Groups
from bridge.delivery.selected import FollowRequest
from bridge.delivery.selections import Selections
from bridge.delivery.subscriptions import Subscriptions
from bridge.errors import BridgeError
from bridge.hub.subscription import Subscription
from bridge.journal.base import Listed
from bridge.wire.formats import SseFormat
from bridge.wire.frames import Format, format_of
from tests.fakes.clock import settle
from tests.fakes.hub import Scene
from tests.fakes.tasks import state
from tests.fakes.writers import RecordingWriter

SETTINGS = Settings.model_validate({"upstreams": {"qingbo": {"preset": "qingbo", "api_key": "k"}}})
ALL = CallerRights(OWN_ACCOUNT, None)


def tag(name: str, account: str = OWN_ACCOUNT) -> Selection:
    """Everything with a tag."""
    return Selection(SelectionKind.TAG, name, account)


def group(name: str, account: str = OWN_ACCOUNT) -> Selection:
    """Everything in a group."""
    return Selection(SelectionKind.GROUP, name, account)


def by_tags(*tags: str) -> CallerRights:
    """What a token with these tags may read."""
    return CallerRights(OWN_ACCOUNT, Grant(tags=frozenset(tags)))


class Owners:
    """A provider that shows everything but `hidden`."""

    def __init__(self) -> None:
        self.hidden: dict[TaskKey, BridgeError] = {}
        self.asked: list[TaskKey] = []
        self.unsure: set[TaskKey] = set()

    async def verify_ownership(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, BridgeError]:
        """Who is not shown."""
        self.asked += keys
        self.unsure -= set(keys)
        return {key: self.hidden[key] for key in keys if key in self.hidden}

    def is_shown(self, key: TaskKey) -> bool:
        """Whether it was asked, or needs not."""
        return key not in self.hidden and key not in self.unsure


class Client:
    """One follower, as the client at its other end knows it."""

    def __init__(self, subscription: Subscription, writer: RecordingWriter, pending: PendingFollow) -> None:
        self.subscription = subscription
        self.writer = writer
        self.pending = pending

    @property
    def blocks(self) -> list[tuple[str | None, Any]]:
        """Every event, with its name."""
        return [(one.name, orjson.loads(one.data)) for one in self.writer.events]

    @property
    def told(self) -> list[tuple[str, str]]:
        """Every state: the task id and the status."""
        return [(data["task_id"], data["status"]) for name, data in self.blocks if name is None]

    @property
    def named(self) -> list[str]:
        """The names of the control events."""
        return [name for name, _ in self.blocks if name is not None]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Everything written to a WebSocket."""
        return [orjson.loads(line) for line in self.writer.sent.splitlines()]

    @property
    def cursors(self) -> list[str]:
        """Those of the states on a WebSocket."""
        return [str(one["cursor"]) for one in self.messages if one["type"] == "state"]

    @property
    def last_id(self) -> str | None:
        """What it would send to resume."""
        ids = [one.id for one in self.writer.events if one.id is not None]
        return ids[-1] if ids else None

    def data_of(self, name: str) -> list[Any]:
        """The data of the control events of one name."""
        return [data for known, data in self.blocks if known == name]


class Follows(Scene):
    """A hub and a journal, and selections over them."""

    def __init__(self, *, linger_seconds: float = 0.0) -> None:
        super().__init__()
        self.listed = 0
        self.latest_of: list[TaskKey] = []
        self.owners = Owners()
        pool: Any = SimpleNamespace(upstreams={"qingbo": None, "vapi": None})
        self.subscriptions = Subscriptions(
            self.hub, pool, self.journal, self.clock, self.metrics, random=lambda: 0.5, settings=SETTINGS
        )
        self.groups = Groups(self.journal.ledger, kept_seconds=86_400)
        self.selections = Selections(
            self.subscriptions, self.groups, self.owners, linger_seconds=linger_seconds
        )
        self._count_reads()

    def _count_reads(self) -> None:
        listing, latest = self.journal.listing, self.journal.latest

        async def counted(*args: Any, **more: Any) -> list[Listed]:
            self.listed += 1
            return await listing(*args, **more)

        async def read(keys: Sequence[TaskKey]) -> list[Event | None]:
            self.latest_of += keys
            return await latest(keys)

        self.journal.listing = counted  # type: ignore[method-assign]
        self.journal.latest = read  # type: ignore[method-assign]

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """Nothing the journal says is heard, by the hub and the selections."""
        feed = self.journal
        followers, feed._followers = feed._followers, []
        index_followers, feed._index_followers = feed._index_followers, []
        yield
        feed._followers, feed._index_followers = followers, index_followers

    async def put(self, name: str, status: str = "processing", **more: Any) -> Event:
        """A task has a state, recorded with its details if any are given; the turn ends."""
        event = await self.put_soon(name, status, **more)
        await settle()
        return event

    async def put_soon(self, name: str, status: str = "processing", **more: Any) -> Event:
        """The same; the turn is not over."""
        key = key_of(name)
        details = details_of(more)
        if details != NO_DETAILS:
            self.journal.describe(key, details)
        known: State = state(status, **more)
        return await self.journal.append(key, known)

    async def register(self, name: str, **more: Any) -> None:
        """The details of a task are replaced; the turn ends."""
        await self.journal.register(key_of(name), details_of(more))
        await settle()

    async def open(
        self,
        selection: Selection,
        rights: CallerRights = ALL,
        *,
        token: str | None = None,
        kind: type[Format] = SseFormat,
        room: bool = True,
    ) -> Client:
        """A client asks; it is sent nothing yet."""
        request = FollowRequest(selection, rights, token, lambda _: room)
        fmt = format_of(kind, mark=None if kind.stays_open else request.mark)
        subscription = self.hub.reserve(fmt, ends_at=self.clock.monotonic() + 600)
        pending = await self.selections.open(subscription, request)
        return Client(subscription, RecordingWriter(subscription.fmt), pending)

    async def begin(self, client: Client) -> None:
        """The response begins."""
        client.subscription.begin(client.writer, client.writer.fmt)
        await self.selections.begin(client.pending)

    async def follow(self, selection: Selection, rights: CallerRights = ALL, **more: Any) -> Client:
        """A client follows a selection; the turn ends."""
        client = await self.open(selection, rights, **more)
        if not client.pending.ended:
            await self.begin(client)
        await settle()
        return client

    async def follow_too(self, client: Client, selection: Selection, *, token: str | None = None) -> None:
        """A WebSocket follows another selection; the turn ends."""
        pending = await self.selections.open(client.subscription, FollowRequest(selection, ALL, token))
        await self.selections.begin(pending)
        await settle()

    async def close(self, name: str) -> None:
        """A group is closed; the turn ends."""
        await self.groups.close(group(name))
        await settle()

    def leave(self, client: Client) -> None:
        """The connection ends."""
        self.subscriptions.leave(client.subscription)


def key_of(name: str) -> TaskKey:
    """The task of that name."""
    return TaskKey("vapi" if name.startswith("v") else "qingbo", name)


def details_of(more: dict[str, Any]) -> TaskDetails:
    """The details among the arguments, which are taken out."""
    tags = tuple(str(more.pop("tags", "")).split())
    return TaskDetails(tags=tags, group=more.pop("group", None))
