"""Finds the call that a request to one of the provider's own paths makes: the inverse of the templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from bridge.core.task import CLIMBS_SENTENCE, canonical_id, check_url_part, climbs
from bridge.dialects.base import ProxyMatch
from bridge.dialects.calls import Call, IdShape
from bridge.dialects.submit import MAX_ADDRESS, SubmitRules
from bridge.dialects.templates import Template
from bridge.dialects.values import identifier, object_from
from bridge.errors import InvalidRequest

MAX_PATH = 2048  # no provider's calls are longer, and regular expressions are not run on more

# From the narrowest to the widest: the path of a submit may be little more than one place.
_ORDER = ("sync", "cancel", "stream", "follow_up", "file", "alias", "status", "submit")
_CREATES = frozenset({"submit", "sync"})
_OF_FILES = frozenset({"follow_up", "file"})

Values = dict[str, str]
Decode = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class _TemplateMatcher:
    """Reads the values of a template's places back from a text that was made of it."""

    pattern: re.Pattern[str]
    names: tuple[str, ...]

    def read(self, text: str, decode: Decode) -> Values | None:
        """The values, None when the text does not match the template."""
        match = self.pattern.fullmatch(text)
        if match is None:
            return None
        try:
            pairs = [(name, decode(part)) for name, part in zip(self.names, match.groups(), strict=True)]
        except UnicodeDecodeError:
            return None
        return _without_conflict(pairs)


@dataclass(frozen=True, slots=True)
class _CallMatcher:
    """Matches requests against one call."""

    name: str
    call: Call
    path: _TemplateMatcher
    query: Mapping[str, _TemplateMatcher]
    host: _TemplateMatcher | None

    def values_in_path(self, path: str) -> Values | None:
        """The values of a path; where the task id chooses the host, the host may come before it."""
        values = self.path.read(path, _decoded)
        if values is None and self.host is not None:
            host, slash, rest = path.removeprefix("/").partition("/")
            before, after = self.host.read(host, _decoded), self.path.read(slash + rest, _decoded)
            if before is not None and after is not None:
                values = _without_conflict([*before.items(), *after.items()])
        return None if values is None or any(climbs(value) for value in values.values()) else values

    def values_in_query(self, query: Mapping[str, str], known: Values) -> Values | None:
        """The values of path and query, None when the query is not this call's."""
        pairs = list(known.items())
        for name, matcher in self.query.items():
            in_query = matcher.read(query.get(name, ""), str)
            if in_query is None:
                return None
            pairs += in_query.items()
        return _without_conflict(pairs)

    def excludes(self, other: _CallMatcher, query: Mapping[str, str]) -> bool:
        """Whether the query is also that of another form of the same path: both kinds of id at once."""
        if other is self or (other.call.method, other.path) != (self.call.method, self.path):
            return False
        further = other.query.keys() - self.query.keys()
        return bool(further and self.query) and all(query.get(name) for name in further)

    def values_in_rest(self, query: Mapping[str, str], body: bytes | None, known: Values) -> Values | None:
        """The values of path, query and body, None when query or body are not this call's."""
        values = self.values_in_query(query, known)
        if values is None or self.call.body is None:
            return values
        if not body and self.call.body.names <= values.keys():
            return values
        in_body = _values_in_body(self.call.body.tree, object_from(body or b""))
        return None if in_body is None else _without_conflict([*values.items(), *in_body])


class Matcher:
    """Matches requests against the calls of one dialect.

    Args:
        base_url: The dialect's own: what follows its host is part of the documented paths.
        accepted: Further forms of the calls, by their names: served, but never made by the bridge.
        serves_stream: Whether the bridge can serve the provider's stream itself.
    """

    def __init__(
        self,
        base_url: str,
        calls: Mapping[str, Call],
        ids: IdShape,
        submit: SubmitRules,
        *,
        accepted: Sequence[tuple[str, Call]] = (),
        serves_stream: bool,
    ) -> None:
        self._ids = ids
        self._submit = submit
        self._serves_stream = serves_stream
        self._base = base_url
        self._matchers = [
            _call_matcher(name, call, base_url)
            for wanted in _ORDER
            for name, call in (*calls.items(), *accepted)
            if name == wanted
        ]

    def documented(self, path: str) -> str:
        """The path of a call with the path of the provider's base URL before it."""
        return urlsplit(self._base).path.rstrip("/") + path

    def match(self, method: str, path: str, query: str, body: bytes | None) -> ProxyMatch | None:
        """The call that a request makes, None when it is not one of the provider's.

        Args:
            path: What follows the host, still encoded.
            query: What follows the question mark, still encoded.

        Raises:
            InvalidRequest: The path is a call's, but the query or the body is not; or a value of them would
                name another resource.
        """
        if len(path) > MAX_PATH:
            return None
        if climbs(path):
            raise InvalidRequest(CLIMBS_SENTENCE)  # exactly the paths that `Call.request` refuses to make
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        path_matched = False
        for matcher in self._matchers:
            in_path = matcher.values_in_path(path) if matcher.call.method == method else None
            if in_path is None:
                continue
            values = matcher.values_in_rest(parameters, body, in_path)
            if values is None:
                # A stream often has the path of the status call; only its query differs.
                path_matched = path_matched or matcher.name != "stream"
                continue
            if any(climbs(value) for value in values.values()):
                raise InvalidRequest(CLIMBS_SENTENCE)
            match = self._match(matcher, values, parameters)
            if match is not None:
                if any(matcher.excludes(other, parameters) for other in self._matchers):
                    raise InvalidRequest("the query asks for two different things at once")
                return match if match.call != "stream" or self._serves_stream else None
        if path_matched:
            raise InvalidRequest("the query or the body does not match this call")
        return None

    def probable_path(self, method: str, path: str, query: str, body: bytes | None) -> str | None:
        """The path that a request without a match probably means.

        Libraries differ in whether their base URL contains the provider's first segment, such as `/v1`: the
        path may lack it, or have it twice.
        """
        documented = (self.documented(matcher.call.path.text) for matcher in self._matchers)
        segments = {whole.lstrip("/").partition("/")[0] for whole in documented}
        for segment in sorted(name for name in segments if name and "{" not in name):
            twice = f"/{segment}/{segment}/"
            wanted = path.removeprefix(f"/{segment}") if path.startswith(twice) else f"/{segment}{path}"
            try:
                if self.match(method, wanted, query, body) is not None:
                    return wanted
            except InvalidRequest:  # the path is a call's, and only the rest is wrong
                return None if climbs(wanted) else wanted
        return None

    def path_of_link(self, host: str, path: str, query: str) -> str | None:
        """The path, with the query, under which `match` finds the call that a link makes.

        None when the link is not a call about a task, or one that the bridge does not serve. Creates do not
        count: no client follows a link to create a task, and their paths may be little more than one place.

        Args:
            host: In lower case, without a port.
            path: What follows the host, still encoded.
        """
        if len(path) > MAX_PATH or climbs(path):
            return None
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        for matcher in self._matchers:
            in_path = matcher.path.read(path, _decoded) if matcher.name not in _CREATES else None
            values = None if in_path is None else matcher.values_in_query(parameters, in_path)
            if values is None or (matcher.name == "stream" and not self._serves_stream):
                continue
            before = ""
            if matcher.host is not None:
                in_host = matcher.host.read(host, str)
                if in_host is None:
                    continue
                values = {**values, **in_host}
                usual = all(self._ids.defaults.get(name) == value for name, value in in_host.items())
                before = "" if usual else f"/{host}"
            if matcher.call.body is None and self._match(matcher, values, parameters) is None:
                continue
            return f"{before}{path}?{query}" if query else before + path
        return None

    def _match(self, matcher: _CallMatcher, values: Values, query: Mapping[str, str]) -> ProxyMatch | None:
        try:
            if matcher.name in _CREATES:
                return self._match_create(matcher, values, query)
            if "alias" in values:
                return ProxyMatch(call=matcher.name, alias=check_url_part(values["alias"]))
            if matcher.name in _OF_FILES and not values.keys() <= self._ids.names:
                # What the call names is not the task, but a file of it.
                options = {name: check_url_part(value) for name, value in values.items()}
                return ProxyMatch(call=matcher.name, task_id=values.get("task_id"), options=options)
            task_id = self._task_id(matcher.call, values)
        except InvalidRequest:
            return None
        return ProxyMatch(call=matcher.name, task_id=task_id) if task_id is not None else None

    def _match_create(
        self, matcher: _CallMatcher, values: Values, query: Mapping[str, str]
    ) -> ProxyMatch | None:
        for name, value in values.items():
            pattern = self._submit.options.get(name)
            if pattern is not None and not pattern.fullmatch(value[:MAX_ADDRESS]):
                return None
        matcher.call.request(values)  # raises where a value is not allowed
        others = {name: value for name, value in query.items() if name not in matcher.query}
        return ProxyMatch(call=matcher.name, options={**others, **values})

    def _task_id(self, call: Call, values: Values) -> str | None:
        """The id whose parts these values are: the first candidate that has them as its parts."""
        values = {name: canonical_id(value) for name, value in values.items()}
        for task_id in self._candidates(values):
            try:
                parts = self._ids.values(task_id)
            except InvalidRequest:
                continue
            if all(parts.get(name) == value for name, value in values.items()):
                call.request(parts)
                return parts["task_id"]
        return None

    def _candidates(self, values: Values) -> Iterable[str]:
        if "task_id" in values:
            yield values["task_id"]
            return
        all_values, template = {**self._ids.defaults, **values}, self._submit.task_id.template
        if template is not None and template.names <= all_values.keys():
            yield template.fill(all_values)  # as a submit would name it, so that one task has one id
        order = self._ids.pattern.groupindex if self._ids.pattern is not None else values
        parts = [(name, values[name]) for name in order if name in values]
        yield "/".join(value for name, value in parts if self._ids.defaults.get(name) != value)
        yield "/".join(value for _, value in parts)


def _call_matcher(name: str, call: Call, base_url: str) -> _CallMatcher:
    host: _TemplateMatcher | None = None
    if call.base_url is not None:
        if call.base_url.names:
            host = _template_matcher(_host_parts(call.base_url.parts), "[^/]+")
        base_url = call.base_url.fill(dict.fromkeys(call.base_url.names, "x"))
    path, query = _split(call.path.parts)
    prefix = urlsplit(base_url).path.rstrip("/")
    return _CallMatcher(
        name,
        call,
        _template_matcher([(prefix, None), *path], "[^/]+"),
        {
            **{key: _template_matcher(value, ".+") for key, value in query.items()},
            **{key: _template_matcher(template.parts, ".+") for key, template in call.query},
        },
        host,
    )


Parts = Sequence[tuple[str, str | None]]


def _host_parts(parts: Parts) -> Parts:
    """The parts of a base URL between its scheme and its path."""
    host: list[tuple[str, str | None]] = []
    for number, (literal, place) in enumerate(parts):
        text = literal.partition("://")[2] if number == 0 and "://" in literal else literal
        before, slash, _ = text.partition("/") if place is None else (text, "", "")
        host.append((before, place))
        if slash:
            break
    return host


def _split(parts: Parts) -> tuple[Parts, Mapping[str, Parts]]:
    """The parts of a path, and those of each parameter of a query that is written after it."""
    path: list[tuple[str, str | None]] = []
    query: list[tuple[str, str | None]] = []
    current = path
    for literal, place in parts:
        before, mark, after = literal.partition("?") if current is path else (literal, "", "")
        current.append((before, place))
        if mark:
            current = query
            current.append((after, None))
    parameters: dict[str, list[tuple[str, str | None]]] = {}
    name = ""
    for literal, place in query:
        if place is not None:
            parameters.setdefault(name, []).append((literal, place))
            continue
        for number, piece in enumerate(literal.split("&")):
            if number or not name:
                name, _, piece = piece.partition("=")  # noqa: PLW2901 - the rest of it
            if name:
                parameters.setdefault(name, []).append((unquote(piece), None))
    return path, parameters


def _template_matcher(parts: Parts, segment: str) -> _TemplateMatcher:
    pattern, names = "", []
    for literal, place in parts:
        if place is None:
            pattern += re.escape(literal)
            continue
        name, _, kind = place.partition(":")
        names.append(name)
        pattern += "(.+)" if kind == "path" else f"({segment})"
    return _TemplateMatcher(re.compile(pattern, re.DOTALL), tuple(names))


def _decoded(text: str) -> str:
    return unquote(text, errors="strict")


def _without_conflict(pairs: Iterable[tuple[str, str]]) -> Values | None:
    """The values by name, None when one name has two different ones."""
    values: Values = {}
    for name, value in pairs:
        if values.setdefault(name, value) != value:
            return None
    return values


def _values_in_body(tree: object, document: object) -> list[tuple[str, str]] | None:
    """The values where the tree has places, None when the document does not have the tree's form."""
    if isinstance(tree, Template):
        text = identifier(document)
        values = _template_matcher(tree.parts, ".+").read(text, str) if text is not None else None
        return list(values.items()) if values is not None else None
    if not isinstance(tree, dict):
        return [] if tree == document else None
    table = document if isinstance(document, dict) else {}
    if {name for name, value in table.items() if value not in (None, "")} != tree.keys():
        return None  # a further key may ask for something else, such as another task
    pairs: list[tuple[str, str]] = []
    for name, below in tree.items():
        values_below = _values_in_body(below, table[name])
        if values_below is None:
            return None
        pairs += values_below
    return pairs
