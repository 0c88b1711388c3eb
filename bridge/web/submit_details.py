"""What a submit or a registration says about its task: tags, a group, and where its end is delivered.

Read from `X-Task-Tags`, `X-Task-Group`, `X-Webhook-URL` and `?webhook=` in one place for every submit, and
from the body of a registration. Nothing of it reaches the provider, a state or an event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from starlette.datastructures import Headers

from bridge.auth.caller import Caller
from bridge.core.details import (
    MAX_DEADLINE_SECONDS,
    NO_DETAILS,
    TaskDetails,
    check_group,
    check_tags,
)
from bridge.core.selection import Selection, SelectionKind
from bridge.core.suggestion import did_you_mean
from bridge.core.task import OWN_ACCOUNT
from bridge.dialects.base import Submission
from bridge.errors import BridgeError, InvalidRequest
from bridge.sources.guard import check_url, private_hosts_of
from bridge.sources.upstream import Upstream
from bridge.web.services import Services
from bridge.webhooks.endpoint import EventType

TAGS_HEADER = "X-Task-Tags"
GROUP_HEADER = "X-Task-Group"
WEBHOOK_HEADER = "X-Webhook-URL"
PARAMETER = "webhook"
KEPT_HEADER = "X-Webhook-Kept"
REGISTRATION_KEPT_HEADER = "X-Task-Kept"

_FIELDS = ("tags", "group", "deadline_seconds", "webhook")
_MAX_HEADER = 2048  # 16 tags of 64 characters, twice
_SEPARATORS = re.compile(r"[ \t,]+")


class SubmitDetails:
    """Decides what is kept with a task, before anything is sent to the provider."""

    def __init__(self, services: Services) -> None:
        self._webhooks = services.webhooks
        self._submitter = services.submitter
        self._groups = services.groups
        self._any_hosts = bool(services.settings.webhook_hosts)
        self._private_hosts = private_hosts_of(services.settings.private_hosts)

    def requested(
        self,
        headers: Headers,
        caller: Caller,
        upstream: Upstream,
        submission: Submission,
        *,
        own_route: bool,
    ) -> tuple[Submission, TaskDetails]:
        """The submission without what is for the bridge, and what is kept with the task.

        Args:
            own_route: Whether the bridge's own submit was called, and not the provider's below `/proxy`.

        Raises:
            InvalidRequest: A tag, the group or the address is malformed, or there are too many.
            Forbidden: The address is at none of `webhook_hosts`.
        """
        tags, group = _tags_of(headers), _group_of(headers)
        submission, details = self._webhook(headers, upstream, submission, own_route=own_route)
        if tags or group is not None:
            details = details._replace(tags=tags, group=group)
        return submission, caller.submit_details(details)

    def registered(self, body: Mapping[str, object]) -> TaskDetails:
        """What the body of a registration says.

        Raises:
            InvalidRequest: It is malformed.
            Forbidden: The address is at none of `webhook_hosts`.
        """
        unknown = sorted(body.keys() - set(_FIELDS))
        if unknown:
            known = f"; known: {', '.join(_FIELDS)}"
            raise InvalidRequest(
                f"no such key: {unknown[0][:80]!r}{did_you_mean(unknown[0], _FIELDS, known)}"
            )
        webhook = body.get("webhook")
        if webhook is not None:
            if not isinstance(webhook, str):
                raise InvalidRequest("`webhook` must be a string: the address of the receiver")
            self._check(webhook)
        return TaskDetails(
            webhook=webhook,
            tags=_registered_tags(body.get("tags")),
            group=_registered_group(body.get("group")),
            deadline_seconds=_deadline(body.get("deadline_seconds")),
        )

    async def check_open(self, details: TaskDetails, account: str, *, before: str | None = None) -> None:
        """Check that the group of a task takes further tasks.

        Args:
            before: The group that the task is in already.

        Raises:
            Conflict: It is closed.
            JournalError: It cannot be read whether it is.
        """
        if details.group is not None and details.group != before:
            await self._groups.check_open(Selection(SelectionKind.GROUP, details.group, account))

    def _webhook(
        self, headers: Headers, upstream: Upstream, submission: Submission, *, own_route: bool
    ) -> tuple[Submission, TaskDetails]:
        urls = headers.getlist(WEBHOOK_HEADER)
        parameter = submission.options.get(PARAMETER)
        if parameter is not None and self._is_ours(upstream, parameter, own_route=own_route):
            urls.append(parameter)
            options = {name: text for name, text in submission.options.items() if name != PARAMETER}
            submission = replace(submission, options=options)
        if len(set(urls)) > 1:
            raise InvalidRequest(f"`{WEBHOOK_HEADER}` and `?{PARAMETER}=` name more than one address")
        if urls:
            self._check(urls[0])
            return submission, TaskDetails(webhook=urls[0])
        return submission, self._instead_of_callback(upstream, submission)

    def _is_ours(self, upstream: Upstream, url: str, *, own_route: bool) -> bool:
        """Whether `?webhook=` is for the bridge: not where the provider's call has a parameter of that name.

        On the bridge's own route it is then for the bridge where it may deliver to that address: the operator
        who lists a host wants our deliveries there.
        """
        if not upstream.dialect.takes_parameter(PARAMETER):
            return True
        return own_route and self._may_deliver(url)

    def _instead_of_callback(self, upstream: Upstream, submission: Submission) -> TaskDetails:
        """The caller's own callback address, if we may deliver there and ask for callbacks ourselves."""
        if not self._any_hosts or not self._submitter.has_callback(upstream):
            return NO_DETAILS  # before the body is read: it may be large
        url = upstream.dialect.callback_in(submission)
        return TaskDetails(webhook=url) if url is not None and self._may_deliver(url) else NO_DETAILS

    def _may_deliver(self, url: str) -> bool:
        try:
            self._check(url)
        except BridgeError:
            return False
        return True

    def _check(self, url: str) -> None:
        check_url(url, self._private_hosts)
        self._webhooks.submits.check(url)


def _tags_of(headers: Headers) -> tuple[str, ...]:
    """The words of `X-Task-Tags`, separated by spaces, commas or both; the header may be repeated."""
    values = headers.getlist(TAGS_HEADER)
    if not values:
        return ()
    text = ",".join(values)
    if len(text) > _MAX_HEADER:
        raise InvalidRequest(f"`{TAGS_HEADER}` is too long")
    tags = check_tags(word for word in _SEPARATORS.split(text) if word)
    if not tags:
        raise InvalidRequest(f"`{TAGS_HEADER}` names no tag")
    return tags


def _group_of(headers: Headers) -> str | None:
    values = headers.getlist(GROUP_HEADER)
    if not values:
        return None
    if len(set(values)) > 1:
        raise InvalidRequest(f"`{GROUP_HEADER}` names more than one group")
    return check_group(values[0])


def _registered_tags(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise InvalidRequest("`tags` must be a list of strings")
    return check_tags(value)


def _registered_group(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidRequest("`group` must be a string")
    return check_group(value)


def _deadline(value: object) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= MAX_DEADLINE_SECONDS:  # type: ignore[operator]
        raise InvalidRequest(
            f"`deadline_seconds` must be a number above 0, at most {MAX_DEADLINE_SECONDS:.0f}"
        )
    return float(value)  # type: ignore[arg-type]


def delivery_guarantee(caller: Caller) -> str:
    """How long the tasks of a caller are watched, and their deliveries ensured."""
    return "until_final" if caller.account == OWN_ACCOUNT else "while_key_known"


def webhook_answer(details: TaskDetails, caller: Caller) -> Mapping[str, object]:
    """What the answer to a submit has about it; nothing without an address."""
    if details.webhook is None:
        return {}
    about = {"url": details.webhook, "events": [EventType.FINAL.value], "kept": delivery_guarantee(caller)}
    return {"webhook": about}


def webhook_headers(details: TaskDetails, caller: Caller) -> Mapping[str, str]:
    """The same for an answer whose body is the provider's."""
    return {} if details.webhook is None else {KEPT_HEADER: delivery_guarantee(caller)}
