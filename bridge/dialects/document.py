"""A dialect's document as it is read: every key asked for once, every mistake noted with its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from bridge.dialects.paths import Field, Finder, compile_path
from bridge.dialects.words import fold, spell

T = TypeVar("T")
Keys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """Something wrong with a document.

    Args:
        keys: Where: keys and positions in lists, from the outside in.
    """

    keys: Keys
    what: str

    def __str__(self) -> str:
        return f"{place_of(self.keys)}: {self.what}"


def place_of(keys: Keys) -> str:
    """The place as people write it: `outputs[0].url`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


class Table:
    """One table of the document. What is asked for is checked; what nobody asked for is a mistake."""

    def __init__(self, data: Mapping[str, object], mistakes: list[Mistake], where: Keys = ()) -> None:
        self._data = dict(data)
        self._where = where
        self._mistakes = mistakes
        self._asked: set[str] = set()
        self._below: dict[Keys, Table] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._data

    @property
    def keys(self) -> tuple[str, ...]:
        """What stands in the table; that alone asks for nothing."""
        return tuple(self._data)

    def mistake(self, key: str, what: str) -> None:
        """Note what is wrong with a key."""
        self._mistakes.append(Mistake((*self._where, key), what))

    def finish(self) -> None:
        """Note the keys nobody asked for, here and below."""
        for key in self._data:
            if key not in self._asked:
                known = ", ".join(sorted(self._asked))
                self.mistake(key, f"unknown key (known here: {known})")
        for table in self._below.values():
            table.finish()

    def value(self, key: str) -> object:
        """The bare value, for what has no fixed type."""
        self._asked.add(key)
        return self._data.get(key)

    def text(self, key: str, default: str = "", *, required: bool = False) -> str:
        """A text."""
        value = self.value(key)
        if value is None:
            if required:
                self.mistake(key, "missing")
            return default
        if not isinstance(value, str) or not value:
            self.mistake(key, "must be a text")
            return default
        return value

    def number(self, key: str, default: T) -> float | T:
        """A number that is not negative."""
        value = self.value(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            self.mistake(key, "must be a number from 0")
            return default
        return float(value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self.value(key)
        if value is not None and not isinstance(value, bool):
            self.mistake(key, "must be true or false")
        return value if isinstance(value, bool) else default

    def choice(self, key: str, allowed: Mapping[str, T], default: T) -> T:
        """One of a few words."""
        word = self.text(key)
        if word and word not in allowed:
            self.mistake(key, f"{word!r} is none of {', '.join(allowed)}")
        return allowed.get(word, default)

    def texts(self, key: str) -> tuple[str, ...]:
        """A text or a list of texts."""
        value = self.value(key)
        items = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) and item for item in items):
            self.mistake(key, "must be a text or a list of texts")
        return tuple(item for item in items if isinstance(item, str) and item)

    def spelled(self, key: str) -> tuple[str, ...]:
        """Texts, numbers or truth values, spelled out."""
        value = self.value(key)
        items = [] if value is None else value if isinstance(value, list) else [value]
        spelled = [spell(item) for item in items]
        if None in spelled:
            self.mistake(key, "must be a list of texts, whole numbers or truth values")
        return tuple(word for word in spelled if word)

    def paths(self, key: str) -> tuple[Finder, ...]:
        """JMESPath expressions."""
        finders = []
        for expression in self.texts(key):
            try:
                finders.append(compile_path(expression))
            except ValueError as error:
                self.mistake(key, f"{expression!r} is not JMESPath: {error}")
        return tuple(finders)

    def field(self, key: str, accept: Callable[[object], T | None]) -> Field[T]:
        """A place to look for a value of a certain type."""
        return Field(self.paths(key), accept)

    def table(self, key: str) -> Table:
        """The table below, empty when there is none."""
        value = self.value(key)
        if value is not None and not isinstance(value, dict) and (key,) not in self._below:
            self.mistake(key, "must be a table")
        return self._child(value if isinstance(value, dict) else {}, key)

    def tables(self, key: str) -> list[Table]:
        """The list of tables below."""
        value = self.value(key)
        items = value if isinstance(value, list) else []
        if (value is not None and not isinstance(value, list)) or not all(
            isinstance(item, dict) for item in items
        ):
            self.mistake(key, "must be a list of tables")
        return [self._child(item, key, number) for number, item in enumerate(items) if isinstance(item, dict)]

    def names(self) -> list[str]:
        """All keys, asked for thereby: for tables whose keys are free."""
        self._asked.update(self._data)
        return list(self._data)

    def grouped(self, allowed: Mapping[str, T]) -> dict[str, T]:
        """Words by what they mean, from a table of lists by meaning; no word may mean two things."""
        meanings: dict[str, T] = {}
        for key in self.names():
            if key not in allowed:
                self.mistake(key, f"is none of {', '.join(allowed)}")
                continue
            for word in self.spelled(key):
                if meanings.setdefault(fold(word), allowed[key]) != allowed[key]:
                    self.mistake(key, f"{word!r} already means something else")
        return meanings

    def numbered(self, allowed: Mapping[str, T]) -> dict[int, T]:
        """Meanings by HTTP status."""
        meanings = {}
        for key in self.names():
            word = self.text(key)
            if not key.isdecimal() or not 100 <= int(key) < 600:
                self.mistake(key, "is not an HTTP status")
            elif word not in allowed:
                self.mistake(key, f"{word!r} is none of {', '.join(allowed)}")
            else:
                meanings[int(key)] = allowed[word]
        return meanings

    def numbers(self) -> dict[str, float]:
        """Numbers under free keys."""
        found = ((key, self.number(key, None)) for key in self.names())
        return {key: value for key, value in found if value is not None}

    def only(self, allowed: Iterable[str]) -> None:
        """Note keys outside a fixed set, in a table whose keys were taken freely."""
        allowed = sorted(allowed)
        for key in self._data:
            if key not in allowed:
                self.mistake(key, f"unknown key (known here: {', '.join(allowed)})")

    def _child(self, data: Mapping[str, object], *keys: str | int) -> Table:
        return self._below.setdefault(keys, Table(data, self._mistakes, (*self._where, *keys)))
