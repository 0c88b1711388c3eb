"""The calls of a `SyncBridge` that administer webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from bridge.client.webhooks import WebhookAdmin, WebhookAttempt, WebhookDelivery, WebhookEndpoint

Outcome = TypeVar("Outcome")


class RunCall(Protocol):
    """Waits for a call of the async client."""

    def __call__(self, call: Callable[[WebhookAdmin], Coroutine[Any, Any, Outcome]]) -> Outcome:
        """Return what the call returns."""


class SyncWebhookAdmin:
    """The endpoints of a bridge, as `SyncBridge.webhooks`: `WebhookAdmin`, arguments and errors included.

    Args:
        run: Waits for a call of the async client.
    """

    def __init__(self, run: RunCall) -> None:
        self._run = run

    def list(self) -> tuple[WebhookEndpoint, ...]:
        """Return all endpoints, those in the configuration included."""
        return self._run(lambda webhooks: webhooks.list())

    def get(self, id: str) -> WebhookEndpoint:  # noqa: A002 - the bridge's name for it
        """Return one endpoint."""
        return self._run(lambda webhooks: webhooks.get(id))

    def create(
        self,
        url: str,
        *,
        events: Iterable[str] = ("task.final",),
        upstreams: Iterable[str] = (),
        tags: Iterable[str] = (),
    ) -> WebhookEndpoint:
        """Add an endpoint. Its `secret` is in this answer only."""
        return self._run(lambda webhooks: webhooks.create(url, events=events, upstreams=upstreams, tags=tags))

    def set_enabled(self, id: str, *, enabled: bool) -> WebhookEndpoint:  # noqa: A002 - see `get`
        """Enable or disable an endpoint."""
        return self._run(lambda webhooks: webhooks.set_enabled(id, enabled=enabled))

    def delete(self, id: str) -> None:  # noqa: A002 - see `get`
        """Delete an endpoint, with what still waits for it."""
        self._run(lambda webhooks: webhooks.delete(id))

    def rotate_secret(self, id: str) -> WebhookEndpoint:  # noqa: A002 - see `get`
        """Give an endpoint a new secret, in this answer only. The old one also signs for 24 h."""
        return self._run(lambda webhooks: webhooks.rotate_secret(id))

    def test(self, id: str) -> WebhookAttempt:  # noqa: A002 - see `get`
        """Send one `webhook.test`, now; return what came of it."""
        return self._run(lambda webhooks: webhooks.test(id))

    def deliveries(self, id: str) -> tuple[WebhookDelivery, ...]:  # noqa: A002 - see `get`
        """Return the newest deliveries of an endpoint, the newest first."""
        return self._run(lambda webhooks: webhooks.deliveries(id))

    def redeliver(self, id: str, delivery: str) -> WebhookAttempt:  # noqa: A002 - see `get`
        """Send a delivery once more, now, with the same `webhook-id`; return what came of it."""
        return self._run(lambda webhooks: webhooks.redeliver(id, delivery))
