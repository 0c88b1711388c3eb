"""Finds values in a provider's document: JMESPath, with a fast path for plain dotted paths."""

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

# What evaluating an expression may raise on unforeseen documents: wrong argument types, absurd nesting.
_EVALUATION_ERRORS = (JMESPathError, RecursionError, TypeError, ValueError, ArithmeticError, AttributeError)


def compile_path(expression: str) -> Finder:
    """A function that finds the expression's value in a document, None when it has none.

    Its `__name__` is the expression, on one line, for `dialect test`.

    Raises:
        ValueError: The expression is not JMESPath.
    """
    find = _finder(expression)
    find.__name__ = " ".join(expression.split())
    return find


def _finder(expression: str) -> Finder:
    if expression == "@":
        return lambda document: document
    if _PLAIN.fullmatch(expression):
        keys = expression.split(".")
        return _one_key(keys[0]) if len(keys) == 1 else _keys(tuple(keys))
    return _searched(expression)


def is_plain(expression: str) -> bool:
    """Whether the expression is only a dotted path."""
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
            value: object = search(document)
        except _EVALUATION_ERRORS:
            return None
        return value

    return find


def holds(value: object) -> bool:
    """Whether a value counts as true, by JMESPath's rule: 0 does, an empty value does not."""
    return value is not None and value is not False and value not in ("", [], {})


class Field(Generic[T]):
    """One value of a document: the first path that finds a value of the right type wins."""

    __slots__ = ("_accept", "_finders")

    def __init__(self, finders: Sequence[Finder], accept: Accept[T]) -> None:
        self._finders = tuple(finders)
        self._accept = accept

    def tries(self, document: object) -> list[tuple[str, object, T | None]]:
        """Every path up to the first match: its expression, the value found and how it is read."""
        tries: list[tuple[str, object, T | None]] = []
        for find in self._finders:
            value = find(document)
            tries.append((find.__name__, value, None if value is None else self._accept(value)))
            if tries[-1][2] is not None:
                break
        return tries

    def read(self, document: object) -> T | None:
        """The value, None when no path finds one of the right type."""
        for find in self._finders:
            value = find(document)
            if value is not None:
                accepted = self._accept(value)
                if accepted is not None:
                    return accepted
        return None
