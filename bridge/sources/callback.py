"""Callbacks of providers: a callback triggers a poll and is trusted no further."""

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
    """Result of a callback; also the label of `bridge_callbacks_total`."""

    ACCEPTED = "accepted"
    FORGED = "forged"
    UNKNOWN_TASK = "unknown_task"
    CHALLENGE = "challenge"


@dataclass(frozen=True, slots=True)
class CallbackOutcome:
    """The result, and the response to send.

    Args:
        reply: JSON body, where the provider expects an echo.
    """

    result: CallbackResult
    reply: bytes | None = None


def is_addressed(upstream: Upstream, secret: str) -> bool:
    """Whether the secret of a callback's URL is right; one that is wrong is counted as forged.

    Args:
        upstream: With the operator's own credential.
    """
    if upstream.callback_secret and called_account(upstream.callback_secret, secret) is not None:
        return True
    _counted(upstream, CallbackOutcome(CallbackResult.FORGED))
    return False


async def take(
    upstream: Upstream,
    secret: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    called_back: Callable[[TaskKey], bool],
    seen_by: Callable[[str], Upstream | None] | None = None,
) -> CallbackOutcome:
    """Process a callback.

    Args:
        upstream: With the operator's own credential.
        secret: From the URL; compared in constant time.
        headers: Case-insensitive.
        called_back: Polls a task, watched or not; False when the upstream cannot have it.
        seen_by: The upstream with the credential of an account; None when its key is no longer in memory.
    """
    account = called_account(upstream.callback_secret, secret) if upstream.callback_secret else None
    if account is None or await _is_forged(upstream, account, headers, body):
        return _counted(upstream, CallbackOutcome(CallbackResult.FORGED))
    # After the signature was verified: what it names appears in logs and in the response.
    callback = upstream.dialect.read_callback(upstream.session.hide(body))
    if callback.challenge:
        return _counted(upstream, CallbackOutcome(CallbackResult.CHALLENGE, callback.reply))
    addressee = upstream if account == OWN_ACCOUNT or seen_by is None else seen_by(account)
    known = False
    if callback.task_id is not None and addressee is not None:
        # Even if the task is unknown: a callback came, so callbacks reach the bridge.
        addressee.callbacks.come = True
        try:
            task_id = check_task_id(callback.task_id)
            known = called_back(TaskKey(addressee.name, task_id, addressee.account))
        except InvalidRequest:
            known = False
    result = CallbackResult.ACCEPTED if known else CallbackResult.UNKNOWN_TASK
    return _counted(upstream, CallbackOutcome(result, callback.reply))


async def _is_forged(upstream: Upstream, account: str, headers: Mapping[str, str], body: bytes) -> bool:
    verifier = upstream.verifier
    # A shared signing key is the operator's: what the provider sends to another account is signed with
    # another.
    if verifier is None or not (account == OWN_ACCOUNT or verifier.published):
        return False
    return await verifier.proof(headers, body) is Proof.WRONG


def _counted(upstream: Upstream, outcome: CallbackOutcome) -> CallbackOutcome:
    upstream.metrics.callbacks.labels(upstream.name, outcome.result.value).inc()
    return outcome
