"""Followers that move between replicas of one log that loses entries and is away: no state missed, no end.

The clients of `test_shared_history` follow a collection instead of a list. What `bridge.delivery` does for
them is modelled here: it reads what is held of all members, and closes streams whose age is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from bridge.core.cursor import EventId
from bridge.core.resume import Position, locate
from bridge.core.selection import Selection, SelectionKind
from bridge.hub.collection import Collection
from bridge.wire.formats import SseFormat
from bridge.wire.frames import format_of
from tests.fakes.shared import KEYS, LAST, Replica
from tests.fakes.writers import RecordingWriter
from tests.stateful.test_shared_history import Client, Replicas

FORMAT = format_of(SseFormat, mark="abcd2345")


@dataclass
class Opened:
    """Where a follower that has been sent nothing left off."""

    epoch: str
    position: Position


class FollowedReplicas(Replicas):
    """Three replicas, each with a collection of all tasks, and clients that move between them."""

    def __init__(self) -> None:
        super().__init__()
        self.collections: dict[int, Collection] = {}

    def collection(self, replica: Replica) -> Collection:
        """That of a replica; made when its first follower comes."""
        number = self.replicas.index(replica)
        if number not in self.collections:
            collection = self.collections[number] = Collection(Selection(SelectionKind.TAG, "all"))
            for key in KEYS:
                replica.hub.collect(collection, key)
        return self.collections[number]

    @rule()
    def arrive(self) -> None:  # type: ignore[override] # they all follow the same
        if len(self.clients) < 8:
            self.clients.append(Client(KEYS))

    @rule(replica=st.integers(0, 2))
    def time_passes(self, replica: int) -> None:
        super().time_passes(replica)
        self.close_aged(self.replicas[replica])

    def _open(self, client: Client, replica: Replica) -> None:
        if client.finals >= set(KEYS):
            client.over = True
            return
        client.writer, client.parsed, client.stream = RecordingWriter(FORMAT), 0, {}
        subscription = replica.subscriptions.reserve(FORMAT)
        self.collection(replica)
        client.replica, client.subscription = replica, subscription
        client.pending = self._read(client, replica)  # type: ignore[assignment] # of our own kind

    def _read(self, client: Client, replica: Replica) -> Opened:
        epoch = replica.epoch
        event_id = EventId.parse(client.token) if client.token else None
        sure = event_id is None or self.loop.run(replica.caught_up(event_id.cursor))
        position = locate(client.token, FORMAT.mark, epoch=epoch, head=replica.head, sure=sure)
        return Opened(epoch, position)

    def _begin(self, client: Client) -> None:
        subscription, replica = client.subscription, client.replica
        opened: Any = client.pending
        assert subscription is not None
        assert replica is not None
        client.pending = None
        if opened.epoch != replica.epoch:
            opened = self._read(client, replica)
        position = opened.position
        subscription.begin(client.writer, FORMAT)
        floor = -1 if position.after is None else position.after
        reset = position.reset_reason
        latest = self.loop.run(replica.latest(KEYS))
        events = [one for one in latest if one is not None]
        with self.loop.running():
            replica.hub.listen(
                subscription,
                self.collection(replica),
                [one for one in events if one.cursor.shown or one.cursor.offset > floor],
                floor=floor,
                position=position,
                preface=b"" if reset is None else FORMAT.reset(reset),
                resumed=position.epoch,
            )
        client.read()

    def close_aged(self, replica: Replica) -> None:
        """Streams whose age is over are closed."""
        for client in self.clients:
            subscription = client.subscription
            begun = client.replica is replica and client.pending is None
            if begun and subscription is not None and replica.clock.monotonic() >= subscription.ends_at:
                self._leave(client)

    def all_is_well_again(self) -> None:
        for number in range(3):
            self.heal(number)
            for key in KEYS:
                self.ask(number, key)
        for key in KEYS:
            self.see(key, 0, LAST)
        for _ in range(3):
            for client in self.clients:
                if client.subscription is None and not client.over:
                    self._open(client, self.replicas[1])
                if client.pending is not None:
                    self._begin(client)
                with self.loop.running():
                    client.writer.wake()
            for number in range(3):
                self.hear(number, len(self.engine.log))
                self.time_passes(number)
            self.loop.settle()
            self.read()
        for client in self.clients:
            assert client.finals >= set(KEYS), f"{client.token}: an end was missed"


TestFollowedReplicas = FollowedReplicas.TestCase
TestFollowedReplicas.settings = settings(max_examples=25, stateful_step_count=60, deadline=None)
