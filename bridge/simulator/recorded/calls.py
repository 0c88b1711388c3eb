"""Recognises a preset's calls by their templates, and takes the values out of them again."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from bridge.simulator.tasks import Json

_PLACE = re.compile(r"(\{\{|\}\}|\{[a-z_][a-z0-9_]*(?::path)?\})")
Score = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A call as it came in: its path below the preset's name and still percent-encoded."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A call that was recognised. The best `score` of several is the call that says most about itself."""

    call: str
    values: Mapping[str, str]
    score: Score


@dataclass(frozen=True, slots=True)
class Text:
    """A text with `{name}` places, read backwards."""

    pattern: re.Pattern[str]
    literal: int
    fixed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShape:
    """One call of a preset's `[calls]`."""

    name: str
    method: str
    path: Text
    query: tuple[tuple[str, Text], ...]
    body: Mapping[str, object]

    def match(self, incoming: Incoming) -> Match | None:
        """The call's values, where this is the call.

        A fixed query parameter that is missing or other does not exclude the call: `?logs=1` is only a wish.
        """
        found = self.path.pattern.fullmatch(incoming.path)
        if incoming.method != self.method or found is None:
            return None
        values = {name: unquote(value) for name, value in found.groupdict().items()}
        kept = missed = 0
        for name, text in self.query:
            part = text.pattern.fullmatch(incoming.query.get(name, ""))
            if part is None and not text.fixed:
                return None
            kept, missed = kept + (part is not None), missed + (part is None)
            values |= part.groupdict() if part else {}
        in_body = _read(self.body, incoming.body)
        if in_body is None:
            return None
        score = (self.path.literal, -missed, kept + len(in_body))
        return Match(call=self.name, values=values | in_body, score=score)


def read_call(name: str, raw: Mapping[str, object]) -> CallShape:
    """A call from its table in a preset's `[calls]`, which the bridge's own tests hold to be correct."""
    path, _, query = str(raw.get("path", "")).partition("?")
    further = raw.get("query")
    pairs = parse_qsl(query, keep_blank_values=True)
    pairs += [(key, str(value)) for key, value in further.items()] if isinstance(further, dict) else []
    body = raw.get("body")
    return CallShape(
        name=name,
        method=str(raw.get("method", "GET")).upper(),
        path=_text(path, one="[^/]+"),
        query=tuple((key, _text(value, one=".+")) for key, value in pairs),
        body=body if isinstance(body, dict) else {},
    )


def _text(template: str, *, one: str) -> Text:
    parts: list[str] = []
    seen: set[str] = set()
    literal = 0
    for piece in _PLACE.split(template):
        if piece in ("{{", "}}") or not piece.startswith("{"):
            plain = piece[:1] if piece in ("{{", "}}") else piece
            parts.append(re.escape(plain))
            literal += len(plain)
            continue
        name, _, kind = piece[1:-1].partition(":")
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{'.+' if kind else one})")
        seen.add(name)
    return Text(re.compile("".join(parts), re.DOTALL), literal, not seen)


def _read(template: object, body: object) -> dict[str, str] | None:
    """The values in a JSON body; None when it is not of the template's form."""
    if isinstance(template, str):
        found = _text(template, one=".+").pattern.fullmatch(str(body)) if body is not None else None
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
