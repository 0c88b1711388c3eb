"""Where a shared engine is: the URL in the setting `engine`, taken apart.

No error of this module repeats the URL: it may hold a password.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

EMBEDDED = "embedded"
SERVER_PORT = 6379
SENTINEL_PORT = 26379
FORMS = (
    "must be embedded, redis://HOST:PORT, rediss://HOST:PORT (TLS), redis+sentinel://HOST,HOST,HOST/NAME,"
    " rediss+sentinel://HOST,HOST,HOST/NAME (TLS) or unix:///PATH"
)

_SCHEMES = ("redis", "rediss", "redis+sentinel", "rediss+sentinel", "unix")
_MAX_DATABASE = 65_535


class EngineAddress(NamedTuple):
    """A Valkey or Redis server, or the Sentinels that know it.

    Args:
        hosts: Host and port of the server, or of each Sentinel; empty with `path`.
        path: Of the Unix socket; empty without.
        service: The name under which the Sentinels know the server; empty without Sentinels.
        user: Empty for the server's default user.
        shown: The URL without its password.
    """

    hosts: tuple[tuple[str, int], ...]
    path: str
    service: str
    tls: bool
    user: str
    database: int
    shown: str


def without_password(url: str) -> tuple[str, str | None]:
    """The URL without its password, and the password, decoded."""
    parts = _split(url)
    info, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = info.partition(":")
    if not colon:
        return url, None
    bare = parts._replace(netloc=f"{user}{at if user else ''}{hosts}")
    return bare.geturl(), unquote(password) or None


def parse_address(url: str) -> EngineAddress:
    """Take the URL apart; a password in it is left out.

    Raises:
        ValueError: It is not the URL of an engine; says why.
    """
    parts = _split(url)
    scheme, slashes = parts.scheme, url.partition(":")[2].startswith("//")
    if scheme not in _SCHEMES or not slashes:
        raise ValueError(FORMS)
    info, _, netloc = parts.netloc.rpartition("@")
    user = unquote(info.partition(":")[0])
    if parts.fragment or "@" in parts.path or "@" in parts.query:
        raise ValueError("percent-encode `/`, `?`, `#` and `%` in its password, or set engine_password")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if set(options) - {"db"}:
        raise ValueError("the only option after `?` is db, the number of the database")
    shown = without_password(url)[0]
    number = parts.path.lstrip("/")
    hosts: list[tuple[str, int]] = []
    path = service = ""
    if scheme == "unix":
        if netloc or len(parts.path) < 2:
            raise ValueError("the path of a Unix socket is absolute: unix:///run/valkey/valkey.sock")
        path, number = unquote(parts.path), ""
    elif scheme.endswith("+sentinel"):
        hosts = [_host(text, SENTINEL_PORT) for text in netloc.split(",")]
        service, _, number = number.partition("/")
        if not service:
            raise ValueError("name what the Sentinels monitor: redis+sentinel://HOST,HOST,HOST/NAME")
    else:
        hosts = [_host(netloc, SERVER_PORT)]
    if number and "db" in options:
        raise ValueError("the database is given twice: after `/` and as db")
    tls, shown = scheme.startswith("rediss"), without_password(url)[0]
    database = _database(number or options.get("db", ""))
    return EngineAddress(tuple(hosts), path, unquote(service), tls, user, database, shown)


def _split(url: str) -> SplitResult:
    """As `urlsplit`, which takes a list of hosts with an IPv6 address for an error in some versions."""
    scheme, _, rest = url.partition("://")
    end = min((at for mark in "/?#" if (at := rest.find(mark)) >= 0), default=len(rest))
    return urlsplit(f"x://{rest[end:]}")._replace(scheme=scheme.lower(), netloc=rest[:end])


def _host(text: str, port: int) -> tuple[str, int]:
    if "," in text:
        raise ValueError("one host: several are Sentinels, redis+sentinel://HOST,HOST,HOST/NAME")
    try:
        parts = urlsplit(f"//{text}")
        host, number = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{FORMS}; a port is a number up to 65535") from None
    if not host or number == 0 or any(character.isspace() for character in host):
        raise ValueError(FORMS)
    return host, number or port


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and int(text) <= _MAX_DATABASE):
        raise ValueError("after the host comes at most the number of a database, such as /0")
    return int(text)
