"""Being called: a provider's callback means "look now", never more."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from bridge.core.task import TaskKey, check_task_id
from bridge.errors import InvalidRequest
from bridge.sources.signatures import Proof
from bridge.sources.upstream import Upstream


class CallbackResult(StrEnum):
    """How a callback was taken; also the label of `bridge_callbacks_total`."""

    ACCEPTED = "accepted"
    FORGED = "forged"
    UNKNOWN_TASK = "unknown_task"
    CHALLENGE = "challenge"


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a callback.

    Args:
        reply: JSON to answer with, where the provider wants an echo.
    """

    result: CallbackResult
    reply: bytes | None = None


async def take(
    upstream: Upstream,
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    look_now: Callable[[TaskKey], bool],
) -> Taken:
    """Take in a callback.

    Args:
        secret: What stood in the URL; compared in constant time.
        headers: By names in any case.
        look_now: Looks at a task that is watched; False when nobody watches it.
    """
    if upstream.callback_secret is None or not hmac.compare_digest(
        secret.encode(errors="surrogateescape"), upstream.callback_secret.encode()
    ):
        return _counted(upstream, Taken(CallbackResult.FORGED))
    if upstream.verifier is not None and await upstream.verifier.proof(headers, body) is Proof.WRONG:
        return _counted(upstream, Taken(CallbackResult.FORGED))
    callback = upstream.dialect.read_callback(body)
    if callback.challenge:
        return _counted(upstream, Taken(CallbackResult.CHALLENGE, callback.reply))
    if callback.task_id is not None:
        upstream.callbacks.come = True
    known = callback.task_id is not None and _looks(upstream, callback.task_id, look_now)
    result = CallbackResult.ACCEPTED if known else CallbackResult.UNKNOWN_TASK
    return _counted(upstream, Taken(result, callback.reply))


def _looks(upstream: Upstream, task_id: str, look_now: Callable[[TaskKey], bool]) -> bool:
    try:
        return look_now(TaskKey(upstream.name, check_task_id(task_id)))
    except InvalidRequest:
        return False


def _counted(upstream: Upstream, taken: Taken) -> Taken:
    upstream.metrics.callbacks.labels(upstream.name, taken.result.value).inc()
    return taken
