"""Which call a request to one of the provider's own paths is: the inverse of the templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from bridge.core.task import check_task_id
from bridge.dialects.base import ProxyMatch
from bridge.dialects.calls import Call, IdShape
from bridge.dialects.submit import MAX_ADDRESS, SubmitRules
from bridge.dialects.templates import Template, climbs
from bridge.dialects.values import identifier, object_from
from bridge.errors import InvalidRequest

MAX_PATH = 2048  # beyond this no call of anybody's goes, and patterns are not let loose on it

# From the narrowest to the widest: a submit's path may be little more than a place.
_ORDER = ("sync", "cancel", "stream", "alias", "status", "submit")
_CREATES = frozenset({"submit", "sync"})

Values = dict[str, str]
Decode = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class _TemplateMatcher:
    """A template read backwards: the values that stand in its places."""

    pattern: re.Pattern[str]
    names: tuple[str, ...]

    def read(self, text: str, decode: Decode) -> Values | None:
        """The values, None when the text is none of this template's."""
        found = self.pattern.fullmatch(text)
        if found is None:
            return None
        try:
            pairs = [(name, decode(part)) for name, part in zip(self.names, found.groups(), strict=True)]
        except UnicodeDecodeError:
            return None
        return _agreed(pairs)


@dataclass(frozen=True, slots=True)
class _Shape:
    """One call read backwards."""

    name: str
    call: Call
    path: _TemplateMatcher
    query: Mapping[str, _TemplateMatcher]

    def values_in_path(self, path: str) -> Values | None:
        values = self.path.read(path, _decoded)
        return None if values is None or any(climbs(value) for value in values.values()) else values

    def values_in_rest(self, query: Mapping[str, str], body: bytes | None, known: Values) -> Values | None:
        """What query and body add to the values of the path, None when they are not this call's."""
        pairs = list(known.items())
        for name, places in self.query.items():
            found = places.read(query.get(name, ""), str)
            if found is None:
                return None
            pairs += found.items()
        if self.call.body is not None and (body or not self.call.body.names <= known.keys()):
            told = _in_body(self.call.body.tree, object_from(body or b""))
            if told is None:
                return None
            pairs += told
        return _agreed(pairs)


class Matcher:
    """Reads requests as the calls of one dialect.

    Args:
        base_url: The dialect's own: what follows its host is part of the documented paths.
        frames_are_documents: Whether the provider's stream is served; else nobody could imitate it.
    """

    def __init__(
        self,
        base_url: str,
        calls: Mapping[str, Call],
        ids: IdShape,
        submit: SubmitRules,
        *,
        frames_are_documents: bool,
    ) -> None:
        self._ids = ids
        self._submit = submit
        self._frames_are_documents = frames_are_documents
        self._base = base_url
        self._shapes = [_shape(name, calls[name], base_url) for name in _ORDER if name in calls]

    def documented(self, path: str) -> str:
        """The path of a call with what the provider's own address has before it."""
        return urlsplit(self._base).path.rstrip("/") + path

    def match(self, method: str, path: str, query: str, body: bytes | None) -> ProxyMatch | None:
        """The call this is, None when it is none of the provider's.

        Args:
            path: What follows the host, still encoded.
            query: What follows the question mark, still encoded.

        Raises:
            InvalidRequest: The path is a call's, but the query or the body is not.
        """
        if len(path) > MAX_PATH:
            return None
        given = dict(parse_qsl(query, keep_blank_values=True))
        near = False
        for shape in self._shapes:
            found = shape.values_in_path(path) if shape.call.method == method else None
            if found is None:
                continue
            values = shape.values_in_rest(given, body, found)
            if values is None:
                near = near or shape.name != "stream"
                continue
            asked = self._asked(shape, values, given)
            if asked is not None:
                return asked if asked.call != "stream" or self._frames_are_documents else None
        if near:
            raise InvalidRequest("the query or the body is not what this call takes")
        return None

    def _asked(self, shape: _Shape, values: Values, query: Mapping[str, str]) -> ProxyMatch | None:
        try:
            if shape.name in _CREATES:
                return self._creating(shape, values, query)
            if shape.name == "alias":
                return ProxyMatch(call=shape.name, alias=check_task_id(values["alias"]))
            task_id = self._task_id(shape.call, values)
        except InvalidRequest:
            return None
        return ProxyMatch(call=shape.name, task_id=task_id) if task_id is not None else None

    def _creating(self, shape: _Shape, values: Values, query: Mapping[str, str]) -> ProxyMatch | None:
        for name, value in values.items():
            pattern = self._submit.options.get(name)
            if pattern is not None and not pattern.fullmatch(value[:MAX_ADDRESS]):
                return None
        shape.call.request(values)
        further = {name: value for name, value in query.items() if name not in shape.query}
        return ProxyMatch(call=shape.name, options={**further, **values})

    def _task_id(self, call: Call, values: Values) -> str | None:
        """The id these values are the parts of: the first that comes apart into them again."""
        for task_id in self._candidates(values):
            try:
                parts = self._ids.values(task_id)
            except InvalidRequest:
                continue
            if all(parts.get(name) == value for name, value in values.items()):
                call.request(parts)
                return task_id
        return None

    def _candidates(self, values: Values) -> Iterable[str]:
        if "task_id" in values:
            yield values["task_id"]
            return
        all_values, template = {**self._ids.defaults, **values}, self._submit.task_id.template
        if template is not None and template.names <= all_values.keys():
            yield template.fill(all_values)  # as a submit names it: one task has one id
        order = self._ids.pattern.groupindex if self._ids.pattern is not None else values
        parts = [(name, values[name]) for name in order if name in values]
        yield "/".join(value for name, value in parts if self._ids.defaults.get(name) != value)
        yield "/".join(value for _, value in parts)


def _shape(name: str, call: Call, base_url: str) -> _Shape:
    if call.base_url is not None:
        base_url = call.base_url.fill(dict.fromkeys(call.base_url.names, "x"))
    path, query = _split(call.path.parts)
    prefix = urlsplit(base_url).path.rstrip("/")
    return _Shape(
        name,
        call,
        _places([(prefix, None), *path], "[^/]+"),
        {
            **{key: _places(value, ".+") for key, value in query.items()},
            **{key: _places(template.parts, ".+") for key, template in call.query},
        },
    )


Parts = Sequence[tuple[str, str | None]]


def _split(parts: Parts) -> tuple[Parts, Mapping[str, Parts]]:
    """The parts of a path, and those of each parameter where a query is written behind it."""
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


def _places(parts: Parts, segment: str) -> _TemplateMatcher:
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


def _agreed(pairs: Iterable[tuple[str, str]]) -> Values | None:
    """The values, None when one name has two."""
    values: Values = {}
    for name, value in pairs:
        if values.setdefault(name, value) != value:
            return None
    return values


def _in_body(tree: object, document: object) -> list[tuple[str, str]] | None:
    """The values that stand where the tree has places, None when the document is not of its form."""
    if isinstance(tree, Template):
        text = identifier(document)
        found = _places(tree.parts, ".+").read(text, str) if text is not None else None
        return list(found.items()) if found is not None else None
    if not isinstance(tree, dict):
        return [] if tree == document else None
    given = document if isinstance(document, dict) else {}
    if {name for name, value in given.items() if value not in (None, "")} != tree.keys():
        return None  # a key beside them may ask for something else, such as another task
    pairs: list[tuple[str, str]] = []
    for name, below in tree.items():
        told = _in_body(below, given[name])
        if told is None:
            return None
        pairs += told
    return pairs
