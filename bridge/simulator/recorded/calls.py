"""Matches requests against the templates of a preset's calls and extracts the values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from bridge.simulator.tasks import Json

_PLACEHOLDER = re.compile(r"(\{\{|\}\}|\{[a-z_][a-z0-9_]*(?::path)?\})")
MatchScore = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRequest:
    """A received request: its path, relative to the preset's prefix, still percent-encoded."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMatch:
    """A matched call. Of several matches the one with the highest `score` is the most specific."""

    call: str
    values: Mapping[str, str]
    score: MatchScore


@dataclass(frozen=True, slots=True)
class TextPattern:
    """A text with `{name}` placeholders, compiled to extract their values."""

    pattern: re.Pattern[str]
    literal: int
    fixed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShape:
    """One call of a preset's `[calls]`."""

    name: str
    method: str
    path: TextPattern
    query: tuple[tuple[str, TextPattern], ...]
    body: Mapping[str, object]

    def match(self, incoming: ProviderRequest) -> CallMatch | None:
        """Return the values of a request if it is this call.

        A constant query parameter that is missing or different does not exclude the call (`?logs=1`).
        """
        path_match = self.path.pattern.fullmatch(incoming.path)
        if incoming.method != self.method or path_match is None:
            return None
        values = {name: unquote(value) for name, value in path_match.groupdict().items()}
        matched = missed = 0
        for name, text in self.query:
            part = text.pattern.fullmatch(incoming.query.get(name, ""))
            if part is None and not text.fixed:
                return None
            matched, missed = matched + (part is not None), missed + (part is None)
            values |= part.groupdict() if part else {}
        in_body = _read(self.body, incoming.body)
        if in_body is None:
            return None
        score = (self.path.literal, -missed, matched + len(in_body))
        return CallMatch(call=self.name, values=values | in_body, score=score)


def read_call(name: str, raw: Mapping[str, object]) -> CallShape:
    """Read a call from its table in a preset's `[calls]`; the bridge's own tests validate these tables."""
    path, _, query = str(raw.get("path", "")).partition("?")
    parameters = raw.get("query")
    pairs = parse_qsl(query, keep_blank_values=True)
    pairs += [(key, str(value)) for key, value in parameters.items()] if isinstance(parameters, dict) else []
    body = raw.get("body")
    return CallShape(
        name=name,
        method=str(raw.get("method", "GET")).upper(),
        path=_text(path, value="[^/]+"),
        query=tuple((key, _text(text, value=".+")) for key, text in pairs),
        body=body if isinstance(body, dict) else {},
    )


def _text(template: str, *, value: str) -> TextPattern:
    parts: list[str] = []
    names: set[str] = set()
    literal = 0
    for piece in _PLACEHOLDER.split(template):
        if piece in ("{{", "}}") or not piece.startswith("{"):
            plain = piece[:1] if piece in ("{{", "}}") else piece
            parts.append(re.escape(plain))
            literal += len(plain)
            continue
        name, _, kind = piece[1:-1].partition(":")
        parts.append(f"(?P={name})" if name in names else f"(?P<{name}>{'.+' if kind else value})")
        names.add(name)
    return TextPattern(re.compile("".join(parts), re.DOTALL), literal, not names)


def _read(template: object, body: object) -> dict[str, str] | None:
    """Return the values in a JSON body; None when it does not match the template."""
    if isinstance(template, str):
        found = _text(template, value=".+").pattern.fullmatch(str(body)) if body is not None else None
        return None if found is None else found.groupdict()
    if not isinstance(template, dict):
        return {}
    values: dict[str, str] = {}
    for key, below in template.items():
        read = _read(below, body.get(key) if isinstance(body, dict) else None)
        if read is None:
            return None
        values |= read
    return values
