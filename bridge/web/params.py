"""What requests say, read strictly: every input from outside is hostile until parsed here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

import orjson
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect, HTTPConnection, Request

from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.errors import InvalidRequest, TooLarge
from bridge.watchers.pool import Pool
from bridge.wire.document import PLAIN, Include
from bridge.wire.frames import Transport, Variant

_NOTHING = QueryParams()
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?(?=$|[,;\s])")


class EncodedConvertor(Convertor[str]):
    """One path segment, decoded after routing: a task id may hold slashes as %2F."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        """Decode; bytes that are no UTF-8 become what no task id may hold."""
        return unquote(value, errors="surrogateescape")

    def to_string(self, value: str) -> str:
        """Unused: the bridge builds its links itself."""
        return value


register_url_convertor("encoded", EncodedConvertor())


def task_keys(pool: Pool, refs: Sequence[str], most: int, account: str) -> list[TaskKey]:
    """Task refs, each once, in the order they were named.

    Args:
        most: How many there may be; 0 for as many as one likes.
        account: Whose tasks they are.

    Raises:
        InvalidRequest: One is not a task ref, or there are none, or too many; or they are of two providers
            where the caller's key is of one.
        UnknownUpstream: One names an upstream that is not configured.
    """
    if not refs:
        raise InvalidRequest("name at least one task")
    if most and len(refs) > most:
        raise InvalidRequest(f"at most {most} tasks on one connection")
    keys = dict.fromkeys(TaskKey.parse(ref, account) for ref in refs)
    for key in keys:
        pool.upstream(key.upstream)
    if account != OWN_ACCOUNT and len({key.upstream for key in keys}) > 1:
        raise InvalidRequest("a key is of one provider: name tasks of one upstream")
    return list(keys)


def path_key(pool: Pool, request: HTTPConnection, account: str) -> TaskKey:
    """The task a path names.

    Args:
        account: Whose it is.

    Raises:
        UnknownUpstream: Its upstream is not configured.
        InvalidRequest: Its id is not well-formed.
    """
    pool.upstream(request.path_params["upstream"])
    ref = f"{request.path_params['upstream']}/{request.path_params['task_id']}"
    return TaskKey.parse(ref, account)


def query(connection: HTTPConnection) -> QueryParams:
    """The parameters; most connections have none."""
    return connection.query_params if connection.scope["query_string"] else _NOTHING


def mounted_at(connection: HTTPConnection) -> str:
    """The path under which another app, or a proxy the server knows of, serves the bridge; often nothing."""
    return str(connection.scope.get("root_path", "")).rstrip("/")


def resume_token(request: HTTPConnection, query: QueryParams) -> str | None:
    """What the client saw last: the header, else either spelling of the parameter."""
    token = request.headers.get("last-event-id")
    if not token and query:
        token = query.get("last_event_id") or query.get("lastEventId")
    return token or None


def include(query: QueryParams) -> Include:
    """What the caller asked for beside the plain document.

    Raises:
        InvalidRequest: Something we do not have.
    """
    if not query:
        return PLAIN
    wished = {word for value in query.getlist("include") for word in value.split(",") if word}
    if not wished <= {"raw", "data"}:
        raise InvalidRequest("`include` takes raw and data")
    return Include(raw="raw" in wished, data="data" in wished)


def flag(query: QueryParams, name: str) -> bool:
    """A parameter that is on or off.

    Raises:
        InvalidRequest: It is neither.
    """
    if not query:
        return False
    value = query.get(name, "0").lower()
    if value not in {"0", "1", "true", "false"}:
        raise InvalidRequest(f"`{name}` is 0 or 1")
    return value in {"1", "true"}


def transport(headers: Headers) -> Transport:
    """The stream format a client accepts; SSE unless it asks for NDJSON."""
    return Transport.NDJSON if "application/x-ndjson" in headers.get("accept", "") else Transport.SSE


def variant(query: QueryParams) -> Variant:
    """What the events of a stream shall look like: `format=openai`, else our own.

    Raises:
        InvalidRequest: A format we do not have.
    """
    wished = query.get("format") if query else None
    if wished not in (None, Variant.OPENAI.value):
        raise InvalidRequest("`format` takes openai")
    return Variant.BRIDGE if wished is None else Variant.OPENAI


def preferred_wait(headers: Headers) -> float | None:
    """`Prefer: wait=seconds` (RFC 7240); None when there is none that we can read."""
    found = _WAIT.search(",".join(headers.getlist("prefer")).lower())
    return float(found[1]) if found else None


def options(query: QueryParams, *, without: str) -> dict[str, str]:
    """The parameters that are meant for the provider, each given once.

    Args:
        without: The parameter that is meant for us.

    Raises:
        InvalidRequest: One is given twice.
    """
    given: dict[str, str] = {}
    for name, value in query.multi_items():
        if name in given:
            raise InvalidRequest(f"`{name[:80]}` is given twice")
        if name != without:
            given[name] = value
    return given


async def body(request: Request, limit: int) -> bytes:
    """The body, read no further than we would use it.

    Intentional: the framework's own limit answers in plain text.

    Raises:
        InvalidRequest: It is not whole.
        TooLarge: It is larger than `limit` bytes.
    """
    announced = request.headers.get("content-length", "")
    parts: list[bytes] = []
    size = int(announced) if announced.isdecimal() else 0
    if size <= limit:
        size = 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    break
                parts.append(part)
        except ClientDisconnect:
            raise InvalidRequest("the body ended before its end") from None
    if size > limit:
        raise TooLarge("the body is larger than this route reads")
    return b"".join(parts)


async def json_object(request: Request, limit: int) -> dict[str, object]:
    """A body that is one JSON object.

    Raises:
        InvalidRequest: It is not.
        TooLarge: It is larger than `limit` bytes.
    """
    try:
        read = orjson.loads(await body(request, limit))
    except orjson.JSONDecodeError:
        raise InvalidRequest("the body is one JSON object") from None
    if not isinstance(read, dict):
        raise InvalidRequest("the body is one JSON object")
    return read


def only_texts(values: object, name: str) -> list[str]:
    """A JSON list of strings.

    Raises:
        InvalidRequest: It is something else.
    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidRequest(f"`{name}` is a list of task refs")
    return values
