"""Line numbers of the tables and keys of a TOML text, which `tomllib` does not return."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

Keys = tuple[str | int, ...]


class Lines:
    """The lines of all tables and keys of a text that is known to be TOML."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Keys, int] = {}
        self._listed: dict[Keys, int] = {}
        table: Keys = ()
        for line, statement, content in _statements(text):
            if statement.startswith("["):
                table = self._enter(line, content, listed=statement.startswith("[["))
            else:
                self._note(table, content, line)

    def of(self, keys: Keys) -> int | None:
        """The line of the table or key, else of the nearest table around it; from 1."""
        parents = (keys[:length] for length in range(len(keys), 0, -1))
        return next((self._lines[parent] for parent in parents if parent in self._lines), None)

    def _enter(self, line: int, header: object, *, listed: bool) -> Keys:
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
        """The table that a header refers to: of a list of tables, the last one."""
        return (*keys, self._listed[keys] - 1) if keys in self._listed else keys

    def _note(self, keys: Keys, value: object, line: int) -> None:
        if keys:
            self._lines.setdefault(keys, line)
        items = (
            value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
        )
        for key, item in items:
            self._note((*keys, key), item, line)


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, object]]]:
    """Each header or key with its line: the fewest lines that are valid TOML on their own."""
    pending, start = "", 1
    for line, piece in enumerate(text.splitlines(keepends=True), 1):
        start = start if pending else line
        pending += piece
        try:
            content = tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        if content:
            yield start, pending.lstrip(), content
        pending = ""


def _chain(header: object) -> Iterator[str]:
    while isinstance(header, dict) and header:
        name, header = next(iter(header.items()))
        yield name
