"""Connecting: where the server is now, TLS, the password, and whether it is one that the bridge can use."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
)

from bridge.engine.address import EngineAddress
from bridge.engine.redis.wire import abort, explain
from bridge.errors import EngineUnavailable
from bridge.net import unverified

log = logging.getLogger(__name__)

LOWEST = {"valkey": (7, 2), "redis": (6, 2)}
CONNECT_FACTOR = 5
"""A connection takes this many answers to open: TCP, TLS, password, database, facts."""

_RESPONSE_LIMIT = 1 << 16


class EngineUnfit(EngineUnavailable):
    """The engine cannot be used as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach the engine.

    Args:
        password: Of the server; None for none.
        sentinel_password: Of the Sentinels.
        tls: Context for `rediss://`.
        timeout: Seconds one answer may take.
    """

    address: EngineAddress
    password: str | None = None
    sentinel_password: str | None = None
    tls: ssl.SSLContext | None = None
    timeout: float = 1.0


class Facts(NamedTuple):
    """What a server says about itself (INFO).

    Args:
        history: Name of its data's history; empty if it does not say.
    """

    product: str = ""
    version: tuple[int, ...] = ()
    role: str = "master"
    history: str = ""
    eviction: str = ""


async def find_server(access: Access) -> tuple[str, int]:
    """Host and port of the server; with Sentinels, of the master that they name now.

    Raises:
        EngineUnavailable: No Sentinel knows it.
    """
    address = access.address
    if not address.service:
        return address.hosts[0] if address.hosts else ("", 0)
    reasons = []
    for host, port in address.hosts:
        where = f"the Sentinel at {join(host, port)}"
        try:
            async with asyncio.timeout(access.timeout * CONNECT_FACTOR):
                found = await _ask_sentinel(access, host, port)
        except (RedisError, OSError, EngineUnavailable) as error:
            reasons.append(str(error) if isinstance(error, EngineUnavailable) else explain(error, where))
            continue
        if found is not None:
            return found
        reasons.append(f"{where} does not know {address.service}")
    raise EngineUnavailable(f"no Sentinel names the engine: {'; '.join(reasons)}")


async def _ask_sentinel(access: Access, host: str, port: int) -> tuple[str, int] | None:
    connection = _connection(access, host, port, password=access.sentinel_password, user="", database=0)
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command(
            "SENTINEL", "GET-MASTER-ADDR-BY-NAME", access.address.service, check_health=False
        )
        answer = await connection.read_response(disable_decoding=True)
    finally:
        abort(connection)
    if not isinstance(answer, list) or len(answer) != 2:
        return None
    return bytes(answer[0]).decode(), int(answer[1])


async def open_connection(access: Access, host: str, port: int) -> AbstractConnection:
    """Open one connection, with the password given and the database chosen.

    Raises:
        EngineUnfit: It cannot be used so: a wrong password, a certificate that is not trusted.
        EngineUnavailable: It cannot be reached.
    """
    where = server_name(access, host, port)
    address = access.address
    connection = _connection(
        access, host, port, password=access.password, user=address.user, database=address.database
    )
    try:
        async with asyncio.timeout(access.timeout * CONNECT_FACTOR):
            await connection.connect()  # type: ignore[no-untyped-call]
            # A server without a password answers this too: what is no Valkey or Redis does not.
            await connection.send_command("PING", check_health=False)
            await connection.read_response(disable_decoding=True)
    except BaseException as error:
        abort(connection)
        if isinstance(error, TimeoutError):
            raise EngineUnavailable(f"{where} did not answer in time") from None
        if isinstance(error, RedisError | OSError | ValueError):
            raise _connect_error(error, access, where) from None
        raise
    return connection


def _connect_error(error: Exception, access: Access, where: str) -> EngineUnavailable:  # noqa: PLR0911 - one each
    text = str(error)
    causes = (error, error.__cause__, error.__context__)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return EngineUnfit(f"{unverified(where, cause)}; engine_ca_file names the certificates to trust")
        if isinstance(cause, ssl.SSLError):
            reason = (cause.reason or "").replace("_", " ").lower()
            return EngineUnfit(f"TLS with {where} failed ({reason}); redis:// is without TLS")
    if isinstance(error, AuthenticationError) or "NOAUTH" in text or "WRONGPASS" in text:
        given = access.password is not None
        return EngineUnfit(
            f"{where} {'rejects the password' if given else 'asks for a password: set engine_password'}"
            + (f" of the user {access.address.user}" if given and access.address.user else "")
        )
    if isinstance(error, NoPermissionError):
        return EngineUnfit(f"{where} does not permit the user PING")
    if "DB index" in text or "Invalid Database" in text or "SELECT is not allowed" in text:
        return EngineUnfit(f"{where} has no database {access.address.database}")
    if isinstance(error, InvalidResponse) or "Protocol error" in text:
        return EngineUnfit(f"{where} is not Valkey or Redis, or speaks TLS, which needs rediss://")
    return EngineUnavailable(explain(error, where))


async def read_facts(connection: AbstractConnection, where: str) -> Facts:
    """Ask a server about itself.

    Raises:
        EngineUnavailable: It does not answer. If it does not permit the question, there are no facts.
    """
    text = ""
    for section in ("server", "replication", "memory"):
        try:
            await connection.send_command("INFO", section, check_health=False)
            answer = await connection.read_response(disable_decoding=True)
        except NoPermissionError:
            return Facts()
        except (RedisError, OSError) as error:
            raise EngineUnavailable(explain(error, where)) from None
        text += answer.decode("utf-8", "replace")[:_RESPONSE_LIMIT] if isinstance(answer, bytes) else ""
    fields = dict(re.findall(r"^([a-z_0-9]+):([^\r\n]*)", text, re.MULTILINE))
    product = "valkey" if fields.get("server_name") == "valkey" or "valkey_version" in fields else "redis"
    version = fields.get("valkey_version") or fields.get("redis_version", "")
    return Facts(
        product=product,
        version=tuple(int(part) for part in re.findall(r"\d+", version)[:3]),
        role=fields.get("role", "master"),
        history=fields.get("master_replid", ""),
        eviction=fields.get("maxmemory_policy", ""),
    )


def check_facts(facts: Facts, where: str) -> None:
    """Refuse a server that the bridge cannot use.

    Raises:
        EngineUnfit: It says so.
    """
    if facts.product and facts.version[:2] < LOWEST[facts.product]:
        name = facts.product.capitalize()
        found = ".".join(map(str, facts.version))
        lowest = ".".join(map(str, LOWEST[facts.product]))
        raise EngineUnfit(f"{where} is {name} {found}; {name} {lowest} or newer is needed")
    if facts.role != "master":
        raise EngineUnfit(f"{where} is a replica, not the master")
    if facts.eviction not in ("", "noeviction"):
        raise EngineUnfit(
            f"{where} may delete tasks when its memory is full (maxmemory-policy {facts.eviction}):"
            " `CONFIG SET maxmemory-policy noeviction`, and the same in its configuration file"
        )


def join(host: str, port: int) -> str:
    """Host and port as one text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def server_name(access: Access, host: str, port: int) -> str:
    """How errors name the server."""
    return f"the engine at {access.address.path or join(host, port)}"


def _connection(
    access: Access, host: str, port: int, *, password: str | None, user: str, database: int
) -> AbstractConnection:
    """A connection that never repeats, checks or reconnects anything by itself."""
    options: dict[str, Any] = {
        "db": database,
        "password": password,
        "username": (user or None) if password is not None else None,
        "socket_timeout": None,
        "socket_connect_timeout": access.timeout,
        "retry": None,
        "retry_on_timeout": False,
        "retry_on_error": [],
        "health_check_interval": 0,
        "protocol": 2,
    }
    address = access.address
    connection: Any
    if address.path:
        connection = UnixDomainSocketConnection(path=address.path, **options)
    elif address.tls:
        connection = SSLConnection(
            host=host, port=port, socket_keepalive=True, ssl_check_hostname=True, **options
        )
        connection.ssl_context.context = access.tls
    else:
        connection = Connection(host=host, port=port, socket_keepalive=True, **options)
    # CLIENT SETINFO is one more command to permit, and older servers do not know it. How the library is told
    # so depends on its version.
    connection.driver_info = None
    connection.lib_name = connection.lib_version = None
    opened: AbstractConnection = connection
    return opened
