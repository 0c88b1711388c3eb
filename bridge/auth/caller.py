"""The authenticated caller of a request and the scopes and tasks its credential covers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from bridge.auth.grants import Grant
from bridge.core.rate_limit import ABOUT_ONE_TASK
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.errors import CredentialRefused, Forbidden, TaskNotFound, Unauthenticated
from bridge.sources.accounts import REFUSED_SENTENCE

MISSING_SENTENCE = "the upstream does not return this task"
NOT_COVERED_SENTENCE = "the credential does not cover every task of the request"


class TokenScope(StrEnum):
    """The scopes of a credential, as the `scope` claim spells them."""

    READ = "read"
    SUBMIT = "submit"
    CANCEL = "cancel"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The holder of a valid credential.

    Args:
        name: Distinguishes callers in limits and logs; never a credential.
        tasks: The tasks the credential covers; None for all.
        expires_at: Unix seconds when the credential expires; None for never.
        account: The account whose provider key polls the caller's tasks; `-` for the bridge's own key.
        token_id: The id (`jti`) of the token, or of the one a ticket was issued for; None without one.
    """

    name: str
    scopes: frozenset[TokenScope]
    tasks: Grant | None
    expires_at: float | None
    account: str = OWN_ACCOUNT
    token_id: str | None = None

    def covers(self, key: TaskKey) -> bool:
        """Whether the credential covers the task; a task of another account is never covered."""
        return key.account == self.account and (self.tasks is None or self.tasks.covers(key))

    def covers_all_of(self, upstream: str) -> bool:
        """Whether the credential covers every task of the upstream, including tasks not created yet."""
        return self.tasks is None or upstream in self.tasks.upstreams

    def authorize(self, scope: TokenScope, keys: Sequence[TaskKey] = ()) -> None:
        """Check the scope and that every task is covered.

        Raises:
            Forbidden: The credential does not allow it.
        """
        if scope not in self.scopes:
            raise Forbidden(f"the credential lacks the scope `{scope.value}`")
        if not all(self.covers(key) for key in keys):
            raise Forbidden(NOT_COVERED_SENTENCE)

    def authorize_upstream(self, scope: TokenScope, upstream: str) -> None:
        """Check the scope and that every task of the upstream is covered.

        Raises:
            Forbidden: The credential does not allow it.
        """
        self.authorize(scope)
        if not self.covers_all_of(upstream):
            raise Forbidden("the credential does not cover all tasks of the upstream")

    def authorize_missing(self, upstream: str) -> None:
        """Check that the caller may learn that the upstream has no such task.

        Raises:
            Forbidden: Not every task of the upstream is covered. The answer is the one for a task that exists
                and is not covered.
        """
        if not self.covers_all_of(upstream):
            raise Forbidden(NOT_COVERED_SENTENCE)

    def authorize_search(self, upstream: str) -> None:
        """Check that a search among the upstream's tasks could find one the caller may read.

        Raises:
            Forbidden: The credential does not allow it.
        """
        self.authorize(TokenScope.READ)
        if self.tasks is not None and not self.tasks.touches(upstream):
            raise Forbidden("the credential covers no task of the upstream")


@contextmanager
def one_answer_for_missing(account: str) -> Iterator[None]:
    """Report a task that the provider does not show to a caller's own key as missing, all in the same words.

    A provider that answers 403 for the tasks of its other customers would reveal which ids exist.

    Raises:
        TaskNotFound: The task does not exist, or is another account's.
    """
    try:
        yield
    except (CredentialRefused, TaskNotFound) as error:
        if account == OWN_ACCOUNT or (isinstance(error, CredentialRefused) and error.provider_status != 403):
            raise
        raise TaskNotFound(MISSING_SENTENCE) from None


ANONYMOUS = Caller(name="anonymous", scopes=frozenset(TokenScope), tasks=None, expires_at=None)


@contextmanager
def map_credential_errors(caller: Caller) -> Iterator[None]:
    """Report a provider's rejection of the caller's own key as 401 instead of 502.

    `CredentialRefused` says that the bridge's key was rejected. Where the call was made with the caller's
    key, it is the caller who must send another one.

    Raises:
        Unauthenticated: The provider rejected the caller's key.
    """
    try:
        yield
    except CredentialRefused as error:
        # 402 and 403 are about one task or the balance: the key itself is still valid
        if caller.account == OWN_ACCOUNT or error.provider_status in ABOUT_ONE_TASK:
            raise
        raise Unauthenticated(REFUSED_SENTENCE) from None
