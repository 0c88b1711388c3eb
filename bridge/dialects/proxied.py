"""What `/proxy` knows of the provider's own clients: where they send a request, what they read in answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bridge.core.task import climbs
from bridge.dialects.base import Request
from bridge.dialects.calls import IdShape
from bridge.dialects.paths import Finder, holds
from bridge.dialects.templates import Template, header_of, percent
from bridge.dialects.values import object_from
from bridge.errors import InvalidRequest

MAX_TARGET = 4096

# What a client writes that builds the address from a host name: no user, port, fragment or backslash, nothing
# that one parser reads as a host and another as a path. The host is compared with a list, letter by letter.
_TARGET = re.compile(
    r"https://(?P<host>[A-Za-z0-9.-]+)(?P<path>/[!$%&'()*+,./0-9:;=@A-Z_a-z~-]*)"
    r"(?:\?(?P<query>[!$%&'()*+,./0-9:;=?@A-Z_a-z~-]*))?"
)


_NO = frozenset({"", "0", "false"})


@dataclass(frozen=True, slots=True)
class Target:
    """The address that a client would have called.

    Args:
        host: In lower case; empty for that of the dialect's base URL.
        path: Still encoded, as the query.
    """

    host: str
    path: str
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCall:
    """A call of the provider's clients that the bridge does not carry, and the message of its error.

    Args:
        methods: Empty for any.
        hosts: Other hosts of the provider than that of the base URL; empty for that one.
        path: The whole of it matches.
        condition: Only where it finds something in the JSON body.
    """

    methods: frozenset[str]
    hosts: frozenset[str]
    path: re.Pattern[str]
    condition: Finder | None
    message: str

    def covers(self, method: str, target: Target, body: bytes) -> bool:
        """Whether a request is such a call; a target without a host is at the base URL."""
        if (self.methods and method not in self.methods) or not self.path.fullmatch(target.path):
            return False
        if (target.host not in self.hosts) if self.hosts else target.host:
            return False
        return self.condition is None or holds(self.condition(object_from(body)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyRules:
    """How `/proxy` meets the provider's own clients.

    Args:
        host: That of the dialect's base URL.
        target_header: The header in which a client names the address it would call; None where none does.
        submit_headers: The headers of a client's submit that the provider gets, in lower case.
        answer_headers: Headers of answers about a task, made of its id and its parts.
        error_keys: Further keys of the bridge's errors, beside `error`; of `{message}` and `{code}`.
        details: Query parameters of the status call that only some clients need: sent from then on, once a
            client of the task has sent them.
        without_details: What a document without the answer to such a parameter is given: by key.
        wait_word: The status word of an open task for a client that waited in vain; None where the provider
            has no such submit.
        events: Name, wrapper, number and query parameter of the events of a stream made of polls.
        passed: The whole paths whose GET is passed on: calls about no task, which a client of one needs.
        refused: Calls that are refused with a sentence of their own.
    """

    host: str
    target_header: str | None = None
    submit_headers: tuple[str, ...] = ()
    answer_headers: tuple[tuple[str, Template], ...] = ()
    error_keys: Mapping[str, Template] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    without_details: Mapping[str, Any] = field(default_factory=dict)
    wait_word: str | None = None
    events: tuple[str, str, str, str] | None = None
    passed: re.Pattern[str] | None = None
    refused: tuple[RefusedCall, ...] = ()

    def target(self, values: Sequence[str]) -> Target:
        """The address in a client's header, checked.

        Args:
            values: All values of the header.

        Raises:
            InvalidRequest: It is not one https address at one of the provider's hosts.
        """
        text = values[0] if len(values) == 1 else ""
        match = _TARGET.fullmatch(text) if len(text) <= MAX_TARGET else None
        hosts = {self.host, *(host for refusal in self.refused for host in refusal.hosts)}
        if match is None or match["host"].lower() not in hosts:
            raise InvalidRequest(
                f"{self.target_header} must be one https:// address at {self.host}, without a port"
            )
        host = match["host"].lower()
        return Target("" if host == self.host else host, match["path"], match["query"] or "")

    def refusal(self, method: str, target: Target, body: bytes) -> str | None:
        """Why the bridge does not carry a call of this provider's clients; None for no particular reason."""
        return next((one.message for one in self.refused if one.covers(method, target, body)), None)

    def passes(self, method: str, path: str) -> bool:
        """Whether a call is passed on as it is."""
        if method != "GET" or self.passed is None or not path.isascii() or climbs(path):
            return False
        return self.passed.fullmatch(path[:MAX_TARGET]) is not None

    def asks_for_details(self, query: Mapping[str, str]) -> bool:
        """Whether a client's query asks for the details that the bridge's polls usually leave out."""
        return bool(self.details) and all(query.get(name, "").lower() not in _NO for name in self.details)

    def with_details(self, request: Request) -> Request:
        """The status call with them."""
        added = "&".join(f"{percent(name)}={percent(value)}" for name, value in self.details.items())
        path = f"{request.path}{'&' if '?' in request.path else '?'}{added}"
        return replace(request, path=path)

    def headers(self, ids: IdShape, task_id: str) -> dict[str, str]:
        """The headers of an answer about a task; none where its id cannot be in a header."""
        try:
            values = ids.values(task_id)
            return {name: header_of(template, values) for name, template in self.answer_headers}
        except InvalidRequest:
            return {}

    def error_fields(self, message: str, code: str | None) -> dict[str, str]:
        """The further keys of an error."""
        values = {"message": message, "code": code or ""}
        return {key: template.fill(values) for key, template in self.error_keys.items()}


def header_names(rules: Iterable[ProxyRules]) -> list[str]:
    """The names of all headers that answers about a task have, for pages of other origins to read."""
    return sorted({name for one in rules for name, _ in one.answer_headers})
