"""Which deliveries a state makes: called by the journal for each state, so it costs next to nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from bridge.clock import Clock
from bridge.core.details import TaskDetails
from bridge.core.merge import amends, digest_of, is_unseen
from bridge.core.task import State, TaskKey
from bridge.engine.base import Job
from bridge.webhooks.endpoint import EventType, Webhook
from bridge.webhooks.message import DeliveryMessage, delivery_id, ordering_of, payload_of
from bridge.webhooks.submits import SubmitReceivers

DUE_BEFORE_MICROSECONDS = 1_000_000

logger = logging.getLogger(__name__)


class Subscribed(Protocol):
    """What the planner asks the webhooks."""

    def subscribed(self, upstream: str) -> Sequence[Webhook]:
        """The enabled endpoints that states of an upstream are sent to."""

    @property
    def submits(self) -> SubmitReceivers:
        """Where the end of a submit may be delivered."""


class DeliveryPlanner:
    """Satisfies `bridge.journal.base.JobPlanner`.

    Args:
        epoch: Of the journal.
        now: Microseconds of the ledger's clock.
        wrote: Called with the queues that have new deliveries, and those of which some had no room.
    """

    def __init__(
        self,
        webhooks: Subscribed,
        *,
        epoch: Callable[[], str],
        clock: Clock,
        now: Callable[[], int],
        wrote: Callable[[Sequence[str], int], None],
    ) -> None:
        self._webhooks = webhooks
        self._epoch = epoch
        self._clock = clock
        self._now = now
        self._wrote = wrote

    def plan(self, key: TaskKey, previous: State | None, state: State, details: TaskDetails) -> Sequence[Job]:
        """See `JobPlanner`."""
        endpoints = self._webhooks.subscribed(key.upstream)
        if not endpoints and details.webhook is None:
            return ()
        if is_unseen(state):
            return ()  # it is registered, and may not exist
        if previous is not None and is_unseen(previous):
            previous = None
        receivers: list[tuple[str, str, EventType, str | None]] = []
        for endpoint in endpoints:
            kind = endpoint.event_of(key.upstream, details.tags, previous, state)
            if kind is not None:
                receivers.append((endpoint.queue, endpoint.queue, kind, None))
        for url in details.webhooks if state.status.final and not amends(previous, state) else ():
            queue = self._webhooks.submits.queue_of(url)
            if queue is None:
                logger.warning("webhook of a submit no longer allowed", extra={"task": key.ref})
            else:
                receivers.append((queue, url, EventType.FINAL, url))
        return self._jobs(key, state, receivers) if receivers else ()

    def _jobs(
        self, key: TaskKey, state: State, receivers: Sequence[tuple[str, str, EventType, str | None]]
    ) -> Sequence[Job]:
        ordering = ordering_of(key)
        moment = None if state.status.final else state.changed_at
        # A little before: the clock of the engine may be behind what this process takes it for.
        now, due, epoch = self._clock.time(), self._now() - DUE_BEFORE_MICROSECONDS, self._epoch()
        payloads: dict[EventType, tuple[bytes, int]] = {}
        jobs = []
        for queue, target, kind, url in receivers:
            if kind not in payloads:
                payloads[kind] = payload_of(key, epoch, kind, state)
            payload, gap = payloads[kind]
            delivery = delivery_id(target, key, kind, _content_of(kind, state), moment)
            message = DeliveryMessage(delivery, kind.value, key.ref, now, url, payload, gap)
            jobs.append(
                Job(
                    queue=queue,
                    id=delivery,
                    body=message.encode(),
                    ordering=ordering,
                    due=due,
                    replaceable=not state.status.final,
                )
            )
        return jobs

    def written(self, key: TaskKey, jobs: Sequence[Job], dropped: int) -> None:
        """See `JobPlanner`."""
        del key
        self._wrote([job.queue for job in jobs], dropped)


def _content_of(kind: EventType, state: State) -> bytes:
    """What distinguishes a delivery of a task from others of its kind, the same on every bridge."""
    content = digest_of(state)
    if kind is EventType.STORED:
        # Each amendment brings more copies; where they are is of no account.
        content += bytes(output.stored_url is not None for output in state.outputs)
    return content
