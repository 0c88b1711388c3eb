"""Where things stand in a provider's document: JMESPath, with a quick way for plain dotted paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import jmespath
from jmespath.exceptions import JMESPathError

T = TypeVar("T")
Finder = Callable[[object], object]
Accept = Callable[[object], T | None]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")

# What an expression may trip over in a document nobody foresaw: wrong argument types, absurd nesting.
_TRIPS = (JMESPathError, RecursionError, TypeError, ValueError, ArithmeticError, AttributeError)


def compile_path(expression: str) -> Finder:
    """A function that finds the expression's value in a document, None when there is none.

    It is named after the expression, so that what was tried can be told.

    Raises:
        ValueError: It is not JMESPath.
    """
    find = _finder(expression)
    find.__name__ = expression
    return find


def _finder(expression: str) -> Finder:
    if expression == "@":
        return lambda document: document
    if _PLAIN.fullmatch(expression):
        keys = expression.split(".")
        return _one_key(keys[0]) if len(keys) == 1 else _keys(tuple(keys))
    return _searched(expression)


def is_plain(expression: str) -> bool:
    """Whether the expression is a dotted path and nothing more."""
    return _PLAIN.fullmatch(expression) is not None


def _one_key(key: str) -> Finder:
    def find(document: object) -> object:
        return document.get(key) if isinstance(document, dict) else None

    return find


def _keys(keys: tuple[str, ...]) -> Finder:
    def find(document: object) -> object:
        for key in keys:
            if not isinstance(document, dict):
                return None
            document = document.get(key)
        return document

    return find


def _searched(expression: str) -> Finder:
    try:
        search = jmespath.compile(expression).search
    except JMESPathError as error:
        raise ValueError(" ".join(str(error).split())) from error

    def find(document: object) -> object:
        try:
            found: object = search(document)
        except _TRIPS:
            return None
        return found

    return find


def holds(value: object) -> bool:
    """Whether a found value counts as true, by JMESPath's rule: 0 does, emptiness does not."""
    return value is not None and value is not False and value not in ("", [], {})


class Field(Generic[T]):
    """One thing we look for: the first path whose value is of the right type wins."""

    __slots__ = ("_accept", "_finders")

    def __init__(self, finders: Sequence[Finder], accept: Accept[T]) -> None:
        self._finders = tuple(finders)
        self._accept = accept

    def tries(self, document: object) -> list[tuple[str, object, T | None]]:
        """Every place up to the first hit: its expression, what stands there, and what is made of that."""
        tried: list[tuple[str, object, T | None]] = []
        for find in self._finders:
            value = find(document)
            tried.append((find.__name__, value, None if value is None else self._accept(value)))
            if tried[-1][2] is not None:
                break
        return tried

    def read(self, document: object) -> T | None:
        """The value, or None when no path has one of the right type."""
        for find in self._finders:
            value = find(document)
            if value is not None:
                accepted = self._accept(value)
                if accepted is not None:
                    return accepted
        return None
