"""Static files of the package: read at startup and served from memory.

Only named files are served, so no request path reaches the file system (path traversal).
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from bridge.errors import UnknownRoute
from bridge.web import params

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
    # revalidated on every use, at the cost of a 304: after an upgrade no page mixes old files with new ones
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def has_tag(request: Request, etag: str) -> bool:
    """Whether the client has the representation with that tag already."""
    # weak comparison: proxies that compress the file weaken its tag
    tags = request.headers.get("if-none-match", "").split(",")
    return not {etag, "*"}.isdisjoint(tag.strip().removeprefix("W/") for tag in tags)


class StaticFile:
    """One file of the package, with its headers.

    Args:
        name: Its path below `bridge/web/static`.
        headers: In addition to `COMMON_HEADERS`.
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
        """Respond to `GET` or `HEAD`; 304 if the client has the file already."""
        if has_tag(request, self.etag):
            return Response(status_code=304, headers=self._headers)
        if request.method == "HEAD":
            return Response(headers=self._headers | {"Content-Length": str(len(self.body))})
        return Response(self.body, headers=self._headers)


class OpenApiDocument(StaticFile):
    """The OpenAPI document, whose server is the bridge under the prefix by which the client reached it."""

    async def serve(self, request: Request) -> Response:
        """As `StaticFile.serve`; without a tag where there is a prefix: not all clients have the same."""
        prefix = params.root_path(request)
        if not prefix:
            return await super().serve(request)
        body = self.body.replace(b"\n  - url: /\n", f"\n  - url: {prefix}\n".encode())
        return Response(body, headers={name: text for name, text in self._headers.items() if name != "ETag"})


class StaticFolder:
    """The files of one folder.

    Args:
        folder: Its path below `bridge/web/static`; subfolders are not served.
    """

    def __init__(self, folder: str, headers: Mapping[str, str] | None = None) -> None:
        self._files = {
            entry.name: StaticFile(f"{folder}/{entry.name}", headers)
            for entry in FOLDER.joinpath(folder).iterdir()
            if entry.is_file() and entry.name.rpartition(".")[2] in MEDIA_TYPES
        }

    async def serve(self, request: Request) -> Response:
        """Respond with the file of that `name`.

        Raises:
            UnknownRoute: There is no such file.
        """
        file = self._files.get(request.path_params["name"])
        if file is None:
            raise UnknownRoute("no such route")
        return await file.serve(request)
