"""`[submit]` of a dialect's document, compiled."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bridge.dialects.calls import Call
from bridge.dialects.compile_calls import regular_expression, template
from bridge.dialects.document import Table
from bridge.dialects.paths import Field, is_plain
from bridge.dialects.submit import SubmitRules, SubmittedId, address
from bridge.dialects.values import identifier


def submit_rules(root: Table, call: Call | None, usual: Field[str]) -> SubmitRules:
    """What is known of submitting.

    Args:
        call: The submit call, if the document has one.
        usual: Where a task id stands unless `[submit.task_id]` says otherwise.
    """
    if call is None and "submit" in root:
        root.mistake("submit", "needs [calls.submit]")
    table = root.table("submit")
    needed = call.names if call is not None else frozenset[str]()
    options: dict[str, re.Pattern[str] | None] = {**dict.fromkeys(needed), **_options(table.table("options"))}
    if "callback_url" in table and "callback_query" in table:
        table.mistake("callback_query", "the address stands in the body or in the query, not in both")
    return SubmitRules(
        call=call,
        options=options,
        needed=needed,
        client_id=_plain(table, "client_id"),
        callback_url=_plain(table, "callback_url"),
        callback_query=table.text("callback_query") or None,
        task_id=_task_id(table, options, usual),
    )


def _options(table: Table) -> Mapping[str, re.Pattern[str] | None]:
    return {name: regular_expression(table, name) for name in table.names()}


def _plain(table: Table, key: str) -> tuple[str, ...]:
    path = table.text(key)
    if path and not is_plain(path):
        table.mistake(key, f"{path!r} must be a plain dotted path")
    return tuple(path.split(".")) if path else ()


def _task_id(table: Table, options: Mapping[str, object], usual: Field[str]) -> SubmittedId:
    if "task_id" not in table:
        return SubmittedId(at=usual, needs={})
    table = table.table("task_id")
    pattern, needs = regular_expression(table, "pattern"), table.table("needs")
    if not ({"pattern", "needs", "id"} & set(table.keys)):
        if "at" not in table:
            table.mistake("at", "missing")
        return SubmittedId(at=table.field("at", identifier), needs={})
    if ("at" in table) != ("pattern" in table):
        table.mistake("pattern", "`at` and `pattern` need each other, unless `at` alone is the id")
    names = {*(pattern.groupindex if pattern else ()), *needs.keys, *options}
    return SubmittedId(
        at=table.field("at", address),
        pattern=pattern,
        needs={key: needs.field(key, identifier) for key in needs.names()},
        template=template(table, "id", table.text("id", required=True), names),
    )
