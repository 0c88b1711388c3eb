"""Submitting: the client's body is sent unchanged, and the response says which id the task has."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson

from bridge.core.suggestion import did_you_mean
from bridge.dialects.base import Request, Submission
from bridge.dialects.calls import Call
from bridge.dialects.paths import Field
from bridge.dialects.templates import Template, header_text, percent
from bridge.dialects.values import identifier, object_from
from bridge.errors import InvalidRequest

MAX_ADDRESS = 2048

_Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedId:
    """How the response to a submit names the task.

    Args:
        at: Where the id is; with a pattern, the text that the pattern takes apart.
        pattern: Takes a returned address apart. The address is never followed: the pattern is the list of
            hosts.
        needs: Further values from the response, all of them required.
        template: How the parts and the client's options make up the id that the bridge uses.
    """

    at: Field[str]
    pattern: re.Pattern[str] | None = None
    needs: Mapping[str, Field[str]]
    template: Template | None = None

    def read(self, document: object, options: Mapping[str, str]) -> str | None:
        """The id of the new task, None when the response has none."""
        if self.template is None:
            return self.at.read(document)
        parts = {name: field.read(document) for name, field in self.needs.items()}
        if self.pattern is not None:
            match = self.pattern.fullmatch(self.at.read(document) or "")
            if match is None:
                return None
            # A group that took no part in the match is not required; a value of `needs` is.
            parts |= {name: part for name, part in match.groupdict().items() if part is not None}
        values = {**options, **{name: part for name, part in parts.items() if part is not None}}
        if None in parts.values() or not self.template.names <= values.keys():
            return None
        return identifier(self.template.fill(values))


def address(value: object) -> str | None:
    """A string that may be an address, short enough to be matched against a pattern."""
    return value if isinstance(value, str) and 0 < len(value) <= MAX_ADDRESS else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRules:
    """What is known of a provider's submit call beyond the call itself.

    Args:
        options: What the client's options may look like, None for anything; other options are refused.
        needed: The options without which the call cannot be made.
        client_id: Keys down to the client's own id in a JSON body; empty where the provider takes none.
        callback_url: Keys down to the callback address in a JSON body; empty where it is not in the body.
        callback_query: The query parameter that holds it instead.
    """

    call: Call | None
    options: Mapping[str, re.Pattern[str] | None]
    needed: frozenset[str]
    client_id: _Path
    callback_url: _Path
    callback_query: str | None
    task_id: SubmittedId

    def request(self, submission: Submission) -> Request | None:
        """The call that creates the task, None where the provider has none.

        Raises:
            InvalidRequest: An option is missing, malformed or unknown.
        """
        if self.call is None:
            return None
        self._check(submission.options)
        request = self.call.request(submission.options, submission.body)
        if submission.headers:
            passed_on = {name: header_text(value) for name, value in submission.headers.items()}
            own = {key: value for key, value in request.headers.items() if key.lower() not in passed_on}
            request = replace(request, headers={**own, **passed_on})
        if submission.content_type is not None:
            content_type = header_text(submission.content_type)
            others = {key: value for key, value in request.headers.items() if key.lower() != "content-type"}
            request = replace(request, headers={**others, "content-type": content_type})
        if self.callback_query in submission.options:
            path, name = request.path, percent(self.callback_query or "")
            url = percent(submission.options[self.callback_query or ""])
            request = replace(request, path=f"{path}{'&' if '?' in path else '?'}{name}={url}")
        return request

    def client_id_in(self, submission: Submission) -> str | None:
        """The client's own id in the body, None where there is none."""
        if not self.client_id:
            return None
        value: object = object_from(submission.body)
        for key in self.client_id:
            value = value.get(key) if isinstance(value, dict) else None
        return identifier(value)

    def callback_in(self, submission: Submission) -> str | None:
        """The callback address that the client gave, None where there is none."""
        if self.callback_query is not None:
            return submission.options.get(self.callback_query) or None
        value: object = object_from(submission.body) if self.callback_url else None
        for key in self.callback_url:
            value = value.get(key) if isinstance(value, dict) else None
        return address(value)

    def with_callback(self, submission: Submission, url: str, *, instead: bool = False) -> Submission:
        """The submission with a callback address, unless it has one or the provider takes none.

        Args:
            instead: Replace the one that it has.
        """
        if self.callback_query is not None:
            added = {self.callback_query: url}
            options = {**submission.options, **added} if instead else {**added, **submission.options}
            return replace(submission, options=options)
        if not self.callback_url:
            return submission
        body = _with_text(submission.body, self.callback_url, url, instead=instead)
        return submission if body is None else replace(submission, body=body)

    def takes_parameter(self, name: str) -> bool:
        """Whether the provider's call has a parameter of that name beside the body."""
        return name == self.callback_query or name in self.options

    def _check(self, options: Mapping[str, str]) -> None:
        for name, value in options.items():
            if name == self.callback_query:
                continue
            if name not in self.options:
                known = (
                    f"known: {', '.join(sorted(self.options))}" if self.options else "this call takes none"
                )
                advice = did_you_mean(name, self.options, f" ({known})")
                raise InvalidRequest(f"no such option: {name[:80]!r}{advice}")
            pattern = self.options[name]
            if not value or (pattern is not None and not pattern.fullmatch(value[:MAX_ADDRESS])):
                raise InvalidRequest(f"the option {name!r} cannot be {value[:80]!r}")
        # Last: an option that was misspelt is reported under the name that was sent.
        for name in sorted(self.needed - options.keys()):
            raise InvalidRequest(f"the option {name!r} is missing: ?{name}=...")


def _with_text(body: bytes, path: _Path, text: str, *, instead: bool) -> bytes | None:
    """The body with a text at a path, None where the path is taken or the body is not a JSON object.

    Everything else stays byte for byte where that is possible: a provider may deduplicate or sign by the
    bytes.
    """
    document = object_from(body)
    if document is None:
        return None
    if path[0] in document:
        return _rewritten(body, path, text, instead=instead)
    below: object = text
    for key in reversed(path[1:]):
        below = {key: below}
    start = body.index(b"{") + 1
    comma = b"," if document else b""
    return body[:start] + orjson.dumps({path[0]: below})[1:-1] + comma + body[start:]


def _rewritten(body: bytes, path: _Path, text: str, *, instead: bool) -> bytes | None:
    try:
        document = json.loads(body)  # not orjson: it would round whole numbers beyond 64 bits
        parent = document
        for key in path[:-1]:
            parent = parent.setdefault(key, {})
        if parent.get(path[-1]) is not None and not instead:
            return None
        parent[path[-1]] = text
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError, AttributeError, TypeError):
        return None
