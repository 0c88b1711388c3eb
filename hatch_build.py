"""The build's part in the project's public address, which is only in `[project.urls]` of pyproject.toml.

Links between files are relative, so that they work in a clone and in a source distribution. A page shown
elsewhere, as the README on a package index is, needs absolute ones: they are derived here. While there is no
address, they stay relative. `python docs/addresses.py` writes the same address into the files that repeat it.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).resolve().parent
ADDRESS = "Repository"  # the key in [project.urls]
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_MARKDOWN = re.compile(r"(!?)(\[(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*\])\(([^)\s]+)\)")
_DEFINITION = re.compile(r"^(\[[^\]]+\]:\s+)(\S+)", re.MULTILINE)
_HTML = re.compile(r"(\b(?:src|srcset|href)=\")([^\"]+)(\")")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#", re.IGNORECASE)
_PICTURE = re.compile(r"\.(?:png|svg|jpe?g|gif|webp)$")


class ReadmeHook(MetadataHookInterface):
    """Makes the links of the README absolute in what a package index shows."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the one dynamic field."""
        root = Path(self.root)
        text = absolute((root / "README.md").read_text("utf-8"), address(root), version(root))
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def address(root: Path = ROOT) -> str:
    """The public address of the repository, without a slash at its end; empty if there is none yet."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project.get("urls", {}).get(ADDRESS, "")).rstrip("/")


def version(root: Path = ROOT) -> str:
    """The version whose files the links name."""
    (found,) = re.findall(
        r'^__version__ = "([^"]+)"', (root / "bridge/__init__.py").read_text("utf-8"), re.MULTILINE
    )
    return str(found)


def file_address(path: str, address: str, version: str) -> str:
    """Where a code host shows a file of the release; a picture itself, not the page about it."""
    kind = "raw" if _PICTURE.search(path.partition("#")[0]) else "blob"
    return f"{address}/{kind}/v{version}/{path}"


def absolute(text: str, address: str, version: str, *, page: str = "README.md") -> str:
    """A Markdown page with absolute links instead of relative ones; unchanged if there is no address.

    Args:
        page: Path of the page in the repository, which its links start from.
    """
    if not address:
        return text

    def moved(target: str) -> str:
        if _ELSEWHERE.match(target):
            return target
        path, sharp, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
        return file_address(place, address, version) + sharp + anchor

    def inline(match: re.Match[str]) -> str:
        # a link around a picture has two targets
        words = _MARKDOWN.sub(inline, match[2][1:-1])
        return f"{match[1]}[{words}]({moved(match[3])})"

    parts = _FENCE.split(text)
    for number in range(0, len(parts), 2):  # the others are code
        part = _MARKDOWN.sub(inline, parts[number])
        part = _DEFINITION.sub(lambda match: match[1] + moved(match[2]), part)
        parts[number] = _HTML.sub(lambda match: match[1] + moved(match[2]) + match[3], part)
    return "".join(parts)
