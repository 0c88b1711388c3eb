"""The provider's calls as templates, and the shape of its task ids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from bridge.core.task import check_task_id
from bridge.dialects.base import Request
from bridge.dialects.templates import Body, Template, check_values, header_of, path_of, percent
from bridge.errors import InvalidRequest

_HOST_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, without its values."""

    method: str
    path: Template
    query: tuple[tuple[str, Template], ...]
    headers: tuple[tuple[str, Template], ...]
    body: Body | None
    base_url: Template | None

    @property
    def names(self) -> frozenset[str]:
        """The values that the call needs."""
        templates = [self.path, *(template for _, template in (*self.query, *self.headers))]
        templates += [self.base_url] if self.base_url else []
        return frozenset().union(*(template.names for template in templates))

    def request(self, values: Mapping[str, str], body: bytes | None = None) -> Request:
        """The call with its values; `body` is the caller's, sent unchanged.

        Raises:
            InvalidRequest: A value is not allowed where the call needs it.
        """
        path = path_of(self.path, values)
        for name, template in self.query:
            check_values(template, values)
            path += f"{'&' if '?' in path else '?'}{percent(name)}={template.fill(values, percent)}"
        headers = {name: header_of(template, values) for name, template in self.headers}
        if self.body is not None:
            body = orjson.dumps(self.body.fill(values))
        if body is not None:
            headers.setdefault("content-type", "application/json")
        base_url = self.base_url.fill(values, _host_part) if self.base_url else None
        return Request(method=self.method, path=path, headers=headers, body=body, base_url=base_url)


def _host_part(value: str) -> str:
    # Anything more (`@`, `:`, `/`) would move the host, and with it the credential.
    if not _HOST_PART.fullmatch(value):
        raise InvalidRequest(f"{value[:80]!r} cannot be part of a host name")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class IdShape:
    """What a task id consists of, where a call needs more than the id: an action, an endpoint, a host.

    Args:
        pattern: Must match the whole id; its named groups are the parts.
        defaults: Values of groups that take no part in a match.
        model: The group that names the model; `action` the action. None for no such group.
    """

    pattern: re.Pattern[str] | None
    defaults: Mapping[str, str]
    model: str | None = None
    action: str | None = None

    @property
    def names(self) -> frozenset[str]:
        """The names of the id and of its parts."""
        return frozenset({"task_id", *(self.pattern.groupindex if self.pattern else ())})

    def values(self, task_id: str) -> dict[str, str]:
        """The id, in its canonical form, and its named parts.

        Raises:
            InvalidRequest: The id is malformed, or does not match the pattern.
        """
        task_id = check_task_id(task_id)
        values = {**self.defaults, "task_id": task_id}
        if self.pattern is not None:
            match = self.pattern.fullmatch(task_id)
            if match is None:
                raise InvalidRequest(f"{task_id[:80]!r} is not a task id of this upstream")
            values.update({name: part for name, part in match.groupdict().items() if part is not None})
        return values

    def kind(self, task_id: str) -> tuple[str | None, str | None]:
        """Model and action, as far as the id names them."""
        if self.model is None and self.action is None:
            return None, None
        try:
            values = self.values(task_id)
        except InvalidRequest:
            return None, None
        return values.get(self.model or ""), values.get(self.action or "")
