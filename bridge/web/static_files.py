"""Files of the bridge's own that browsers fetch: read once, served from memory.

Only files that were named exist, so there is no path that could lead anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from bridge.errors import UnknownRoute

FOLDER = files("bridge.web").joinpath("static")
MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "ts": "text/plain; charset=utf-8",
    "yaml": "application/yaml",
    "json": "application/schema+json",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
COMMON_HEADERS = {
    # asked again each time, which costs a 304: after an upgrade no page mixes old files with new ones
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class StaticFile:
    """One file of the package, with its headers.

    Args:
        name: Its path below `bridge/web/static`.
        headers: What is said of it beside what is said of all.
    """

    def __init__(self, name: str, headers: Mapping[str, str] | None = None) -> None:
        self.body = FOLDER.joinpath(name).read_bytes()
        self.etag = f'"{sha256(self.body).hexdigest()[:20]}"'
        self._headers = {
            **COMMON_HEADERS,
            **(headers or {}),
            "Content-Type": MEDIA_TYPES[name.rpartition(".")[2]],
            "ETag": self.etag,
        }

    async def serve(self, request: Request) -> Response:
        """Answer `GET` or `HEAD`; 304 to who has it already."""
        if _holds(request.headers.get("if-none-match", ""), self.etag):
            return Response(status_code=304, headers=self._headers)
        if request.method == "HEAD":
            return Response(headers=self._headers | {"Content-Length": str(len(self.body))})
        return Response(self.body, headers=self._headers)


class StaticFolder:
    """The files of one folder, each under its own name.

    Args:
        folder: Its path below `bridge/web/static`; folders in it are left out.
    """

    def __init__(self, folder: str, headers: Mapping[str, str] | None = None) -> None:
        self._files = {
            entry.name: StaticFile(f"{folder}/{entry.name}", headers)
            for entry in FOLDER.joinpath(folder).iterdir()
            if entry.is_file() and entry.name.rpartition(".")[2] in MEDIA_TYPES
        }

    async def serve(self, request: Request) -> Response:
        """Answer for the file that the path's `name` names.

        Raises:
            UnknownRoute: There is none of that name.
        """
        found = self._files.get(request.path_params["name"])
        if found is None:
            raise UnknownRoute("nothing lives at this path")
        return await found.serve(request)


def _holds(if_none_match: str, etag: str) -> bool:
    """Whether the client has these bytes; by weak comparison, for proxies that compress weaken the tag."""
    offered = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
    return etag in offered or "*" in offered


class BrowserHelper:
    """The module as it is shipped, and what TypeScript wants to know of it."""

    def __init__(self) -> None:
        self.module = StaticFile("bridge.js")
        self.types = StaticFile("bridge.d.ts")


class ApiDocuments:
    """One file each, as it stands in the package; the first two refer to the third by its name."""

    def __init__(self) -> None:
        self.openapi = StaticFile("api/openapi.yaml")
        self.asyncapi = StaticFile("api/asyncapi.yaml")
        self.state_schema = StaticFile("api/state.schema.json")
