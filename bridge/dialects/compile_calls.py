"""The calls of a dialect's document, compiled: where they go, what stands in them, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from bridge.dialects.calls import Call, IdShape
from bridge.dialects.document import Table
from bridge.dialects.hosts import Hosts, host_of, is_host_name
from bridge.dialects.templates import Body, Template

_CALLS = ("status", "alias", "stream", "submit", "sync", "cancel", "follow_up")
_METHODS = {name: name for name in ("GET", "POST", "PUT", "PATCH", "DELETE")}
_GROUP_NAME = re.compile(r"[a-z_][a-z0-9_]*")


def base_url(root: Table) -> str:
    """Where the provider lives."""
    url = root.text("base_url", required=True)
    if url and (host_of(url) is None or set("?#") & set(url)):
        root.mistake("base_url", "must be an http(s) URL without a query")
    return url.rstrip("/")


def hosts(root: Table) -> Hosts:
    """The provider's hosts: those that are stated, and those that stand in an address without places."""
    stated = root.texts("hosts")
    for name in stated:
        if not is_host_name(name):
            root.mistake("hosts", f"{name!r} is no host name (api.example.com, *.example.com)")
    names, calls = list(stated), root.table("calls")
    own = host_of(root.text("base_url"))
    for name in _CALLS:
        url = calls.table(name).text("base_url") if name in calls else ""
        host = host_of(url)  # none where it has places
        names += [host] if host else []
        if url and host is None and not stated:
            calls.table(name).mistake("base_url", "its host has places: say in `hosts` which ones may result")
    return Hosts([*names, own] if own else names)


def id_shape(table: Table) -> IdShape:
    """What a task id is made of."""
    pattern = regular_expression(table, "pattern")
    defaults = table.table("defaults")
    values = {key: defaults.text(key) for key in defaults.names()}
    defaults.only(pattern.groupindex if pattern else ())
    for name in pattern.groupindex if pattern else ():
        if name == "task_id":
            table.mistake("pattern", "'task_id' cannot name a part: it is the whole id")
    return IdShape(pattern=pattern, defaults=values)


def regular_expression(table: Table, key: str) -> re.Pattern[str] | None:
    """A regular expression whose groups can name values of a template."""
    text = table.text(key)
    try:
        pattern = re.compile(text) if text else None
    except (re.error, RecursionError, OverflowError) as error:
        table.mistake(key, f"is not a regular expression: {error}")
        return None
    for name in pattern.groupindex if pattern else ():
        if not _GROUP_NAME.fullmatch(name):
            table.mistake(key, f"{name!r} cannot name a part (lower-case letters, digits and _)")
    return pattern


@dataclass(frozen=True, slots=True)
class _Known:
    """The values a call has: anywhere, None for whatever the caller brings, and in its host."""

    anywhere: set[str] | None
    in_the_host: set[str]


def calls(root: Table, ids: IdShape, needs: Collection[str] | None) -> dict[str, Call]:
    """Every call.

    Args:
        needs: The values a follow-up call takes from the answer; None where there is no [follow_up].
    """
    table = root.table("calls")
    groups = set(ids.pattern.groupindex if ids.pattern else ())
    usual = _Known({"task_id", *groups}, groups)
    known = {
        "alias": _Known({"alias"}, set()),
        "submit": _Known(None, set()),
        "sync": _Known(None, set()),
        "follow_up": _Known({"task_id", *groups, *(needs or ())}, groups),
    }
    made = {name: _call(table.table(name), known.get(name, usual)) for name in _CALLS if name in table}
    if "status" not in table:
        table.mistake("status", "missing")
    if (needs is None) == ("follow_up" in table):
        table.mistake("follow_up", "the call and the [follow_up] table need each other")
    for name in ("submit", "sync"):
        if name in table and "body" in table.table(name):
            table.table(name).mistake("body", "the caller's body goes as it is")
    if "sync" in table and "submit" not in table:
        table.mistake("sync", "needs [calls.submit]: the bridge submits, and waits itself")
    table.names()
    table.only(_CALLS)
    return made


def _call(table: Table, known: _Known) -> Call:
    names = known.anywhere
    path = table.text("path", required=True)
    if path and not path.startswith("/"):
        table.mistake("path", "must begin with /")
    body, query = table.value("body"), table.table("query")
    return Call(
        method=table.choice("method", _METHODS, "GET"),
        path=template(table, "path", path, names),
        query=tuple((key, template(query, key, query.text(key), names)) for key in query.names()),
        headers=header_templates(table.table("headers"), names),
        body=_body(table, body, names) if body is not None else None,
        base_url=_own_base(table, known.in_the_host),
    )


def _own_base(table: Table, groups: set[str]) -> Template | None:
    """Only what a pattern has matched may choose a host: nothing a provider or a caller says may."""
    url = table.text("base_url")
    if not url:
        return None
    made = template(table, "base_url", url, groups)
    parts = urlsplit(made.fill(dict.fromkeys(made.names, "x")))
    if parts.scheme not in ("http", "https") or not parts.hostname or set("@?#") & set(url):
        table.mistake("base_url", "must be an http(s) URL without a query")
    return made


def header_templates(table: Table, names: set[str] | None) -> tuple[tuple[str, Template], ...]:
    """Headers whose values are templates; the values known in them are `names`, None for any."""
    return tuple((key, template(table, key, table.text(key), names)) for key in table.names())


def template(table: Table, key: str, text: str, names: set[str] | None) -> Template:
    """A template; the values known in it are `names`, None for any."""
    try:
        made = Template(text)
    except ValueError as error:
        table.mistake(key, str(error))
        return Template("")
    _known(table, key, made.names, names)
    return made


def _body(table: Table, tree: object, names: set[str] | None) -> Body | None:
    try:
        body = Body(tree)
    except ValueError as error:
        table.mistake("body", str(error))
        return None
    _known(table, "body", body.names, names)
    return body


def _known(table: Table, key: str, used: Iterable[str], names: set[str] | None) -> None:
    for name in sorted(set(used) - names) if names is not None else ():
        table.mistake(key, f"{{{name}}} is not known here ({', '.join(sorted(names or ())) or 'nothing is'})")
