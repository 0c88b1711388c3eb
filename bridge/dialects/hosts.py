"""Allow-list of a provider's hosts: no other host is called, and no other receives the credential."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9])?|[0-9a-f:.]+")


class Hosts:
    """A list of host names; `*.example.com` means every host below it, but not example.com itself."""

    __slots__ = ("_below", "_names")

    def __init__(self, names: Iterable[str]) -> None:
        names = [name.lower() for name in names]
        self._names = frozenset(name for name in names if not name.startswith("*."))
        self._below = tuple(name[1:] for name in names if name.startswith("*."))

    def __repr__(self) -> str:
        return f"<hosts {', '.join(sorted(self._names) + [f'*{name}' for name in self._below])}>"

    @property
    def wildcards(self) -> bool:
        """Whether there are hosts that are not listed themselves."""
        return bool(self._below)

    def own(self, url: str) -> bool:
        """Whether the URL is at one of these hosts."""
        host = host_of(url)
        return host is not None and self.has(host)

    def lists(self, name: str) -> bool:
        """Whether the name, in lower case, is listed itself, not only below a wildcard."""
        return name in self._names

    def has(self, name: str) -> bool:
        """Whether the name, in lower case, is one of them."""
        return name in self._names or name.endswith(self._below)


def split_url(url: str) -> SplitResult | None:
    """The parts of a URL; None where it cannot be read."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError where it is not a number
    except ValueError:
        return None
    return parts


def host_of(url: str) -> str | None:
    """The host of an http(s) URL, lower-case; None for anything else, and for a URL with a password."""
    parts = split_url(url)
    if parts is None:
        return None
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or not _NAME.fullmatch(host):
        return None
    return host


def is_host_name(text: str) -> bool:
    """Whether the text can be an item of a list of hosts."""
    return _NAME.fullmatch(text.lower().removeprefix("*.")) is not None
