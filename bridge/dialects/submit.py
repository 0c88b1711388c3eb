"""Submitting: the caller's body goes as it is, and the answer says under which id the task is known."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson

from bridge.dialects.base import Request, Submission
from bridge.dialects.calls import Call
from bridge.dialects.paths import Field
from bridge.dialects.templates import Template, header_text, percent
from bridge.dialects.values import identifier, object_from
from bridge.errors import InvalidRequest

MAX_ADDRESS = 2048

Keys = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedId:
    """How the answer to a submit names the task.

    Args:
        at: Where the id stands; with a pattern, the text the pattern takes apart.
        pattern: Takes a returned address apart; it is never followed, so the pattern is the list of hosts.
        needs: Further values from the answer, all of which must be there.
        template: How the parts and the caller's options become the id the bridge uses.
    """

    at: Field[str]
    pattern: re.Pattern[str] | None = None
    needs: Mapping[str, Field[str]]
    template: Template | None = None

    def read(self, document: object, options: Mapping[str, str]) -> str | None:
        """The id of the new task, None when the answer names none."""
        if self.template is None:
            return self.at.read(document)
        parts = self._parts(document)
        if parts is None:
            return None
        values = {**options, **parts}
        return identifier(self.template.fill(values)) if self.template.names <= values.keys() else None

    def _parts(self, document: object) -> dict[str, str] | None:
        found = {name: field.read(document) for name, field in self.needs.items()}
        if self.pattern is not None:
            match = self.pattern.fullmatch(self.at.read(document) or "")
            if match is None:
                return None
            found |= {name: part for name, part in match.groupdict().items() if part is not None}
        parts = {name: part for name, part in found.items() if part is not None}
        return parts if len(parts) == len(found) else None


def address(value: object) -> str | None:
    """A text that may be an address, of a length a pattern can be let loose on."""
    return value if isinstance(value, str) and 0 < len(value) <= MAX_ADDRESS else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRules:
    """What is known of a provider's submit call beyond the call itself.

    Args:
        options: What the caller's options may look like, None for anything; no other option is taken.
        needed: The options without which the call cannot be made.
        client_id: Keys down to the caller's own id in a JSON body; empty where the provider knows none.
        callback_url: Keys down to the callback address in a JSON body; empty where it does not stand there.
        callback_query: The query parameter that holds it instead.
    """

    call: Call | None
    options: Mapping[str, re.Pattern[str] | None]
    needed: frozenset[str]
    client_id: Keys
    callback_url: Keys
    callback_query: str | None
    task_id: SubmittedId

    def request(self, submission: Submission) -> Request | None:
        """The call that creates the task, None where the provider has none.

        Raises:
            InvalidRequest: An option is missing, malformed or unknown.
        """
        if self.call is None:
            return None
        values = self._checked(submission.options)
        request = self.call.request(values, submission.body)
        if submission.content_type is not None:
            content_type = header_text(submission.content_type)
            kept = {key: value for key, value in request.headers.items() if key.lower() != "content-type"}
            request = replace(request, headers={**kept, "content-type": content_type})
        if self.callback_query in submission.options:
            path, name = request.path, percent(self.callback_query or "")
            url = percent(submission.options[self.callback_query or ""])
            request = replace(request, path=f"{path}{'&' if '?' in path else '?'}{name}={url}")
        return request

    def own_id(self, submission: Submission) -> str | None:
        """The caller's own id in the body, None where there is none."""
        if not self.client_id:
            return None
        value: object = object_from(submission.body)
        for key in self.client_id:
            value = value.get(key) if isinstance(value, dict) else None
        return identifier(value)

    def with_callback(self, submission: Submission, url: str) -> Submission:
        """The submission with a callback address, unless it has one or the provider takes none."""
        if self.callback_query is not None:
            return replace(submission, options={self.callback_query: url, **submission.options})
        if not self.callback_url:
            return submission
        body = _with_text(submission.body, self.callback_url, url)
        return submission if body is None else replace(submission, body=body)

    def _checked(self, options: Mapping[str, str]) -> Mapping[str, str]:
        for name in sorted(self.needed - options.keys()):
            raise InvalidRequest(f"the option {name!r} is missing: ?{name}=...")
        for name, value in options.items():
            if name == self.callback_query:
                continue
            if name not in self.options:
                known = ", ".join(sorted(self.options)) or "there is none"
                raise InvalidRequest(f"no such option: {name[:80]!r} ({known})")
            pattern = self.options[name]
            if not value or (pattern is not None and not pattern.fullmatch(value[:MAX_ADDRESS])):
                raise InvalidRequest(f"the option {name!r} cannot be {value[:80]!r}")
        return options


def _with_text(body: bytes, keys: Keys, text: str) -> bytes | None:
    """The body with a text set at a place that is free; None where it is not, or the body is no JSON object.

    Everything else stays byte for byte where that can be: a provider may dedupe or sign by the bytes.
    """
    document = object_from(body)
    if document is None:
        return None
    if keys[0] in document:
        return _rewritten(body, keys, text)
    below: object = text
    for key in reversed(keys[1:]):
        below = {key: below}
    start = body.index(b"{") + 1
    comma = b"," if document else b""
    return body[:start] + orjson.dumps({keys[0]: below})[1:-1] + comma + body[start:]


def _rewritten(body: bytes, keys: Keys, text: str) -> bytes | None:
    try:
        document = json.loads(body)  # not orjson: it would round whole numbers beyond 64 bits
        parent = document
        for key in keys[:-1]:
            parent = parent.setdefault(key, {})
        if parent.get(keys[-1]) is not None:
            return None
        parent[keys[-1]] = text
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError, AttributeError, TypeError):
        return None
