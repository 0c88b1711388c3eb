"""Secrets that can be told from everything else, and the judge who finds them."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection
from urllib.parse import quote

import orjson


class Markers:
    """Named secrets. A new one is one call of `add`, wherever a test makes it."""

    def __init__(self) -> None:
        self.cores: dict[str, str] = {}
        self._shapes: dict[str, tuple[str, ...]] = {}

    def new(self, name: str) -> str:
        """A secret that fits into a header, a cookie, a query, a path and a configuration file."""
        return self.add(name, f"{name}-0mark{len(self._shapes):02}x7f3a9c1e5bd8024")

    def add(self, name: str, secret: str, core: str | None = None) -> str:
        """Watch for a secret.

        Args:
            core: What of it is secret, where the rest is not: the signature of a token.
        """
        found = re.search(r"0mark\d\dx\w{15}", secret)
        core = core or (found[0] if found else secret)  # a part of it is a leak as well
        shapes = {core, quote(core, safe=""), orjson.dumps(core)[1:-1].decode()}
        for shift in range(3):  # in base64 a text looks different at each place
            shapes.add(b64encode(b"x" * shift + core.encode()).decode()[4:-4])
        self.cores[name] = core
        self._shapes[name] = tuple(shapes)
        return secret

    def found(self, text: str | bytes, *, but: Collection[str] = ()) -> list[str]:
        """The names of the secrets in a text.

        Args:
            but: Those that may be there.
        """
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return [
            name
            for name, shapes in self._shapes.items()
            if name not in but and any(one in text for one in shapes)
        ]
