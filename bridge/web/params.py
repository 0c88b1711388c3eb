"""Request parameters, parsed strictly: all input is hostile until it has passed through here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote

import orjson
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import Headers, QueryParams
from starlette.requests import HTTPConnection

from bridge.core.details import check_group, check_tags
from bridge.core.selection import Selection, SelectionKind
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.errors import InvalidRequest
from bridge.watchers.pool import Pool
from bridge.wire.document import PLAIN, Include
from bridge.wire.formats import STREAMS, OpenAiFormat
from bridge.wire.frames import Format

ONE_SELECTION_SENTENCE = "follow tasks, one tag or one group: only one of `task`, `tag` and `group`"
NO_SELECTION_SENTENCE = "follow tasks, one tag or one group: one of `task`, `tag` and `group` is required"

_NO_PARAMS = QueryParams()
_UNWELCOME = (0.0, -1_000_000)
_MAX_KEPT_ACCEPT = 200
_WEIGHT = re.compile(r"q\s*=\s*([01](?:\.[0-9]{0,3})?)")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*(\"?)(\d+(?:\.\d*)?)\1(?=$|[,;\s])")
_ANY_WAIT = re.compile(r"(?:^|[,;\s])wait(?=$|[,;\s=])")
_MAX_WAIT = 1e6  # a number may have thousands of digits


class EncodedConvertor(Convertor[str]):
    """One path segment, decoded after routing: a task id may contain slashes, sent as %2F."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        """Decode; bytes that are not UTF-8 become surrogates, which no task id may contain."""
        return unquote(value, errors="surrogateescape")

    def to_string(self, value: str) -> str:
        """Required by Starlette for reversing URLs, which the bridge does not do."""
        return value


register_url_convertor("encoded", EncodedConvertor())


def task_keys(pool: Pool, refs: Sequence[str], limit: int, account: str) -> list[TaskKey]:
    """Task refs without duplicates, in the order of the request.

    Args:
        limit: The most refs allowed; 0 for no limit.
        account: The account of the caller.

    Raises:
        InvalidRequest: A ref is malformed, there are none or too many, or a caller with a key of one provider
            names tasks of two.
        UnknownUpstream: A ref names an upstream that is not configured.
    """
    if not refs:
        raise InvalidRequest("name at least one task, or a tag or a group")
    different = dict.fromkeys(refs)
    if limit and len(different) > limit:
        raise InvalidRequest(f"at most {limit} tasks per connection are allowed")
    keys = dict.fromkeys(TaskKey.parse(ref, account) for ref in different)
    for key in keys:
        pool.upstream(key.upstream)
    # rule 1 of accounts: a key must never be sent to a provider it was not meant for
    if account != OWN_ACCOUNT and len({key.upstream for key in keys}) > 1:
        raise InvalidRequest("with a key of one provider, all tasks must be of the same upstream")
    return list(keys)


def selection(tags: Sequence[str], groups: Sequence[str], account: str) -> Selection:
    """The one tag or group that a request names.

    Args:
        account: The account of the caller, whose names they are.

    Raises:
        InvalidRequest: It names several, or what cannot be one.
    """
    if len(tags) + len(groups) != 1:
        raise InvalidRequest(ONE_SELECTION_SENTENCE)
    if tags:
        return Selection(SelectionKind.TAG, check_tags(tags)[0], account)
    return Selection(SelectionKind.GROUP, check_group(groups[0]), account)


def path_key(pool: Pool, request: HTTPConnection, account: str) -> TaskKey:
    """The task of the route's path.

    Raises:
        UnknownUpstream: Its upstream is not configured.
        InvalidRequest: Its id is malformed.
    """
    pool.upstream(request.path_params["upstream"])
    ref = f"{request.path_params['upstream']}/{request.path_params['task_id']}"
    return TaskKey.parse(ref, account)


def query(connection: HTTPConnection) -> QueryParams:
    """The query parameters, parsed only if there are any: most connections have none."""
    return connection.query_params if connection.scope["query_string"] else _NO_PARAMS


def root_path(connection: HTTPConnection) -> str:
    """The path under which another app or a proxy mounts the bridge; often empty."""
    return str(connection.scope.get("root_path", "")).rstrip("/")


def resume_token(request: HTTPConnection, query: QueryParams) -> str | None:
    """The last event id: the header, else either spelling of the parameter."""
    token = request.headers.get("last-event-id")
    if not token and query:
        token = query.get("last_event_id") or query.get("lastEventId")
    return token or None


def include(query: QueryParams) -> Include:
    """The optional parts of the document, `include=raw,data`.

    Raises:
        InvalidRequest: An unknown part is named.
    """
    if not query:
        return PLAIN
    parts = {word for value in query.getlist("include") for word in value.split(",") if word}
    if not parts <= {"raw", "data"}:
        raise InvalidRequest("`include` must be raw, data or both")
    return Include(raw="raw" in parts, data="data" in parts)


def flag(query: QueryParams, name: str) -> bool:
    """A boolean parameter; false if missing.

    Raises:
        InvalidRequest: It is not a boolean.
    """
    if not query:
        return False
    value = query.get(name, "0").lower()
    if value not in {"0", "1", "true", "false"}:
        raise InvalidRequest(f"`{name}` must be 0 or 1")
    return value in {"1", "true"}


def stream_format(headers: Headers, query: QueryParams) -> type[Format]:
    """The format of a stream: `format=openai`, else what `Accept` prefers, else SSE.

    Raises:
        InvalidRequest: The format is unknown.
    """
    named = query.get("format") if query else None
    if named is not None:
        if named != "openai":
            raise InvalidRequest("`format` must be openai")
        return OpenAiFormat
    accept = ",".join(headers.getlist("accept"))
    return _preferred(accept) if len(accept) <= _MAX_KEPT_ACCEPT else _preferred.__wrapped__(accept)


@lru_cache(64)  # nearly all clients send one of a few
def _preferred(accept: str) -> type[Format]:
    ranges = _accepted(accept)
    return max(STREAMS, key=lambda kind: _weight(kind.content_type.partition(";")[0], ranges))


def _accepted(accept: str) -> list[tuple[str, float]]:
    """The media ranges of `Accept` with their weights (RFC 9110 section 12.5.1), in lower case."""
    ranges = []
    # A quoted parameter may hold a comma or a weight; no two of our types differ in one.
    accept = _QUOTED.sub("", accept)
    for part in accept.lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        weights = [_WEIGHT.fullmatch(parameter) for parameter in parameters if parameter.startswith("q")]
        weight = next((float(match[1]) for match in weights if match is not None), 1.0)
        if name:
            ranges.append((name, weight))
    return ranges


def _weight(content_type: str, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """How welcome a type is: its weight by the most specific range, then how early that is named."""
    for pattern in (content_type, content_type.partition("/")[0] + "/*", "*/*"):
        for place, (name, weight) in enumerate(ranges):
            if name == pattern:
                return (weight, -place) if weight else _UNWELCOME
    return _UNWELCOME


def preferred_wait(headers: Headers) -> float | None:
    """The seconds of `Prefer: wait` (RFC 7240); 0 if malformed; None if missing."""
    preferences = ",".join(headers.getlist("prefer")).lower()
    match = _WAIT.search(preferences)
    if match is None:
        # A loop that sends it would spin as a plain request; as a wait it is held to one answer a second.
        return 0.0 if _ANY_WAIT.search(preferences) else None
    return min(float(match[2]), _MAX_WAIT)


def known_states(headers: Headers, query: QueryParams) -> str | None:
    """The entity tags of the states the client has; None for none.

    From `If-None-Match`, and from `after` in the URL for clients behind a proxy that strips the header.
    """
    tags = [*headers.getlist("if-none-match"), *(query.getlist("after") if query else ())]
    return ", ".join(tags) or None


def options(query: QueryParams, *, without: str) -> dict[str, str]:
    """The parameters that are passed to the provider.

    Args:
        without: The parameter that is the bridge's own.

    Raises:
        InvalidRequest: A parameter is repeated.
    """
    values: dict[str, str] = {}
    for name, value in query.multi_items():
        if name in values:
            raise InvalidRequest(f"the parameter `{name[:80]}` is repeated")
        if name != without:
            values[name] = value
    return values


def json_object(body: bytes) -> dict[str, object]:
    """A body that is one JSON object.

    Raises:
        InvalidRequest: It is anything else.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise InvalidRequest("the request body must be a JSON object")
    return document


def only_texts(values: object, name: str) -> list[str]:
    """A JSON list of strings.

    Raises:
        InvalidRequest: It is anything else.
    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidRequest(f"`{name}` must be a list of task refs")
    return values
