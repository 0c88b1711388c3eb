"""Being called: a provider's callback means "look now", never more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from bridge.core.task import OWN_ACCOUNT, TaskKey, check_task_id
from bridge.errors import InvalidRequest
from bridge.sources.accounts import called_account
from bridge.sources.signatures import Proof
from bridge.sources.upstream import Upstream


class CallbackResult(StrEnum):
    """How a callback was taken; also the label of `bridge_callbacks_total`."""

    ACCEPTED = "accepted"
    FORGED = "forged"
    UNKNOWN_TASK = "unknown_task"
    CHALLENGE = "challenge"


@dataclass(frozen=True, slots=True)
class CallbackOutcome:
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
    poll_now: Callable[[TaskKey], bool],
    seen_by: Callable[[str], Upstream | None] | None = None,
) -> CallbackOutcome:
    """Take in a callback.

    Args:
        upstream: As the operator's own credential sees it.
        secret: What stood in the URL; compared in constant time.
        headers: By names in any case.
        look_now: Looks at a task that is watched; False when nobody watches it.
        seen_by: The upstream as an account sees it; None when its key is not here.
    """
    account = called_account(upstream.callback_secret, secret) if upstream.callback_secret else None
    if account is None or await _proven_wrong(upstream, account, headers, body):
        return _counted(upstream, CallbackOutcome(CallbackResult.FORGED))
    callback = upstream.dialect.read_callback(body)
    if callback.challenge:
        return _counted(upstream, CallbackOutcome(CallbackResult.CHALLENGE, callback.reply))
    seen = upstream if account == OWN_ACCOUNT or seen_by is None else seen_by(account)
    known = False
    if callback.task_id is not None and seen is not None:
        seen.callbacks.come = True
        known = _looks(seen, callback.task_id, poll_now)
    result = CallbackResult.ACCEPTED if known else CallbackResult.UNKNOWN_TASK
    return _counted(upstream, CallbackOutcome(result, callback.reply))


async def _proven_wrong(upstream: Upstream, account: str, headers: Mapping[str, str], body: bytes) -> bool:
    """The operator's signing key says nothing of what the provider signs for another account."""
    verifier = upstream.verifier
    if verifier is None or not (account == OWN_ACCOUNT or verifier.published):
        return False
    return await verifier.proof(headers, body) is Proof.WRONG


def _looks(upstream: Upstream, task_id: str, poll_now: Callable[[TaskKey], bool]) -> bool:
    try:
        return poll_now(TaskKey(upstream.name, check_task_id(task_id), upstream.account))
    except InvalidRequest:
        return False


def _counted(upstream: Upstream, taken: CallbackOutcome) -> CallbackOutcome:
    upstream.metrics.callbacks.labels(upstream.name, taken.result.value).inc()
    return taken
