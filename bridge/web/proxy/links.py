"""Answers to a client of the provider's own API: links to that API lead to the bridge."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from bridge.config.settings import Settings
from bridge.core.task import Output, State
from bridge.dialects.base import HttpResponse
from bridge.dialects.links import LinkRewriter
from bridge.dialects.proxied import ProxyRules
from bridge.dialects.values import object_from
from bridge.errors import BridgeError
from bridge.sources.poll import JSON
from bridge.sources.upstream import Upstream
from bridge.web import params
from bridge.web.proxy.responses import error_response, passthrough, provider_response

_HOST = re.compile(r"[A-Za-z0-9._~-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")


@dataclass(frozen=True, slots=True)
class Answers:
    """Makes the provider's documents into answers to one client: with links that lead to the bridge.

    What the journal keeps is never changed.

    Args:
        details: Whether the client needs what the bridge's polls leave out by default.
    """

    _links: LinkRewriter
    _rules: ProxyRules
    details: bool = False

    @classmethod
    def to(
        cls, request: Request, upstream: Upstream, settings: Settings, *, details: bool = False
    ) -> Answers:
        """For the client of a request."""
        base, called_back_at = settings.public_url or base_url(request), settings.called_back_at
        links = upstream.dialect.link_rewriter(
            upstream.session.base_url,
            prefix=f"{base}/proxy/{upstream.name}",
            secret_prefix=f"{called_back_at}/v1/callbacks/" if called_back_at else "",
        )
        return cls(links, upstream.dialect.proxy, details)

    def document(self, state: State) -> bytes | None:
        """The provider's document of a recorded state; None where it was not recorded."""
        return None if state.raw is None else self.status(state.raw, outputs=state.outputs)

    def status(self, body: bytes, content_type: str = JSON, outputs: tuple[Output, ...] = ()) -> bytes:
        """The document of a status call, with what its client relies on to be in it."""
        body = self.rewritten(body, content_type, outputs)
        document = object_from(body) if self.details else None
        missing = {
            key: value
            for key, value in self._rules.without_details.items()
            if (document or {}).get(key) is None
        }
        if not document or not missing:
            return body
        return json.dumps(document | missing, ensure_ascii=False, separators=(",", ":")).encode()

    def error(self, error: BridgeError, *, repeatable: bool = True, wait: float | None = None) -> Response:
        """An error, with the keys under which this provider's clients read it."""
        return error_response(error, repeatable=repeatable, wait=wait, rules=self._rules)

    def result(self, state: State) -> Response | None:
        """The document of the result call; None where it was not recorded."""
        if state.result is None:
            return None
        body = self.rewritten(state.result, outputs=state.outputs)
        status = state.result_status or 200
        return provider_response(status, JSON, body, {"x-should-retry": "false"} if status >= 400 else None)

    def passthrough(
        self, response: HttpResponse, error: BridgeError | None = None, outputs: tuple[Output, ...] = ()
    ) -> Response:
        """The provider's response to a submit or a cancel.

        Args:
            error: The error the response was classified as, if any.
        """
        content_type = response.headers.get("content-type", JSON)
        body = self.rewritten(response.body, content_type, outputs)
        changed = HttpResponse(response.status, response.headers, body, response.url)
        return passthrough(changed, error)

    def rewritten(self, body: bytes, content_type: str = JSON, outputs: tuple[Output, ...] = ()) -> bytes:
        """A body with its links rewritten.

        Args:
            outputs: The results of the task, whose links stay.
        """
        files = {output.url for output in outputs if output.url is not None}
        return self._links.rewrite(body, content_type, files)


def base_url(request: Request) -> str:
    """The address by which the client reached the bridge; only its path if `Host` is not a host name."""
    root = params.root_path(request)
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        return root
    # A proxy in front may end TLS. A forged header makes the client's own links wrong, not those of others.
    forwarded = request.headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
    scheme = "https" if forwarded == "https" else request.url.scheme
    return f"{scheme}://{host}{root}"
