"""Templates: text with `{name}` places, filled so that a value can never become syntax."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from bridge.core.task import CLIMBS_SENTENCE, climbs
from bridge.errors import InvalidRequest

_PART = re.compile(r"(\{\{|\}\}|\{[a-z_][a-z0-9_]*(?::path)?\}|[{}])")
_UNSAFE_IN_HEADER = re.compile(r"[^\x20-\x7e\x80-\xff]")

Encode = Callable[[str], str]


class Template:
    """Text with `{name}` places; `{name:path}` keeps slashes, `{{` and `}}` are braces.

    Attributes:
        text: As it was written.
        names: The values it needs.
    """

    __slots__ = ("_parts", "names", "text")

    def __init__(self, text: str) -> None:
        """Compile the text.

        Raises:
            ValueError: A brace has no partner.
        """
        self.text = text
        self._parts: list[tuple[str, str | None]] = []
        for piece in _PART.split(text):
            if piece in ("{", "}"):
                raise ValueError(f"a lone {piece} in {text!r} (for a literal brace, write it twice)")
            if piece in ("{{", "}}"):
                self._parts.append((piece[0], None))
            elif piece.startswith("{"):
                self._parts.append(("", piece[1:-1]))
            elif piece:
                self._parts.append((piece, None))
        self.names = frozenset(name.partition(":")[0] for _, name in self._parts if name)

    @property
    def parts(self) -> Sequence[tuple[str, str | None]]:
        """Its parts in order: a literal and None, or an empty literal and what is between the braces."""
        return self._parts

    def fill(self, values: Mapping[str, str], encode: Encode = str) -> str:
        """The text with each placeholder filled with its encoded value."""
        return "".join(
            literal if name is None else _filled(name, values, encode) for literal, name in self._parts
        )


def _filled(placeholder: str, values: Mapping[str, str], encode: Encode) -> str:
    name, _, kind = placeholder.partition(":")
    value = values[name]
    return "/".join(encode(segment) for segment in value.split("/")) if kind == "path" else encode(value)


def percent(value: str) -> str:
    """The value as one segment of a path or one value of a query."""
    return quote(value, safe="")


def path_of(template: Template, values: Mapping[str, str]) -> str:
    """The path, percent-encoded.

    Raises:
        InvalidRequest: With these values the path would name another resource.
    """
    text = template.fill(values, percent)
    check_values(template, values)
    path, shape = text.partition("?")[0], template.text.partition("?")[0]
    # The path as a whole too: `{a}{b}` could be put together from two dots. An empty segment names what is
    # above it on servers that merge slashes.
    merged = "//" in path and "//" not in shape
    if climbs(path) or merged or (path.endswith("/") and not shape.endswith("/")):
        raise InvalidRequest("this id cannot be part of a path")
    return text


def check_values(template: Template, values: Mapping[str, str]) -> None:
    """Check the values that a template puts into a URL, its path or its query.

    Raises:
        InvalidRequest: One of them would name another resource, if it were taken as a path.
    """
    if any(climbs(values[name]) for name in template.names):
        raise InvalidRequest(CLIMBS_SENTENCE)


def header_of(template: Template, values: Mapping[str, str]) -> str:
    """The header's value.

    Raises:
        InvalidRequest: A value has characters that a header must not contain.
    """
    return header_text(template.fill(values))


def header_text(value: str) -> str:
    """The value itself, if a header may contain it.

    Raises:
        InvalidRequest: It has characters that a header must not contain.
    """
    if _UNSAFE_IN_HEADER.search(value):
        raise InvalidRequest("this value cannot be sent in a header")
    return value


class Body:
    """A JSON body whose strings are templates."""

    __slots__ = ("_tree", "names")

    def __init__(self, tree: object) -> None:
        """Compile every string in the tree.

        Raises:
            ValueError: A brace has no partner, or a value cannot be written as JSON.
        """
        self._tree = _compiled(tree)
        self.names = frozenset(name for template in _templates(self._tree) for name in template.names)

    @property
    def tree(self) -> object:
        """The body with a `Template` for every string."""
        return self._tree

    def texts(self, name: str) -> list[str]:
        """The strings in which a value is inserted."""
        return [template.text for template in _templates(self._tree) if name in template.names]

    def fill(self, values: Mapping[str, str]) -> object:
        """The body, ready to be encoded as JSON."""
        return _fill(self._tree, values)


def _compiled(tree: object) -> object:
    if isinstance(tree, str):
        return Template(tree)
    if isinstance(tree, dict):
        return {key: _compiled(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_compiled(value) for value in tree]
    if isinstance(tree, bool | int | float):
        return tree
    raise ValueError(f"{tree!r} cannot be written as JSON")


def _templates(tree: object) -> list[Template]:
    if isinstance(tree, Template):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [found for value in tree for found in _templates(value)] if isinstance(tree, list) else []


def _fill(tree: object, values: Mapping[str, str]) -> object:
    if isinstance(tree, Template):
        return tree.fill(values)
    if isinstance(tree, dict):
        return {key: _fill(value, values) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_fill(value, values) for value in tree]
    return tree
