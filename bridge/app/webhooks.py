"""Builds the webhooks of this process: the endpoints, what plans deliveries, and what makes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

from pydantic import SecretStr

from bridge.clock import Clock
from bridge.config.settings import Settings
from bridge.core.loop_time import LoopTime
from bridge.engine.ledger import Ledger
from bridge.journal.base import Journal
from bridge.journal.planners import Planners
from bridge.replica.replica import Replica
from bridge.sources.outbound import OutboundClient
from bridge.telemetry.metrics import Metrics
from bridge.webhooks.attempts import AttemptResult, DeliveryLog
from bridge.webhooks.deliverer import Deliverer
from bridge.webhooks.endpoint import Disabled, EventType, Webhook
from bridge.webhooks.late import LateDeliveries
from bridge.webhooks.planner import DeliveryPlanner
from bridge.webhooks.registry import Webhooks
from bridge.webhooks.sender import Sender
from bridge.webhooks.submits import SubmitReceivers


class Shared(NamedTuple):
    """Where states and deliveries are kept.

    Args:
        planners: Ask for the jobs of each state.
        replica: This process as one of several; None if it is alone.
    """

    journal: Journal
    planners: Planners
    ledger: Ledger
    replica: Replica | None


class WebhookParts(NamedTuple):
    """What delivers."""

    webhooks: Webhooks
    deliverer: Deliverer
    late: LateDeliveries


async def build_webhooks(
    settings: Settings,
    shared: Shared,
    metrics: Metrics,
    clock: Clock,
    loop_time: LoopTime,
    stack: AsyncExitStack,
    *,
    rng: Callable[[], float],
) -> WebhookParts:
    """The webhooks of this process; the journal plans deliveries as long as there are any.

    Args:
        rng: Returns 0-1, for jitter.

    Raises:
        JournalError: Those that were added cannot be read.
    """
    journal, planners, ledger, replica = shared
    client = OutboundClient(settings.private_hosts, loop_time=loop_time)
    stack.push_async_callback(client.close)
    sender = Sender(client, clock)
    webhooks = Webhooks(
        static_webhooks(settings),
        submits=SubmitReceivers(settings.webhook_hosts, _revealed(settings.webhook_secret), client.check_url),
        check_url=client.check_url,
        ledger=ledger,
        sender=sender,
        log=DeliveryLog(ledger),
        clock=clock,
    )
    deliverer = Deliverer(webhooks, ledger, sender, clock, random=rng, counts=_Counts(metrics))
    planner = DeliveryPlanner(
        webhooks, epoch=lambda: journal.epoch, clock=clock, now=ledger.now, wrote=deliverer.wrote
    )

    def plan_if_used() -> None:
        # Without webhooks a state costs one comparison.
        planners.use(planner, used=webhooks.used)

    webhooks.changed.append(plan_if_used)
    plan_if_used()
    _report(webhooks, metrics)
    # Before the first state is recorded: which endpoints it is sent to is decided then.
    if replica is not None:
        replica.before_up.append(webhooks.refresh)
    else:
        await webhooks.refresh()
    late = LateDeliveries(planner, ledger, clock, wrote=deliverer.wrote)
    stack.push_async_callback(late.close)
    return WebhookParts(webhooks, deliverer, late)


def static_webhooks(settings: Settings) -> list[Webhook]:
    """The endpoints of the configuration."""
    return [
        Webhook(
            id=name,
            url=config.url,
            events=tuple(EventType(event) for event in dict.fromkeys(config.events)),
            upstreams=tuple(config.upstreams),
            tags=tuple(config.tags),
            secret=config.secret.get_secret_value(),
            static=True,
        )
        for name, config in settings.webhooks.items()
    ]


def _report(webhooks: Webhooks, metrics: Metrics) -> None:
    metrics.webhook_waiting.set_function(lambda: webhooks.figures[0])
    metrics.webhook_oldest_seconds.set_function(lambda: webhooks.figures[1])
    metrics.webhooks_disabled.set_function(
        lambda: sum(one.disabled not in (None, Disabled.OPERATOR) for one in webhooks.endpoints())
    )


class _Counts:
    """Satisfies `bridge.webhooks.deliverer.DeliveryCounts`."""

    def __init__(self, metrics: Metrics) -> None:
        self._results = {result: metrics.webhook_deliveries.labels(result.value) for result in AttemptResult}
        self._seconds = metrics.webhook_attempt_seconds

    def attempted(self, result: AttemptResult, seconds: float) -> None:
        self._results[result].inc()
        self._seconds.observe(seconds)

    def dropped(self, number: int) -> None:
        self._results[AttemptResult.DROPPED].inc(number)


def _revealed(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
