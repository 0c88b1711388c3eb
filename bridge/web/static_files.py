"""Static files of the package: read at startup and served from memory.

Only named files are served, so no request path reaches the file system (path traversal).
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping
from functools import cached_property
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
API_TYPES = {"yaml": "application/yaml", "json": "application/json"}
COMMON_HEADERS = {
    # revalidated on every use, at the cost of a 304: after an upgrade no page mixes old files with new ones
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


_GZIP = re.compile(r"(?:^|[,\s])(?:x-)?gzip\s*(?:;\s*q\s*=\s*([0-9.]+)\s*)?(?:,|$)", re.IGNORECASE)


def _takes_gzip(request: Request) -> bool:
    found = _GZIP.search(request.headers.get("accept-encoding", ""))
    return found is not None and (found[1] is None or found[1].strip("0.") != "")


def has_tag(request: Request, etag: str) -> bool:
    """Whether the client has the representation with that tag already."""
    # weak comparison: proxies that compress the file weaken its tag
    tags = request.headers.get("if-none-match", "").split(",")
    return not {etag, "*"}.isdisjoint(tag.strip().removeprefix("W/") for tag in tags)


def respond(request: Request, body: bytes, headers: Mapping[str, str]) -> Response:
    """Respond to `GET` or `HEAD`; 304 if the client has that body already."""
    if "ETag" in headers and has_tag(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(len(body))})
    return Response(body, headers=headers)


class StaticFile:
    """One file of the package.

    Attributes:
        headers: All of its response.

    Args:
        name: Its path below `bridge/web/static`.
        headers: In addition to `COMMON_HEADERS`.
    """

    def __init__(self, name: str, headers: Mapping[str, str] | None = None) -> None:
        self.body = FOLDER.joinpath(name).read_bytes()
        self.etag = f'"{sha256(self.body).hexdigest()[:20]}"'
        self.headers = self._all_headers(name, headers)

    async def serve(self, request: Request) -> Response:
        """Respond to `GET` or `HEAD`; 304 if the client has the file already."""
        return respond(request, self.body, self.headers)

    def _all_headers(self, name: str, headers: Mapping[str, str] | None) -> dict[str, str]:
        media_type = MEDIA_TYPES[name.rpartition(".")[2]]
        return {**COMMON_HEADERS, **(headers or {}), "Content-Type": media_type, "ETag": self.etag}


class CompressedFile(StaticFile):
    """A large file of another project, compressed in the package; sent so to every client that accepts it.

    Args:
        name: Its path below `bridge/web/static`, without `.gz`.
    """

    def __init__(self, name: str, headers: Mapping[str, str] | None = None) -> None:
        self.body = FOLDER.joinpath(f"{name}.gz").read_bytes()
        self.etag = f'"{sha256(self.body).hexdigest()[:20]}"'
        self.headers = self._all_headers(name, headers) | {"Vary": "Accept-Encoding"}

    async def serve(self, request: Request) -> Response:
        """As `StaticFile.serve`."""
        if _takes_gzip(request):
            headers = self.headers | {"Content-Encoding": "gzip", "ETag": f'{self.etag[:-1]}-gzip"'}
            return respond(request, self.body, headers)
        return respond(request, self._plain, self.headers)

    @cached_property
    def _plain(self) -> bytes:
        return gzip.decompress(self.body)


class ApiDocument(StaticFile):
    """A description of the API, which names the bridge under the address by which its clients reach it.

    Args:
        text: The part in the file where the bridge has no prefix.
        replacement: The same with an address, or a prefix, as `%s`.
        address: Of the bridge, for a document on another address; None where it is on the bridge's own.
    """

    def __init__(
        self, name: str, text: str, replacement: str, *, address: Callable[[Request], str] | None = None
    ) -> None:
        super().__init__(name)
        self.headers |= {"Content-Type": API_TYPES[name.rpartition(".")[2]]}
        self._text, self._replacement = text.encode(), replacement
        self._address = address or params.root_path
        assert self._text in self.body

    async def serve(self, request: Request) -> Response:
        """As `StaticFile.serve`; without a tag where the address is put in: not all clients have the same."""
        address = self._address(request)
        if not address:
            return await super().serve(request)
        body = self.body.replace(self._text, (self._replacement % address).encode())
        headers = {name: text for name, text in self.headers.items() if name != "ETag"}
        return respond(request, body, headers)


class StaticFolder:
    """The files of one folder.

    Args:
        folder: Its path below `bridge/web/static`; subfolders are not served.
    """

    def __init__(self, folder: str, headers: Mapping[str, str] | None = None) -> None:
        self._files: dict[str, StaticFile] = {}
        for entry in FOLDER.joinpath(folder).iterdir():
            name = entry.name.removesuffix(".gz")
            if entry.is_file() and name.rpartition(".")[2] in MEDIA_TYPES:
                kind = StaticFile if name == entry.name else CompressedFile
                self._files[name] = kind(f"{folder}/{name}", headers)

    async def serve(self, request: Request) -> Response:
        """Respond with the file of that `name`.

        Raises:
            UnknownRoute: There is no such file.
        """
        file = self._files.get(request.path_params["name"])
        if file is None:
            raise UnknownRoute("no such route")
        return await file.serve(request)
