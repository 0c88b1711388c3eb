"""What `/v1/webhooks` answers with: endpoints, deliveries and attempts as JSON."""

from __future__ import annotations

from typing import Any

from bridge.webhooks.attempts import Attempt, LoggedDelivery
from bridge.webhooks.endpoint import Webhook
from bridge.wire.document import timestamp


def webhook_fields(webhook: Webhook, *, now: float) -> dict[str, Any]:
    """One endpoint, without its secrets.

    Args:
        now: Unix seconds.
    """
    rotating = webhook.previous_secret is not None and now < webhook.previous_until
    return {
        "id": webhook.id,
        "url": webhook.url,
        "events": [event.value for event in webhook.events],
        "upstreams": list(webhook.upstreams),
        "tags": list(webhook.tags),
        "enabled": webhook.disabled is None,
        "disabled_reason": webhook.disabled.value if webhook.disabled is not None else None,
        "disabled_at": timestamp(webhook.disabled_at),
        "static": webhook.static,
        "created_at": timestamp(webhook.created_at or None),
        "previous_secret_until": timestamp(webhook.previous_until) if rotating else None,
    }


def attempt_fields(attempt: Attempt) -> dict[str, Any]:
    """One attempt to deliver."""
    return {
        "delivery": attempt.delivery,
        "type": attempt.type,
        "at": timestamp(attempt.at),
        "status": attempt.status,
        "seconds": round(attempt.seconds, 3),
        "error": attempt.error,
        "result": attempt.result.value,
    }


def delivery_fields(delivery: LoggedDelivery) -> dict[str, Any]:
    """One delivery, with its attempts."""
    return {
        "id": delivery.id,
        "type": delivery.type,
        "task": delivery.task or None,
        "state": delivery.state,
        "next_attempt_at": timestamp(delivery.next_attempt_at),
        "redeliverable": delivery.redeliverable,
        "attempts": [
            {key: value for key, value in attempt_fields(attempt).items() if key not in {"delivery", "type"}}
            for attempt in delivery.attempts
        ],
    }
