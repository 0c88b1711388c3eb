"""The descriptions of the API, and the page on which to try requests (`/docs`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from bridge.config.settings import Settings
from bridge.web.static_files import ApiDocument, StaticFile, StaticFolder, respond

# Swagger UI evaluates no code, sets styles by script only, and has its icons in its style sheet. It makes
# markup from strings, so there are no Trusted Types here: they are the descriptions of our own document.
POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
FILE_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
# Where a server is in the document, in YAML and in JSON: the first one, and all of them.
_MAIN_SERVERS = ("\n  - url: /\n", '"servers":[{"url":"/","description":"The bridge that')
_ALL_SERVERS = ("- url: /\n", '"url":"/"')
_ASYNC_HOST = '    host: "{host}"\n'
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(?::\d+)?")


def document_routes(settings: Settings, *, apart: bool) -> list[Route]:
    """`/openapi.yaml` and its like, and `/docs`: they hold no data, and need no credential.

    Args:
        apart: Whether they are on the admin address, and the routes they describe on another.
    """
    address = partial(_main_address, settings) if apart else None
    # A prefix is that of all servers; on the admin address, the routes of operators are there.
    yaml_server, json_server = _MAIN_SERVERS if apart else _ALL_SERVERS
    yaml = ApiDocument("api/openapi.yaml", yaml_server, yaml_server.replace("/", "%s"), address=address)
    json = ApiDocument("api/openapi.json", json_server, json_server.replace("/", "%s"), address=address)
    # Its server is a variable that readers fill in; only a prefix is known here.
    messages = ApiDocument("api/asyncapi.yaml", _ASYNC_HOST, f"{_ASYNC_HOST}    pathname: %s\n")
    page = TryItPage(address)
    return [
        Route("/docs", page.serve),
        Route("/docs/", page.redirect),
        Route("/docs/{name}", StaticFolder("docs", FILE_HEADERS).serve),
        # they refer to each other by their names
        Route("/openapi.yaml", yaml.serve),
        Route("/openapi.json", json.serve),
        Route("/asyncapi.yaml", messages.serve),
        Route("/state.schema.json", StaticFile("api/state.schema.json").serve),
    ]


class TryItPage(StaticFile):
    """`/docs`.

    Args:
        address: Of the bridge, where this page is on another address; None where it is on the bridge's own.
    """

    def __init__(self, address: Callable[[Request], str] | None) -> None:
        super().__init__("docs/index.html", FILE_HEADERS)
        self._address = address

    async def redirect(self, request: Request) -> Response:  # noqa: ARG002 - a route
        """`/docs/`, as people type it: the page refers to its files relative to `/docs`."""
        return RedirectResponse("../docs", 308)  # relative, so that it stays below a proxy's prefix

    async def serve(self, request: Request) -> Response:
        """As `StaticFile.serve`; the page may send requests to the bridge alone, wherever that is."""
        address = urlsplit(self._address(request) if self._address is not None else "")
        other = f" {address.scheme}://{address.netloc}" if address.netloc else ""
        policy = "; ".join((*POLICY, f"connect-src 'self'{other}"))
        return respond(request, self.body, self.headers | {"Content-Security-Policy": policy})


def _main_address(settings: Settings, request: Request) -> str:
    """Where clients reach the bridge, as seen from the admin address; empty if unknown."""
    if settings.public_url:
        return settings.public_url.rstrip("/")
    host = _HOST.fullmatch(request.headers.get("host", ""))
    if host is None or not settings.port:
        return ""
    scheme = "https" if getattr(settings, "tls_certificate_file", None) is not None else "http"
    return f"{scheme}://{host[1]}:{settings.port}"
