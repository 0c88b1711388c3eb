"""Reading the documentation: pages, the snippets in them, their links and anchors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
}
README = PAGES["README.md"]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Snippet:
    """One fenced block."""

    page: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}-{self.language}-{self.number}"


def snippets(*languages: str, page: str | None = None) -> list[Snippet]:
    """Every fenced block in one of these languages."""
    return [
        Snippet(name, number, language, text)
        for name, content in PAGES.items()
        if page in {None, name}
        for number, (language, text) in enumerate(_FENCE.findall(content), start=1)
        if language in languages
    ]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> Iterator[str]:
    """Where a page points, other sites left out."""
    return (target for target in _LINK.findall(prose(text)) if not target.startswith(("http:", "https:")))


def anchors(text: str) -> set[str]:
    """The anchors of a page, as code hosts derive them from headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(text)):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
        found.add(words.replace(" ", "-"))
    return found


def coded(text: str) -> set[str]:
    """Everything a page sets in code font outside of blocks."""
    return set(re.findall(r"`([^`\n]+)`", prose(text)))
