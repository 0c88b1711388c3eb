"""Rewrites the links in a provider's document that lead to the provider's own API.

A client that polls through the bridge sends the bridge's token wherever such a link leads: it must lead to
the bridge. A link to the API that the bridge does not serve is left out; one to a file or a page stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

from bridge.dialects.hosts import Hosts, split_url
from bridge.dialects.lenient import read_json, write_json
from bridge.dialects.media import type_of_url

MAX_LINK = 8192

_SCHEMES = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_ABSOLUTE = re.compile(r"\s*(?:[a-z]{2,5}:)?//", re.IGNORECASE)
# Keys under which providers put links to their calls, and those within a table of links. Not `result_url` and
# `stream_url`, which are files at some.
_CALL_KEY = re.compile(r"(?:status|response|cancel|poll|polling|query)_?(?:ur[li]|link)", re.IGNORECASE)
_TABLE_KEY = re.compile(r"urls|_?links", re.IGNORECASE)
_CALL_NAMES = frozenset({"get", "cancel", "stream", "status", "poll", "self", "events", "logs"})
_ANY_LINK_KEY = re.compile(r".*(?:ur[li]|link|href|location)s?", re.IGNORECASE)
_MAY_HAVE_LINK = re.compile(rb'//|\\/|\\u002f|"/', re.IGNORECASE)

PathOfLink = Callable[[str, str, str], str | None]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a provider is called: host in lower case, port, path without a slash at its end."""

    host: str
    port: int | None
    path: str

    @classmethod
    def of(cls, base_url: str) -> Address:
        """The address of a base URL."""
        parts = urlsplit(base_url)
        return cls(_host(parts), _port(parts), parts.path.rstrip("/"))


class LinkRewriter:
    """Decides about each link of one upstream.

    Args:
        documented: The base URL in the dialect.
        called: The base URL that is called; the operator may have set another.
        hosts: The provider's hosts.
        path_of_link: The path under which the bridge serves the call that a link makes; None for none.
        prefix: URL of the bridge under which its paths of this upstream are.
        secret_prefix: URLs that begin with it are left out: the address of the bridge's own callbacks, which
            providers repeat in their documents. Empty for none.
    """

    def __init__(
        self,
        documented: str,
        called: str,
        hosts: Hosts,
        path_of_link: PathOfLink,
        *,
        prefix: str,
        secret_prefix: str = "",
    ) -> None:
        self._documented = Address.of(documented)
        self._called = Address.of(called)
        self._hosts = hosts
        self._path_of_link = path_of_link
        self._prefix = prefix
        self._secret_prefix = secret_prefix
        self._sites = {_site(address.host) for address in (self._documented, self._called)}

    def rewrite(self, body: bytes, content_type: str = "", files: Collection[str] = ()) -> bytes:
        """The document with its links rewritten; the same bytes where nothing has to change.

        Args:
            body: Any body; one that is not JSON has no links to follow.
            files: Links to results, which stay although they are at the provider's host.
        """
        if not _MAY_HAVE_LINK.search(body):
            return body
        document = _parse(body, content_type)
        if document is None or not self._walk(document, frozenset(files)):
            return body
        try:
            return _write(document)
        except ValueError:
            return body  # nested deeper than any usual parser reads

    def _walk(self, document: object, files: frozenset[str]) -> bool:
        """Rewrite in place; whether anything changed."""
        changed = False
        waiting: list[tuple[Any, str]] = [(document, "")]
        while waiting:  # a stack of its own: a document may be nested deeply
            node, above = waiting.pop()
            left_out = []
            for place, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
                key = place if isinstance(place, str) else above
                if isinstance(value, dict | list):
                    waiting.append((value, key))
                elif isinstance(value, str):
                    text = self._text(value, key, above, files)
                    if text is None:
                        left_out.append(place)
                    elif text != value:
                        node[place] = text
                    changed = changed or text != value
            for place in reversed(left_out):
                del node[place]
        return changed

    def _text(self, text: str, key: str, above: str, files: frozenset[str]) -> str | None:
        """What replaces a string; None to leave it out."""
        stripped = text.strip() if len(text) <= MAX_LINK else ""
        if text[:1] in ("{", "[") and "/" in text:
            return self._json(text, files)
        if stripped.startswith("/") and not stripped.startswith("//"):
            return self._relative(stripped, key, above) or text
        if not _ABSOLUTE.match(stripped):
            return text
        if self._secret_prefix and stripped.startswith(self._secret_prefix):
            return None
        link = split_url(stripped if "://" in stripped[:8] else f"https:{stripped}")
        return text if link is None else self._absolute(text, link, key, above, files)

    def _json(self, text: str, files: frozenset[str]) -> str:
        """JSON in a string, as some gateways pass a vendor's answer on."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return _write(document).decode() if self._walk(document, files) else text

    def _relative(self, text: str, key: str, above: str) -> str | None:
        if not _ANY_LINK_KEY.fullmatch(key) and not _names_call(key, above):
            return None
        path, _, query = text.partition("?")
        served = self._served(self._called.host, path, query.partition("#")[0])
        # As relative as it was: clients put their own host before it.
        return None if served is None else urlsplit(self._prefix).path + served

    def _absolute(
        self, text: str, link: SplitResult, key: str, above: str, files: frozenset[str]
    ) -> str | None:
        if link.scheme not in _SCHEMES:
            return text
        host = _host(link)
        names_call = _names_call(key, above)
        known = host in (self._documented.host, self._called.host) or self._hosts.has(host)
        near = host in self._sites or _site(host) in self._sites
        if not (known or near or names_call):
            return text
        if link.scheme.startswith("http"):
            served = self._served(host, link.path, link.query)
            if served is not None:
                return self._prefix + served
        if text.strip() in files or type_of_url(text) is not None:
            return text
        return None if (near and names_call) or (known and self._is_api(host, link)) else text

    def _is_api(self, host: str, link: SplitResult) -> bool:
        """Whether a link at one of the provider's hosts leads to its API, not to its file servers."""
        if host == self._called.host and host != self._documented.host:
            # Behind one address, other ports may be other servers.
            port = _port(link)
            usual = {80, 443}
            same = port == self._called.port or {port, self._called.port} <= usual
            return same or not _is_local(host)
        # Hosts below a wildcard may deliver files: `delivery-eu1.bfl.ai`.
        return self._hosts.lists(host) or host == self._called.host or host.startswith("api")

    def _served(self, host: str, path: str, query: str) -> str | None:
        paths = [path]
        if self._called.path and path.startswith(f"{self._called.path}/"):
            paths.insert(0, self._documented.path + path.removeprefix(self._called.path))
        served = (self._path_of_link(host, candidate, query) for candidate in paths)
        return next((path for path in served if path is not None), None)


def _names_call(key: str, above: str) -> bool:
    """Whether a key says that the link below it is one of the provider's calls."""
    if _TABLE_KEY.fullmatch(above):
        return key.lower() in _CALL_NAMES
    return _CALL_KEY.fullmatch(key) is not None


def _parse(body: bytes, content_type: str) -> dict[str, Any] | list[Any] | None:
    try:
        document = json.loads(body)  # not orjson: it would round whole numbers beyond 64 bits
    except (ValueError, RecursionError):
        text = read_json(body, content_type)
        document = None if text is None else text.document
    return document if isinstance(document, dict | list) else None


def _write(document: object) -> bytes:
    try:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(document, separators=(",", ":")).encode()  # a lone surrogate, escaped as it came
    except RecursionError:
        return write_json(document)


def _host(link: SplitResult) -> str:
    return (link.hostname or "").rstrip(".").lower()


def _port(link: SplitResult) -> int | None:
    return link.port or _SCHEMES.get(link.scheme)


def _site(host: str) -> str:
    """The host without its first label, where at least two remain; an address as it is."""
    labels = host.split(".")
    return host if _is_local(host) or len(labels) < 3 else ".".join(labels[1:])


def _is_local(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(".localhost")
    return True
