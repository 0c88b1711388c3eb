"""What schemathesis does beside what it does by itself, loaded by its own process."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

KNOWN = {
    "upstream": ["qingbo", "bytespike"],
    "task_id": ["open", "over"],
    "path": ["v1/tasks/open", "v1/tasks"],
}


@schemathesis.hook
def flatmap_path_parameters(context, parameters):
    """Mostly what is there: a path drawn at random leads nowhere."""
    del context
    return st.tuples(st.just(parameters or {}), *map(_mostly, KNOWN)).map(_given)


def _mostly(name):
    return st.one_of(*[st.sampled_from(KNOWN[name]).map(lambda value: (name, value))] * 3, st.none())


def _given(drawn):
    parameters, *chosen = drawn
    return parameters | {name: value for name, value in filter(None, chosen) if name in parameters}


@schemathesis.check
def refuses_strangers(context, response, case):
    """Without a credential nothing is answered but that one is needed.

    403 is for a page of a stranger that has got hold of a cookie. 404 is for a request that is no handshake,
    400 for one that does not even say which kind of stream it wants.
    """
    del context
    operation = case.operation
    asks = operation.definition.raw.get("security", operation.schema.raw_schema["security"])
    if not asks or case.method != operation.method.upper():
        return
    refusals = {401, 403} if case.cookies else {401}
    if {"ticket": []} in asks:
        refusals |= {404} if operation.path == "/v1/ws" else {400}
    assert response.status_code in refusals, f"a stranger was answered {response.status_code}"
