"""Texts with `{names}` in them, filled so that a value can never become syntax."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from bridge.errors import InvalidRequest

_PART = re.compile(r"(\{\{|\}\}|\{[a-z_][a-z0-9_]*(?::path)?\}|[{}])")
_DOTS = re.compile(r"(?:^|/)\.{1,2}(?:$|[/?#])")
_UNSAFE_IN_HEADER = re.compile(r"[^\x20-\x7e\x80-\xff]")

Encode = Callable[[str], str]


class Template:
    """A text with `{name}` places; `{name:path}` keeps slashes, `{{` and `}}` are braces."""

    __slots__ = ("_parts", "names", "text")

    def __init__(self, text: str) -> None:
        """Split the text once.

        Raises:
            ValueError: A brace stands alone.
        """
        self.text = text
        self._parts: list[tuple[str, str | None]] = []
        for piece in _PART.split(text):
            if piece in ("{", "}"):
                raise ValueError(f"a lone {piece} in {text!r} (write it twice if you mean it)")
            if piece in ("{{", "}}"):
                self._parts.append((piece[0], None))
            elif piece.startswith("{"):
                self._parts.append(("", piece[1:-1]))
            elif piece:
                self._parts.append((piece, None))
        self.names = frozenset(place.partition(":")[0] for _, place in self._parts if place)

    @property
    def parts(self) -> Sequence[tuple[str, str | None]]:
        """Its pieces in order: a literal, or nothing and what stands between the braces."""
        return self._parts

    def fill(self, values: Mapping[str, str], encode: Encode = str) -> str:
        """The text with each place filled by its encoded value."""
        return "".join(
            literal if place is None else _filled(place, values, encode) for literal, place in self._parts
        )


def _filled(place: str, values: Mapping[str, str], encode: Encode) -> str:
    name, _, kind = place.partition(":")
    value = values[name]
    return "/".join(encode(segment) for segment in value.split("/")) if kind == "path" else encode(value)


def percent(value: str) -> str:
    """The value as one segment of a path or one value of a query."""
    return quote(value, safe="")


def path_of(template: Template, values: Mapping[str, str]) -> str:
    """The path, percent-encoded.

    Raises:
        InvalidRequest: A value would make the path climb (`..`), and so name another resource.
    """
    path = template.fill(values, percent)
    if climbs(path.partition("?")[0]):
        raise InvalidRequest("this id cannot stand in a path")
    return path


def climbs(path: str) -> bool:
    """Whether a segment of the path is one or two dots, which would name another resource."""
    return _DOTS.search(path) is not None


def header_of(template: Template, values: Mapping[str, str]) -> str:
    """The header value.

    Raises:
        InvalidRequest: A value has characters no header may carry.
    """
    return header_text(template.fill(values))


def header_text(value: str) -> str:
    """The value itself, if a header may carry it.

    Raises:
        InvalidRequest: It has characters no header may carry.
    """
    if _UNSAFE_IN_HEADER.search(value):
        raise InvalidRequest("this value cannot stand in a header")
    return value


class Body:
    """A JSON body whose strings are templates."""

    __slots__ = ("_tree", "names")

    def __init__(self, tree: object) -> None:
        """Compile every string in the tree.

        Raises:
            ValueError: A brace stands alone, or a value has no JSON form.
        """
        self._tree = _compiled(tree)
        self.names = frozenset(_names(self._tree))

    @property
    def tree(self) -> object:
        """The body with a `Template` in the place of every string."""
        return self._tree

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
    raise ValueError(f"{tree!r} has no place in a JSON body")


def _names(tree: object) -> list[str]:
    if isinstance(tree, Template):
        return list(tree.names)
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [name for value in tree for name in _names(value)] if isinstance(tree, list) else []


def _fill(tree: object, values: Mapping[str, str]) -> object:
    if isinstance(tree, Template):
        return tree.fill(values)
    if isinstance(tree, dict):
        return {key: _fill(value, values) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_fill(value, values) for value in tree]
    return tree
