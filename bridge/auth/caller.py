"""The authenticated caller of a request and the scopes and tasks its credential covers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from bridge.auth.grants import Grant
from bridge.core.details import MAX_TAGS, NO_DETAILS, TaskDetails
from bridge.core.rate_limit import ABOUT_ONE_TASK
from bridge.core.selection import Selection, SelectionKind
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.errors import CredentialRefused, Forbidden, InvalidRequest, TaskNotFound, Unauthenticated
from bridge.sources.accounts import REFUSED_SENTENCE

MISSING_SENTENCE = "the upstream does not return this task"
NOT_COVERED_SENTENCE = "the credential does not cover every task of the request"
NOT_ALL_COVERED_SENTENCE = "the credential does not cover all tasks of the upstream"


class TokenScope(StrEnum):
    """The scopes of a credential, as the `scope` claim spells them."""

    READ = "read"
    SUBMIT = "submit"
    CANCEL = "cancel"
    ADMIN = "admin"


class CallerRights(NamedTuple):
    """What decides which tasks a caller may read: two callers with equal rights see the same.

    Args:
        tasks: The tasks the credential covers; None for all.
        restriction: Of a ticket, what the caller it was issued to could read; None for all. Only what both
            cover is covered.
    """

    account: str
    tasks: Grant | None
    restriction: Grant | None = None

    def shows(self, key: TaskKey, details: TaskDetails = NO_DETAILS) -> bool:
        """Whether they cover a task with these details; a task of another account is never covered."""
        return (
            key.account == self.account
            and (self.tasks is None or self.tasks.covers(key, details))
            and (self.restriction is None or self.restriction.covers(key, details))
        )

    def covers_selection(self, selection: Selection) -> bool:
        """Whether they cover every task of a tag or group: it may be known then, also without tasks."""
        is_tag = selection.kind is SelectionKind.TAG
        return selection.account == self.account and all(
            grant is None or selection.name in (grant.tags if is_tag else grant.groups)
            for grant in (self.tasks, self.restriction)
        )

    @property
    def by_names(self) -> bool:
        """Whether more may be covered once the details of a task are known."""
        return self.tasks is not None and (
            self.tasks.has_names or (self.restriction is not None and self.restriction.has_names)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The holder of a valid credential.

    Args:
        name: Distinguishes callers in limits and logs; never a credential.
        tasks: The tasks the credential covers; None for all.
        expires_at: Unix seconds when the credential expires; None for never.
        account: The account whose provider key polls the caller's tasks; `-` for the bridge's own key.
        token_id: The id (`jti`) of the token, or of the one a ticket was issued for; None without one.
        own_tags: What its submits are tagged with: the tags of its token.
        restriction: See `CallerRights`.
        follows_all: Whether it may follow every tag and group, of which it sees what it covers; not with a
            ticket, which names what it is for.
    """

    name: str
    scopes: frozenset[TokenScope]
    tasks: Grant | None
    expires_at: float | None
    account: str = OWN_ACCOUNT
    token_id: str | None = None
    own_tags: tuple[str, ...] = ()
    restriction: Grant | None = None
    follows_all: bool = True

    @property
    def rights(self) -> CallerRights:
        """What decides which tasks it may read."""
        return CallerRights(self.account, self.tasks, self.restriction)

    def covers(self, key: TaskKey, details: TaskDetails = NO_DETAILS) -> bool:
        """Whether the credential covers the task; a task of another account is never covered.

        Args:
            details: What the task is known by. Without them a task that only a tag opens is not covered:
                `Authenticator.covers` reads them.
        """
        return self.rights.shows(key, details)

    def shows(self, key: TaskKey, details: TaskDetails) -> bool:
        """Whether the caller may read a task with these details: what lists and selections filter by."""
        return self.rights.shows(key, details)

    def covers_all_of(self, upstream: str) -> bool:
        """Whether the credential covers every task of the upstream, including tasks not created yet."""
        return self.restriction is None and (self.tasks is None or upstream in self.tasks.upstreams)

    def may_follow(self, selection: Selection) -> bool:
        """Whether the caller may follow a tag or group; what it is shown of it, `shows` decides."""
        if selection.account != self.account:
            return False
        if self.follows_all or self.tasks is None:
            return True
        names = self.tasks.tags if selection.kind is SelectionKind.TAG else self.tasks.groups
        return selection.name in names

    def may_submit(self, upstream: str) -> bool:
        """Whether the caller may create tasks at the upstream.

        It must cover them then: all of the upstream, or those with its own tags, which each of its submits
        gets. A claim that names upstreams beside tags restricts it to those.
        """
        if TokenScope.SUBMIT not in self.scopes:
            return False
        by_tags = bool(self.own_tags) and self.tasks is not None and not self.tasks.upstreams
        return by_tags or self.covers_all_of(upstream)

    def covered_at(self, upstream: str) -> Callable[[TaskKey, TaskDetails], bool] | None:
        """Which tasks of an upstream that exist already it may read; None for all."""
        return None if self.covers_all_of(upstream) else self.shows

    def submit_details(self, details: TaskDetails) -> TaskDetails:
        """What a task is submitted with: also the tags of the caller.

        Raises:
            InvalidRequest: They are more than a task can have.
        """
        if not self.own_tags:
            return details
        tags = tuple(dict.fromkeys((*details.tags, *self.own_tags)))
        if len(tags) > MAX_TAGS:
            raise InvalidRequest(f"a task can have at most {MAX_TAGS} tags, those of the token included")
        return details._replace(tags=tags)

    def authorize(self, scope: TokenScope, keys: Sequence[TaskKey] = ()) -> None:
        """Check the scope, and that the claims alone cover every task; `Authenticator.check` reads tags.

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
            raise Forbidden(NOT_ALL_COVERED_SENTENCE)

    def authorize_submit(self, upstream: str) -> None:
        """Check that the caller may create tasks at the upstream.

        Raises:
            Forbidden: The credential does not allow it.
        """
        self.authorize(TokenScope.SUBMIT)
        if not self.may_submit(upstream):
            raise Forbidden(NOT_ALL_COVERED_SENTENCE)

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
