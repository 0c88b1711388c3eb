"""Connecting: where the server is now, TLS, the password, and whether it is one that the bridge can use."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
from dataclasses import dataclass, replace
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
from bridge.engine.redis.wire import abort, explain, pack
from bridge.errors import EngineUnavailable
from bridge.net import unverified

log = logging.getLogger(__name__)

MIN_VERSIONS = {"valkey": (7, 2), "redis": (6, 2)}
CONNECT_FACTOR = 5
"""A connection takes this many answers to open: TCP, TLS, password, database, facts."""


class EngineUnfit(EngineUnavailable):
    """The engine cannot be used as it is."""

    lasting = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAccess:
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


async def find_server(access: ServerAccess) -> tuple[str, int]:
    """Host and port of the server; with Sentinels, of the master that they name now.

    Raises:
        EngineUnavailable: No Sentinel knows it.
    """
    address = access.address
    if not address.service:
        return address.hosts[0] if address.hosts else ("", 0)
    # All at once: one that hangs must not delay a failover.
    asking = [asyncio.create_task(_ask_sentinel(access, host, port)) for host, port in address.hosts]
    reasons = []
    try:
        for answer in asyncio.as_completed(asking):
            try:
                return await answer
            except EngineUnavailable as error:
                reasons.append(str(error))
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    raise EngineUnavailable(f"no Sentinel names the engine: {'; '.join(sorted(reasons))}")


async def _ask_sentinel(access: ServerAccess, host: str, port: int) -> tuple[str, int]:
    where = f"the Sentinel at {join(host, port)}"
    # Its own password, and no user: what it rejects must not be reported as the engine's.
    access = replace(access, password=access.sentinel_password, address=access.address._replace(user=""))
    connection = _connection(access, host, port, password=access.password, user="", database=0)
    try:
        async with asyncio.timeout(access.timeout * CONNECT_FACTOR):
            await connection.connect()  # type: ignore[no-untyped-call]
            question = pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", access.address.service)
            await connection.send_packed_command(question, check_health=False)
            answer = await connection.read_response(disable_decoding=True)
        if answer is None:
            raise EngineUnavailable(f"{where} does not know {access.address.service}")
        master, master_port = answer
        return bytes(master).decode(), int(master_port)
    except (RedisError, OSError) as error:  # with TimeoutError
        raise _connect_error(error, access, where, setting="engine_sentinel_password") from None
    except (ValueError, TypeError) as error:
        raise EngineUnavailable(f"{where} answered what cannot be read ({type(error).__name__})") from None
    finally:
        abort(connection)


async def open_connection(access: ServerAccess, host: str, port: int) -> AbstractConnection:
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
            # Any server answers this; what is neither Valkey nor Redis does not.
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


def _connect_error(
    error: Exception, access: ServerAccess, where: str, *, setting: str = "engine_password"
) -> EngineUnavailable:
    text = str(error)
    causes = (error, error.__cause__, error.__context__)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return EngineUnfit(f"{unverified(where, cause)}; engine_ca_file names the certificates to trust")
        if isinstance(cause, ssl.SSLError):
            reason = (cause.reason or "").replace("_", " ").lower()
            return EngineUnfit(f"TLS with {where} failed ({reason}); redis:// is without TLS")
    if (refusal := _refusal(error, text, access, setting)) is not None:
        return EngineUnfit(f"{where} {refusal}")
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno:
            reason = os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
            return EngineUnavailable(f"{where} cannot be reached: {reason}")
    return EngineUnavailable(explain(error, where))


def _refusal(  # noqa: PLR0911 - one each
    error: Exception, text: str, access: ServerAccess, setting: str
) -> str | None:
    """Why the server does not take this client; None for anything else.

    Args:
        setting: The one that holds the password.
    """
    if isinstance(error, AuthenticationError) or "NOAUTH" in text or "WRONGPASS" in text:
        if access.password is None:
            return f"asks for a password: set {setting}"
        user = access.address.user
        return f"rejects the password of the user {user}" if user else "rejects the password"
    if isinstance(error, NoPermissionError):
        return f"does not permit the user a command: {text[:160]}"
    if text.startswith("DENIED"):
        return "accepts only local clients (protected-mode): give it a password"
    if "DB index" in text or "Invalid Database" in text or "SELECT is not allowed" in text:
        return f"has no database {access.address.database}"
    if isinstance(error, InvalidResponse) or "Protocol error" in text:
        return "is not Valkey or Redis, or speaks TLS, which needs rediss://"
    return None


async def read_facts(connection: AbstractConnection, where: str) -> Facts:
    """Ask a server about itself.

    Raises:
        EngineUnavailable: It does not answer. If it does not permit the question, there are no facts.
    """
    sections, text, permitted = ("server", "replication", "memory"), "", True
    try:
        questions = [pack("INFO", section) for section in sections]
        await connection.send_packed_command(questions, check_health=False)
        for _ in sections:
            try:
                answer = await connection.read_response(disable_decoding=True)
            except NoPermissionError:
                permitted = False
            else:
                text += answer.decode("utf-8", "replace") if isinstance(answer, bytes) else ""
    except (RedisError, OSError) as error:
        raise EngineUnavailable(explain(error, where)) from None
    if not permitted:
        return Facts()
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


def check_facts(facts: Facts, where: str, *, sentinels: bool) -> None:
    """Refuse a server that the bridge cannot use.

    Args:
        sentinels: Whether Sentinels named it.

    Raises:
        EngineUnfit: It cannot be used as it is.
        EngineUnavailable: It cannot be used yet.
    """
    if facts.version and facts.version[:2] < MIN_VERSIONS[facts.product]:
        name = facts.product.capitalize()
        found = ".".join(map(str, facts.version))
        lowest = ".".join(map(str, MIN_VERSIONS[facts.product]))
        raise EngineUnfit(f"{where} is {name} {found}; {name} {lowest} or newer is needed")
    if facts.role != "master":
        # With Sentinels it may be one for a moment.
        refusal = EngineUnavailable if sentinels else EngineUnfit
        raise refusal(f"{where} is a replica, not the master; only the master can be written")
    if facts.eviction not in ("", "noeviction"):
        raise EngineUnfit(
            f"{where} may delete tasks when its memory is full (maxmemory-policy {facts.eviction}):"
            " `CONFIG SET maxmemory-policy noeviction`, and the same in its configuration file"
        )


def join(host: str, port: int) -> str:
    """Host and port as one text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def server_name(access: ServerAccess, host: str, port: int) -> str:
    """How errors name the server."""
    return f"the engine at {access.address.path or join(host, port)}"


def _connection(
    access: ServerAccess, host: str, port: int, *, password: str | None, user: str, database: int
) -> AbstractConnection:
    """A connection that repeats, checks and reconnects nothing."""
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
    # CLIENT SETINFO is one more command to permit, and older servers do not know it. The
    # setting depends on the version of the library.
    connection.driver_info = None
    connection.lib_name = connection.lib_version = None
    opened: AbstractConnection = connection
    return opened
