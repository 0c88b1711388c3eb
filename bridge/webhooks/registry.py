"""The webhooks of this bridge: those of the configuration, and those that were added while it runs.

The latter are in a small document of the ledger (`document`), with what became of each endpoint: every bridge
has the same.
"""

from __future__ import annotations

import logging
import secrets as random_bytes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from yarl import URL

from bridge.clock import Clock
from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.task import Source, State, Status, TaskKey
from bridge.core.webhook_secret import SECRET_PREFIX
from bridge.dialects.hosts import host_of
from bridge.engine.ledger import Ledger
from bridge.errors import Conflict, UnknownWebhook
from bridge.telemetry.logs import keep_from_logs
from bridge.webhooks.attempts import (
    Attempt,
    AttemptResult,
    DeliveryLog,
    LoggedAttempt,
    LoggedDelivery,
    deliveries_of,
)
from bridge.webhooks.document import WebhookDocument
from bridge.webhooks.endpoint import ROTATION_SECONDS, Disabled, EventType, Webhook
from bridge.webhooks.figures import EndpointFigures
from bridge.webhooks.schedule import is_failing
from bridge.webhooks.sender import Answered, Sender
from bridge.webhooks.signature import new_secret
from bridge.webhooks.stored import EndpointHealth, StoredWebhooks, mark_of_url
from bridge.webhooks.submits import SubmitReceivers
from bridge.wire.document import document, timestamp
from bridge.wire.text import dumps

MAX_ENDPOINTS = 1000
SETTLED_SECONDS = 5.0
"""An endpoint that fails for longer is failing for all bridges."""

_HEALTHY = EndpointHealth()

logger = logging.getLogger(__name__)


class Webhooks:
    """Every endpoint, and what may be done with it.

    Args:
        static: Those of the configuration.
        submits: Where a submit may have its end delivered.
        check_url: The URL as it is called; raises `InvalidRequest` or `Forbidden` for one that deliveries may
            not be sent to.

    Attributes:
        changed: Called when an endpoint was added, changed or ended, here or elsewhere.
        drops: Called with the number of deliveries that were dropped.
        hastened: Called with a queue whose deliveries are not to wait for their time.
        figures: Of all queues: how many deliveries wait, and the age of the oldest one in seconds; set by the
            deliverer.
        endpoint_figures: Those of each endpoint.
    """

    def __init__(
        self,
        static: Iterable[Webhook],
        *,
        submits: SubmitReceivers,
        check_url: Callable[[str], URL],
        ledger: Ledger,
        sender: Sender,
        log: DeliveryLog,
        clock: Clock,
    ) -> None:
        self.log = log
        self.changed: list[Callable[[], None]] = []
        self.drops: Callable[[int], None] = lambda _: None
        self.hastened: Callable[[str], None] = lambda _: None
        self.figures: tuple[int, float] = (0, 0.0)
        self.endpoint_figures = EndpointFigures()
        self.submits = submits
        self._static = {endpoint.id: endpoint for endpoint in static}
        self._check_url = check_url
        self._ledger = ledger
        self._sender = sender
        self._clock = clock
        self._endpoints: dict[str, Webhook] = {}
        self._by_queue: dict[str, Webhook] = {}
        self._by_upstream: dict[str, tuple[Webhook, ...]] = {}
        self._failing: dict[str, float] = {}
        self._take(StoredWebhooks(), StoredWebhooks())
        self._document = WebhookDocument(ledger, self._static, taken=self._take, outdated=self._report_change)

    # What is known

    @property
    def used(self) -> bool:
        """Whether anything can be delivered."""
        return bool(self._endpoints or self.submits.queues)

    @property
    def queues(self) -> list[str]:
        """Of all deliveries."""
        return [*self._by_queue, *self.submits.queues]

    @property
    def stale(self) -> bool:
        """Whether the ledger may have others than these."""
        return self._document.stale

    async def refresh(self) -> None:
        """Read them from the ledger again.

        Raises:
            JournalError: The ledger is away.
        """
        await self._document.read()

    def endpoints(self) -> Sequence[Webhook]:
        """All of them, those of the configuration first."""
        return list(self._endpoints.values())

    def get(self, name: str) -> Webhook:
        """One of them, by its id.

        Raises:
            UnknownWebhook: There is none of that id.
        """
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise UnknownWebhook
        return endpoint

    def at(self, queue: str) -> Webhook | None:
        """The endpoint whose deliveries are in a queue."""
        return self._by_queue.get(queue)

    def subscribed(self, upstream: str) -> Sequence[Webhook]:
        """The enabled endpoints that states of an upstream are sent to."""
        known = self._by_upstream.get(upstream)
        if known is None:
            known = self._by_upstream[upstream] = tuple(
                endpoint
                for endpoint in self._endpoints.values()
                if endpoint.disabled is None and (not endpoint.upstreams or upstream in endpoint.upstreams)
            )
        return known

    def status(self) -> dict[str, object]:
        """For `/status`: of each endpoint, and of the deliveries of submits."""
        waiting, oldest = self.figures
        return {
            "waiting": waiting,
            "oldest_waiting_seconds": round(oldest, 3) if waiting else None,
            "submits_waiting": self.endpoint_figures.total(self.submits.queues),
            "endpoints": [
                {
                    "id": endpoint.id,
                    "url": endpoint.url.partition("#")[0].partition("?")[0],
                    "enabled": endpoint.disabled is None,
                    "disabled_reason": endpoint.disabled.value if endpoint.disabled is not None else None,
                    "disabled_at": timestamp(endpoint.disabled_at),
                    **self.figures_of(endpoint),
                }
                for endpoint in self._endpoints.values()
            ],
        }

    def enabled_at(self, name: str) -> float | None:
        """When an operator enabled an endpoint last, Unix seconds; None for never."""
        return self._document.stored.health.get(name, _HEALTHY).enabled_at

    def figures_of(self, endpoint: Webhook) -> dict[str, object]:
        """How an endpoint is doing, as far as this process knows."""
        failing_since = self._failing.get(endpoint.id)
        return self.endpoint_figures.of(endpoint, failing_since=failing_since, now=self._ledger.now())

    # What an operator does

    async def create(
        self, url: str, events: Sequence[EventType], upstreams: Sequence[str] = (), tags: Sequence[str] = ()
    ) -> Webhook:
        """Add an endpoint.

        Raises:
            InvalidRequest: Nothing may be sent to this URL.
            Forbidden: It leads inside, or is not encrypted.
            Conflict: There are too many.
            JournalError: It may have been added or not.
        """
        self._check_url(url)
        endpoint = Webhook(
            id=f"wh_{random_bytes.token_hex(8)}",
            url=url,
            events=tuple(dict.fromkeys(events)) or (EventType.FINAL,),
            upstreams=tuple(dict.fromkeys(upstreams)),
            tags=tuple(dict.fromkeys(tags)),
            secret=new_secret(),
            created_at=self._clock.time(),
        )

        def add(stored: StoredWebhooks) -> None:
            if len(stored.endpoints) >= MAX_ENDPOINTS:
                raise Conflict(f"there are {MAX_ENDPOINTS} webhooks already")
            stored.endpoints[endpoint.id] = endpoint

        await self._document.change(add)
        return self.get(endpoint.id)

    async def set_enabled(self, name: str, enabled: bool) -> Webhook:
        """Enable an endpoint, or disable it.

        Enabled, it is sent at once what still waits for it; also one that was not disabled, as when its
        receiver works again.

        Raises:
            UnknownWebhook: There is none of that id.
            JournalError: It has happened or not.
        """
        endpoint = self.get(name)
        if not enabled:
            if endpoint.disabled is None:
                await self.disable(endpoint, Disabled.OPERATOR)
            return self.get(name)

        def enable(stored: StoredWebhooks) -> None:
            if stored.health.get(name, _HEALTHY).disabled is not None:
                stored.health[name] = EndpointHealth(
                    enabled_at=self._clock.time(), at=mark_of_url(endpoint.url)
                )

        self._failing.pop(name, None)
        await self._document.change(enable)
        self.hastened(endpoint.queue)
        return self.get(name)

    async def delete(self, name: str) -> None:
        """End an endpoint, with all that waits for it.

        Raises:
            UnknownWebhook: There is none of that id.
            Conflict: It is in the configuration.
            JournalError: It has happened or not.
        """
        endpoint = self._added(name)

        def end(stored: StoredWebhooks) -> None:
            stored.endpoints.pop(name, None)
            stored.health.pop(name, None)

        await self._document.change(end)
        self._failing.pop(name, None)
        self.drops(await self._ledger.drop_queue(endpoint.queue))
        await self.log.forget(name)

    async def rotate_secret(self, name: str) -> Webhook:
        """Give an endpoint a new secret; the one before signs beside it for 24 hours.

        Raises:
            UnknownWebhook: There is none of that id.
            Conflict: It is in the configuration.
            JournalError: It has happened or not.
        """
        self._added(name)
        secret = new_secret()

        def rotate(stored: StoredWebhooks) -> None:
            endpoint = stored.endpoints.get(name)
            if endpoint is None:
                raise UnknownWebhook
            if endpoint.secret != secret:
                until = self._clock.time() + ROTATION_SECONDS
                stored.endpoints[name] = replace(
                    endpoint, secret=secret, previous_secret=endpoint.secret, previous_until=until
                )

        await self._document.change(rotate)
        return self.get(name)

    async def test(self, name: str) -> Attempt:
        """Send a test to an endpoint, once and at once, whether it is enabled or not.

        Raises:
            UnknownWebhook: There is none of that id.
        """
        endpoint = self.get(name)
        now = self._clock.time()
        state = State(status=Status.COMPLETED, changed_at=now, observed_at=now, source=Source.POLL)
        data = document(Event(TaskKey("example", "test"), Cursor("test", 0), state), now=now)
        body = b'{"type":"%b","timestamp":%b,"data":%b}' % (
            EventType.TEST.encode(),
            dumps(timestamp(now)),
            data,
        )
        delivery = f"msg_{random_bytes.token_hex(16)}"
        return await self._send_by_hand(endpoint, delivery, EventType.TEST.value, "", body)

    async def deliveries(self, name: str) -> Sequence[LoggedDelivery]:
        """The newest deliveries of an endpoint, the one with the newest attempt first.

        Raises:
            UnknownWebhook: There is none of that id.
            JournalError: They cannot be read now.
        """
        endpoint = self.get(name)
        return deliveries_of(
            await self.log.read(name),
            disabled=endpoint.disabled is not None,
            enabled_at=self.enabled_at(name),
            now=self._clock.time(),
        )

    async def redeliver(self, name: str, delivery: str) -> Attempt:
        """Send a delivery again, once and at once: with the same id and the same body.

        Raises:
            UnknownWebhook: There is no endpoint of that id, or no such delivery of it.
            Conflict: Its body was too large to keep.
            JournalError: The deliveries cannot be read now.
        """
        endpoint = self.get(name)
        known = [one for one in await self.log.read(name) if one.attempt.delivery == delivery]
        if not known:
            raise UnknownWebhook("no such delivery of this webhook is kept")
        newest = next((one for one in reversed(known) if one.body is not None), None)
        if newest is None or newest.body is None:
            raise Conflict("the body of this delivery was too large to keep")
        return await self._send_by_hand(endpoint, delivery, newest.attempt.type, newest.task, newest.body)

    async def _send_by_hand(
        self, endpoint: Webhook, delivery: str, kind: str, task: str, body: bytes
    ) -> Attempt:
        now = self._clock.time()
        answered = await self._sender.send(endpoint.url, delivery, body, endpoint.signing_secrets(now))
        attempt = attempt_of(answered, delivery, kind, now)
        self.log.add(endpoint.id, LoggedAttempt(attempt, task, body=body, by_hand=True))
        return attempt

    def _added(self, name: str) -> Webhook:
        endpoint = self.get(name)
        if endpoint.static:
            raise Conflict("this webhook is in the configuration, and changed there")
        return endpoint

    # What deliveries showed

    def succeeded(self, endpoint: Webhook) -> None:
        """A delivery has arrived."""
        self._failing.pop(endpoint.id, None)
        self.endpoint_figures.succeeded(endpoint.id, self._clock.time())

    def failed(self, endpoint: Webhook) -> bool:
        """An attempt has failed; returns whether nothing has arrived for 24 hours."""
        now = self._clock.time()
        self.endpoint_figures.failed(endpoint.id, now)
        since = self._failing.setdefault(endpoint.id, now)
        return is_failing(since, now)

    async def store_health(self) -> None:
        """Let other bridges, and the next process, know since when endpoints fail.

        What fails for a moment is not stored: a receiver that fails now and then would cost two writes each
        time.

        Raises:
            JournalError: It is stored later.
        """
        settled = self._clock.time() - SETTLED_SECONDS
        known = _failing_of(self._document.stored)
        begun = {name: at for name, at in self._failing.items() if at <= settled and name not in known}
        ended = {name: at for name, at in known.items() if name not in self._failing}
        if not begun and not ended:
            return

        def store(stored: StoredWebhooks) -> None:
            current = _failing_of(stored)
            for name, at in ended.items():
                if current.get(name) == at:
                    stored.health[name] = stored.health[name]._replace(failing_since=None)
            for name, at in begun.items():
                endpoint = self._endpoints.get(name)
                health = stored.health.get(name, _HEALTHY)
                if health.disabled is None and endpoint is not None:
                    stored.health[name] = health._replace(
                        failing_since=min(at, current.get(name, at)), at=mark_of_url(endpoint.url)
                    )

        await self._document.change(store)

    async def disable(self, endpoint: Webhook, reason: Disabled) -> None:
        """Deliver nothing to an endpoint from now on; what waits for it is kept.

        Raises:
            JournalError: It has happened or not.
        """
        first = False

        def disable(stored: StoredWebhooks) -> None:
            nonlocal first
            health = stored.health.get(endpoint.id, _HEALTHY)
            first = health.disabled is None
            if first:
                stored.health[endpoint.id] = EndpointHealth(
                    disabled=reason, disabled_at=self._clock.time(), at=mark_of_url(endpoint.url)
                )

        await self._document.change(disable)
        self._failing.pop(endpoint.id, None)
        if first:
            fields = {"webhook": endpoint.id, "host": host_of(endpoint.url), "reason": reason.value}
            logger.warning("webhook disabled", extra=fields)

    # The document

    def _take(self, before: StoredWebhooks, after: StoredWebhooks) -> None:
        failed, failing = _failing_of(before), _failing_of(after)
        for name in {*failed, *failing}:
            if name not in failing:
                self._failing.pop(name, None)
            elif failed.get(name) != failing[name]:
                self._failing[name] = min(self._failing.get(name, failing[name]), failing[name])
        known = self._endpoints
        self._endpoints = {
            name: _with_health(endpoint, after.health.get(name, _HEALTHY))
            for name, endpoint in {**after.endpoints, **self._static}.items()
        }
        self._by_queue = {endpoint.queue: endpoint for endpoint in self._endpoints.values()}
        self._by_upstream.clear()
        self.endpoint_figures.keep(self._endpoints)
        for name, endpoint in self._endpoints.items():
            if known.get(name) != endpoint:
                for secret in filter(None, (endpoint.secret, endpoint.previous_secret)):
                    keep_from_logs(secret)
                    keep_from_logs(secret.removeprefix(SECRET_PREFIX))
        self._report_change()

    def _report_change(self) -> None:
        for changed in self.changed:
            changed()


def attempt_of(
    answered: Answered, delivery: str, kind: str, at: float, result: AttemptResult | None = None
) -> Attempt:
    """An attempt, from the answer to it.

    Args:
        result: None if no other attempt follows from it.
    """
    if result is None:
        result = AttemptResult.DELIVERED if answered.delivered else AttemptResult.FAILED
    return Attempt(delivery, kind, at, answered.status, round(answered.seconds, 4), answered.error, result)


def _failing_of(stored: StoredWebhooks) -> dict[str, float]:
    return {
        name: health.failing_since
        for name, health in stored.health.items()
        if health.failing_since is not None
    }


def _with_health(endpoint: Webhook, health: EndpointHealth) -> Webhook:
    return replace(endpoint, disabled=health.disabled, disabled_at=health.disabled_at)
