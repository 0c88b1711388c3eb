"""Replaces the recorded task's id, links and times with those of the simulated task."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote, urlsplit

import orjson

from bridge.simulator.files import ENDING_OF, known_ending

# A shorter id cannot be distinguished from other text: only whole strings and parts of links are replaced.
MIN_DISTINCT = 6
_LINK = re.compile(r"https?://[\w.:-]+(?:[/?#]\S*)?")
_KEPT_KEYS = re.compile(r"callback|webhook|notify", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Substitution:
    """The replacements for one recording.

    Args:
        own: the recorded task's words (ids, options of its submit call) and their replacements.
        base_url: the provider's base URL, as recorded.
        here: the provider's base URL in the simulator.
        files: prefix of result links; a number and an extension follow.
        is_call: whether a path below the base URL is one of the provider's calls.
        kinds: types of the recorded result links.
        retime: returns the value of a key with the task's times.
    """

    own: Mapping[str, str]
    base_url: str
    here: str
    files: str
    is_call: Callable[[str], bool]
    kinds: Mapping[str, str] = field(default_factory=dict)
    retime: Callable[[str, object], object] = lambda _, value: value

    def fill(self, body: object) -> object:
        """Return a copy of a recorded body with everything replaced."""
        return self._filled("", body, {})

    def words(self, text: str) -> str:
        """Return a text with only the recorded words replaced."""
        return self._replaced(text, self._any)

    def _filled(self, key: str, value: object, links: dict[str, str]) -> object:
        if isinstance(value, dict):
            return {name: self._filled(name, below, links) for name, below in value.items()}
        if isinstance(value, list):
            return [self._filled(key, below, links) for below in value]
        if isinstance(value, str):
            return self._text(key, value, links)
        if isinstance(value, int) and str(value) in self.own and self.own[str(value)].isdecimal():
            return int(self.own[str(value)])
        return self.retime(key, value)

    def _text(self, key: str, text: str, links: dict[str, str]) -> object:
        if text in self.own:
            return self.own[text]
        if _LINK.fullmatch(text):
            return text if _KEPT_KEYS.search(key) else self._link(text, links)
        if text[:1] in ("{", "[") and (inside := _json(text)) is not None:
            return orjson.dumps(self._filled(key, inside, links)).decode()
        changed = self._replaced(text, self._distinct)
        return changed if changed != text else self.retime(key, text)

    def _link(self, url: str, links: dict[str, str]) -> str:
        """Point a link to the task at the simulator's own call, and any other link at a file of the task."""
        parts, base = urlsplit(url), urlsplit(self.base_url)
        ending = known_ending(parts.path)
        path = parts.path.removeprefix(base.path) if parts.netloc == base.netloc else parts.path
        ours = parts.netloc == base.netloc and self.is_call(path)
        if self._any.search(url) and (ours or not ending):
            query = f"?{parts.query}" if parts.query else ""
            return f"{self.here}{self.words(path + query)}"
        if url not in links:
            kind = ending or ENDING_OF.get(self.kinds.get(url, ""), "bin")
            links[url] = f"{self.files}-{len(links) + 1}.{kind}"
        return links[url]

    def _replaced(self, text: str, pattern: re.Pattern[str]) -> str:
        return pattern.sub(lambda match: self.own[match[0]], text)

    @cached_property
    def _any(self) -> re.Pattern[str]:
        return _words(list(self.own))

    @cached_property
    def _distinct(self) -> re.Pattern[str]:
        return _words([word for word in self.own if len(word) >= MIN_DISTINCT])


def file_name(task_id: str) -> str:
    """Return the id as one path segment."""
    return quote(task_id.replace("/", "-"), safe="")


def _words(words: list[str]) -> re.Pattern[str]:
    """Match whole words only: an id inside a longer one is a different id."""
    longest_first = sorted(filter(None, words), key=len, reverse=True)
    if not longest_first:
        return re.compile(r"(?!)")
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, longest_first))})(?![A-Za-z0-9])")


def _json(text: str) -> object | None:
    try:
        inside = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return inside if isinstance(inside, dict | list) else None
