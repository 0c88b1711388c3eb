"""Where things stand in a TOML text: its own reader tells values, but not the lines they came from."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

Keys = tuple[str | int, ...]


class Lines:
    """The lines of every table and key of a text that is known to be TOML."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Keys, int] = {}
        self._listed: dict[Keys, int] = {}
        at: Keys = ()
        for line, statement, content in _statements(text):
            if statement.startswith("["):
                at = self._entered(line, content, listed=statement.startswith("[["))
            else:
                self._note(at, content, line)

    def of(self, keys: Keys) -> int | None:
        """The line of the table or key, else of the nearest thing around it; from 1."""
        around = (keys[:length] for length in range(len(keys), 0, -1))
        return next((self._lines[place] for place in around if place in self._lines), None)

    def _entered(self, line: int, header: object, *, listed: bool) -> Keys:
        names = list(_chain(header))
        at: Keys = ()
        for name in names[:-1]:
            at = self._newest((*at, name))
            self._lines.setdefault(at, line)
        at = (*at, names[-1])
        self._lines.setdefault(at, line)
        if listed:
            self._listed[at] = self._listed.get(at, 0) + 1
            at = self._newest(at)
        self._lines[at] = line
        return at

    def _newest(self, keys: Keys) -> Keys:
        """The table that a header means: of a list of tables, its last one."""
        return (*keys, self._listed[keys] - 1) if keys in self._listed else keys

    def _note(self, keys: Keys, value: object, line: int) -> None:
        if keys:
            self._lines.setdefault(keys, line)
        inner = (
            value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
        )
        for key, one in inner:
            self._note((*keys, key), one, line)


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, object]]]:
    """Each header or key with its line: the shortest run of lines that is TOML by itself."""
    pending, began = "", 1
    for line, piece in enumerate(text.splitlines(keepends=True), 1):
        began = began if pending else line
        pending += piece
        try:
            content = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        if content:
            yield began, pending.lstrip(), content
        pending = ""


def _chain(header: object) -> Iterator[str]:
    while isinstance(header, dict) and header:
        name, header = next(iter(header.items()))
        yield name
