"""The API documents: what the bridge answers, what it says on streams, and the shape of a state.

They are public, like the program: no credential is asked for. Where they are served says what stands here, so
they are beside `/status` and `/metrics`.
"""

from __future__ import annotations

from bridge.web.static_files import StaticFile


class Documents:
    """One file each, as it stands in the package; the first two refer to the third by its name."""

    def __init__(self) -> None:
        self.openapi = StaticFile("api/openapi.yaml")
        self.asyncapi = StaticFile("api/asyncapi.yaml")
        self.state_schema = StaticFile("api/state.schema.json")
