"""Follows tags and groups: what a selection has now, and what comes to it later.

Rule 1: register first, read second, send third, as in `bridge.delivery.subscriptions`: what is recorded while
        members are read replaces what was read (`bridge.delivery.loading`).
Rule 2: one load and one `Collection` per selection and set of rights, for all its followers in this process.
Rule 3: who is a member is asked whenever the details of a task change (`bridge.delivery.members`).
Rule 4: a cursor says up to where its client has seen the members (`bridge.delivery.first_states`); what is
        older and is shown late (`bridge.delivery.showing`) has no id.

Nothing of this runs before the first follower.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import Scope

from bridge.core.cursor import Cursor
from bridge.core.details import TaskDetails
from bridge.core.event import Closing, Event, Notice
from bridge.core.selection import Selection, SelectionKind
from bridge.core.task import TaskKey
from bridge.delivery.first_states import FirstStates, PendingFollow
from bridge.delivery.groups import Groups
from bridge.delivery.loading import Loading
from bridge.delivery.members import Members, OwnershipChecks
from bridge.delivery.selected import (
    FollowRequest,
    LiveSelection,
    Summary,
    TaskRights,
    mark_of_selection,
)
from bridge.delivery.showing import Showing
from bridge.delivery.subscriptions import RECHECK_SECONDS, Subscriptions
from bridge.errors import Forbidden, JournalError
from bridge.hub.collection import Collection
from bridge.hub.subscription import Subscription
from bridge.journal.base import Listed

LINGER_SECONDS = 5.0
"""How long members outlive their last follower: one that reconnects does not load them again."""

FORBIDDEN_SENTENCE = "a group is closed by a caller that may read its first task"


class Selections:
    """Opens subscriptions to tags and groups. Follows the journal and what its tasks are known by."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        groups: Groups,
        ownership: OwnershipChecks,
        *,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self._subscriptions = subscriptions
        self._hub = subscriptions.hub
        self._journal = subscriptions.journal
        self._clock = clock = subscriptions.clock
        self._metrics = subscriptions.metrics
        self._groups = groups
        self._ownership = ownership
        self._linger_seconds = linger_seconds
        self._members = Members(self._journal, self._hub, ownership)
        upstreams = subscriptions.pool.upstreams
        self._loading = Loading(self._members, self._journal, groups, clock, upstreams)
        self._first_states = FirstStates(self._members, self._loading, self._journal)
        showing = Showing(self._members, self._journal, self._hub, clock)
        self._members.on_late, self._members.on_change = showing.soon, self._check_finished
        # What each connection follows.
        self._following: dict[Subscription, dict[Selection, LiveSelection]] = {}
        self._follows = False
        subscriptions.on_leave = self.left

    # What the journal says

    def recorded(self, event: Event) -> None:
        """See `bridge.journal.base.Follower`."""
        self._loading.recorded(event)
        self._members.recorded(event)

    def amended(self, event: Event) -> None:
        """See `bridge.journal.base.Follower`: members change only when a task ends."""

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        """See `bridge.journal.base.Follower`: the hub sends it."""

    def new_epoch(self) -> None:
        """See `bridge.journal.base.Follower`: what is known of members is of another history."""
        for live in self._members.all():
            self._loading.reload(live)

    def described(self, key: TaskKey, details: TaskDetails) -> None:
        """See `bridge.journal.base.IndexFollower`."""
        self._loading.described(key, details)
        self._members.described(key, details)

    def forgotten(self, key: TaskKey) -> None:
        """See `bridge.journal.base.IndexFollower`."""
        self._loading.described(key, None)
        self._members.forgotten(key)

    def reset(self) -> None:
        """See `bridge.journal.base.IndexFollower`: what was described may have been missed."""
        for live in self._members.all():
            self._loading.reload(live)

    # Followers

    async def open(
        self,
        subscription: Subscription,
        request: FollowRequest,
        *,
        wait_for_state: bool = True,
        scope: Scope | None = None,
    ) -> PendingFollow:
        """Register a connection as a follower, and load the members for the first one.

        Args:
            wait_for_state: See `Subscriptions.open`: a selection waits for nothing.
            scope: Likewise.

        Raises:
            Unauthenticated: The provider rejects the key of the account.
            JournalError: The journal or the ledger cannot be read.
        """
        del wait_for_state, scope
        self._release(subscription, request.selection)
        live = self._live(request.selection, request.rights)
        self._following.setdefault(subscription, {})[request.selection] = live
        live.users += 1
        await self._loading.load(live)
        await self._members.verify_hidden(live)
        await self._members.collect(live)
        epoch, position = await self._first_states.locate(request)
        while epoch != self._journal.epoch or not live.loaded:
            await self._loading.load(live)
            epoch, position = await self._first_states.locate(request)
        pending = PendingFollow(subscription, request, live, position, epoch, partial=bool(live.hidden))
        pending.ended = self._first_states.has_seen_end(request, live)
        result = self._first_states.resume_of(pending)
        if result is not None:
            self._metrics.resumes.labels(subscription.fmt.label, result.value).inc()
        return pending

    async def begin(
        self, pending: PendingFollow, *, reply: Callable[[list[TaskKey]], None] | None = None
    ) -> None:
        """Send what the members are now; from then on the hub sends what comes.

        Args:
            reply: Called just before, with the tasks whose states follow.

        A stream over HTTP is closed if the journal cannot be read.

        Raises:
            JournalError: The journal cannot be read; on a connection that stays open nothing was sent.
        """
        subscription, request, live = pending.subscription, pending.request, pending.live
        try:
            events = await self._first_states.events(pending)
        except JournalError:
            if subscription.fmt.stays_open:
                raise
            frame = self._subscriptions.final_frame(subscription, Closing.OVER_CAPACITY)
            self._hub.finish(subscription, Closing.OVER_CAPACITY, subscription.fmt.preface + frame)
            return
        if subscription.closing is not None or not self._is_followed(subscription, live):
            return
        fmt, position = subscription.fmt, pending.position
        preface = fmt.preface if not fmt.stays_open else b""
        retry: int | None = self._subscriptions.retry()
        if position.reset_reason is not None:
            preface += fmt.reset(position.reset_reason, retry=retry)
            retry = None
        if not request.has_room(sum(fmt.bytes_of(event) for event in events)):
            frame = self._subscriptions.final_frame(subscription, Closing.OVER_CAPACITY)
            self._hub.finish(subscription, Closing.OVER_CAPACITY, preface + frame)
            return
        if pending.partial or position.ahead:
            # What is missing may be shown soon. Closed early, the client reconnects and receives it.
            soon = self._clock.monotonic() + RECHECK_SECONDS
            subscription.ends_at = min(subscription.ends_at, soon)
        if reply is not None:
            reply([event.key for event in events])
        for key, notice in self._subscriptions.remarks(events):
            subscription.add_pending_notice(key, notice)
            self._metrics.notices.labels(notice.code.value).inc()
        ends = live.finished
        collection = Collection(live.selection, request.mark) if ends else live.collection
        floor = -1 if position.after is None else position.after
        self._hub.listen(
            subscription,
            collection,
            events,
            floor=floor,
            position=position if position.ahead else None,
            preface=preface,
            retry=retry,
            resumed=position.epoch,
        )
        if ends:
            # It ended before this one came: all others have received it.
            self._end(live, collection)
            self._release(subscription, live.selection)
        else:
            live.followers[subscription] = None

    def unfollow(self, subscription: Subscription, selection: Selection) -> None:
        """Stop sending what comes of a selection. Idempotent."""
        self._release(subscription, selection)

    def followed_by(self, subscription: Subscription) -> int:
        """How many selections a connection follows."""
        return len(self._following.get(subscription, ()))

    def left(self, subscription: Subscription) -> None:
        """A connection has ended."""
        for selection in list(self._following.get(subscription, ())):
            self._release(subscription, selection)

    # Groups

    async def check_may_close(self, group: Selection, rights: TaskRights, *, unrestricted: bool) -> float:
        """Check that a caller may close a group: it can read the task that began it.

        Whether a group exists is not shown to a caller that sees none of it: the answer is the same then.

        Args:
            unrestricted: Whether the caller may read everything: it may close a group without tasks
                too.

        Returns:
            The longest deadline that its tasks were given, seconds; 0.0 for none of their own.

        Raises:
            Forbidden: It cannot.
            JournalError: The journal cannot be read.
        """
        began: Listed | None = None
        deadline = 0.0
        async for one in self._loading.listing(group):
            deadline = max(deadline, one.details.deadline_seconds or 0.0)
            if began is None or one.first_offset < began.first_offset:
                began = one
        if began is None:
            if not unrestricted:
                raise Forbidden(FORBIDDEN_SENTENCE)
            return deadline
        if not rights.shows(began.key, began.details):
            raise Forbidden(FORBIDDEN_SENTENCE)
        denied = (await self._ownership.verify_ownership([began.key])).get(began.key)
        if denied is not None:
            if denied.retryable:
                raise denied
            raise Forbidden(FORBIDDEN_SENTENCE)
        return deadline

    async def summary(self, group: Selection, rights: TaskRights) -> Summary:
        """What has become of the tasks of a group that the rights show.

        Raises:
            Unauthenticated: The provider rejects the key of the account.
            JournalError: The journal or the ledger cannot be read.
        """
        live = self._live(group, rights)
        live.users += 1
        try:
            await self._loading.load(live)
            return live.summary
        finally:
            self._drop_user(live)

    async def close(self) -> None:
        """End what runs in the background."""
        await self._members.close()

    # Live selections

    def _live(self, selection: Selection, rights: TaskRights) -> LiveSelection:
        if not self._follows:
            self._follows = True
            # After the hub: what it sends has been recorded there first.
            self._journal.follow(self)
            self._journal.follow_index(self)
            self._groups.on_closed(self._closed)
            self._groups.on_return(self._returned)
        return self._members.live(selection, rights)

    def _is_followed(self, subscription: Subscription, live: LiveSelection) -> bool:
        return self._following.get(subscription, {}).get(live.selection) is live

    def _release(self, subscription: Subscription, selection: Selection) -> None:
        following = self._following.get(subscription)
        live = following.pop(selection, None) if following is not None else None
        if following is None or live is None:
            return
        if not following:
            del self._following[subscription]
        if live.followers.pop(subscription, self) is None:
            self._hub.unlisten(subscription, live.collection)
        self._drop_user(live)

    def _drop_user(self, live: LiveSelection) -> None:
        live.users -= 1
        if not live.users:
            if self._linger_seconds > 0:
                asyncio.get_running_loop().call_later(self._linger_seconds, self._members.drop, live)
            else:
                self._members.drop(live)

    # The end of a group

    def _closed(self, group: Selection) -> None:
        for live in self._members.of(group):
            live.closed = True
            self._check_finished(live)

    def _returned(self) -> None:
        """Groups may have been closed without an announcement."""
        for live in self._members.all():
            if live.selection.kind is SelectionKind.GROUP:
                self._loading.reload(live)

    def _check_finished(self, live: LiveSelection) -> None:
        """Send `group_done` to the followers of a closed group when everything in it has ended, once."""
        if not (live.closed and live.followers and live.finished):
            return
        self._end(live, live.collection)
        followers, live.followers, live.collected = live.followers, {}, False
        for subscription in followers:
            self._release(subscription, live.selection)

    def _end(self, live: LiveSelection, collection: Collection) -> None:
        # Never 0: an id of that offset is none, also of a group without tasks.
        cursor = Cursor(self._journal.epoch, max(live.reached, 1))
        mark = mark_of_selection(live.selection, live.rights, end=True)
        self._hub.end_collection(collection, live.summary.counts, cursor=cursor, mark=mark)
