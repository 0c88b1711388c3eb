"""What pages and programs in JavaScript follow tasks with: `/bridge.js`, and its types.

Both are made from `clients/js` by its `build.mjs` and stand in the package, so that nothing is built here.
Public, like the program: no credential is asked for. Pages of other origins may load the module where they
may open streams, since the list of allowed origins is the same.
"""

from __future__ import annotations

from bridge.web.static_files import StaticFile


class BrowserHelper:
    """The module as it is shipped, and what TypeScript wants to know of it."""

    def __init__(self) -> None:
        self.module = StaticFile("bridge.js")
        self.types = StaticFile("bridge.d.ts")
