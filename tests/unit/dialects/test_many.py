"""The call about many tasks: its request, its answer, and what a document may say about it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.dialects.base import HttpResponse
from bridge.dialects.many import MAX_URL_IDS
from bridge.dialects.registry import load_document
from bridge.dialects.rules import compile_document
from bridge.errors import CredentialRefused, UnreadablePayload, UpstreamBusy, UpstreamError, UpstreamRefused


def document(**many: Any) -> dict[str, Any]:
    call = {"path": "/many", "query": {"ids": "{task_ids}"}, "max_ids": 10, "at": "items"} | many
    call = {key: value for key, value in call.items() if value is not None}
    return {
        "base_url": "https://acme.example",
        "answer": {"code": "code", "error_message": "message", "classes": {"busy": [429]}},
        "status": {"at": ["status", "data.status"], "common_words": True},
        "fields": {"task_id": ["id", "data.id"]},
        "calls": {"status": {"path": "/tasks/{task_id}"}, "status_many": call},
    }


def acme(**many: Any) -> Any:
    return load_document(document(**many), "acme")


def answered(body: Any, status: int = 200) -> HttpResponse:
    return HttpResponse(status, {}, body if isinstance(body, bytes) else orjson.dumps(body))


IDS = ["a-1", "b 2", "c/3", "ü"]


def test_ids_go_out_joined_or_as_a_list() -> None:
    assert acme().status_many.request(IDS).path == "/many?ids=a-1,b%202,c%2F3,%C3%BC"
    assert acme(separator="|").status_many.request(IDS[:2]).path == "/many?ids=a-1%7Cb%202"
    assert acme(ids="list").status_many.request(IDS[:2]).path == "/many?ids=a-1&ids=b%202"
    assert acme(path="/many/{task_ids}", query={}).status_many.request(IDS[:2]).path == "/many/a-1,b%202"
    listed = acme(method="POST", query={}, ids="list", body={"action": "MUSIC", "ids": "{task_ids}"})
    request = listed.status_many.request(IDS)
    assert (request.method, request.path) == ("POST", "/many")
    assert json.loads(request.body) == {"action": "MUSIC", "ids": IDS}
    assert request.headers["content-type"] == "application/json"
    joined = acme(method="POST", query={}, body={"ids": "{task_ids}"}).status_many.request(IDS)
    assert json.loads(joined.body) == {"ids": ",".join(IDS)}
    assert (
        acme(query={"page": "1", "ids": "{task_ids}"}).status_many.request(["a"]).path == "/many?page=1&ids=a"
    )


@pytest.mark.parametrize("task_id", ["a,b", "..", "x/../y", "a\\b", "%2e%2e"])
def test_an_id_that_would_be_another_request_is_asked_for_alone(task_id: str) -> None:
    assert acme().status_many.size_of(task_id) is None


@given(
    st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=8), st.sampled_from(["joined", "list"])
)
def test_what_is_sent_is_what_was_asked_for(ids: list[str], form: str) -> None:
    many = acme(ids=form).status_many
    sizes = {one: many.size_of(one) for one in ids if one.isprintable()}
    sent = [one for one, size in sizes.items() if size is not None]
    path = many.request(sent).path
    found = [value for name, value in parse_qsl(path.partition("?")[2], keep_blank_values=True)]
    assert (found if form == "list" else [unquote(one) for one in path.partition("=")[2].split(",")]) == (
        sent or ([] if form == "list" else [""])
    )
    assert len(path) <= len("/many?ids=") + sum(sizes[one] or 0 for one in sent)
    assert many.room() == MAX_URL_IDS


def test_answers_are_a_list_or_an_object_by_id() -> None:
    items = [{"id": "b", "status": "done"}, {"id": "a", "status": "running"}]
    expected = {"a": items[1], "b": items[0]}
    by_id = {"a": {"status": "running"}, "b": {"status": "done"}}
    for body, at, want in (
        ({"items": items}, "items", expected),
        (items, "@", expected),
        ({"data": {"tasks": items}}, "data.tasks", expected),
        ({"items": by_id}, "items", by_id),
        (by_id, "@", by_id),
    ):
        found = acme(at=at).read_status_many(answered(body), ["a", "b", "c"])
        assert {one: orjson.loads(text) for one, text in found.items()} == want


def test_a_document_gets_what_a_single_answer_has_around_it() -> None:
    dialect = acme(wrapper="data")
    found = dialect.read_status_many(answered({"items": [{"id": "a", "status": "done"}]}), ["a"])
    assert dialect.read_status(answered(found["a"]), "a").observation.status.value == "completed"
    words = acme(wrapper="status").read_status_many(answered({"items": {"a": "RUNNING"}}), ["a"])
    assert dialect.read_status(answered(words["a"]), "a").observation.status.value == "processing"


def test_foreign_doubled_misspelt_and_nameless_documents_count_for_nobody_else() -> None:
    items = [
        {"id": "A", "status": "done"},
        {"id": "x", "status": "done"},
        {"status": "done"},
        {"id": " a", "status": "done"},
        {"id": None},
        7,
        [{"id": "a", "status": "done"}],
        {"id": "a", "status": "running"},
        {"id": "a", "status": "done"},
        {"id": 88, "status": "done"},
    ]
    found = acme().read_status_many(answered({"items": items}), ["a", "b", "88"])
    assert found == {"a": orjson.dumps(items[-3]), "88": orjson.dumps(items[-1])}
    named_otherwise = {"items": {"a": {"id": "b", "status": "done"}}}
    assert acme().read_status_many(answered(named_otherwise), ["a", "b"]) == {}


def test_a_flood_of_foreign_documents_is_not_read_to_its_end() -> None:
    flood = [{"id": f"x{number}"} for number in range(50_000)]
    assert acme().read_status_many(answered({"items": [*flood, {"id": "a"}]}), ["a"]) == {}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (answered({"code": 429, "message": "slow down"}), UpstreamBusy),
        (answered({"code": 429, "message": "slow down", "items": []}), UpstreamBusy),
        (answered({"message": "x"}, 401), CredentialRefused),
        (answered({"message": "x"}, 400), UpstreamRefused),
        (answered(b"<html>"), UnreadablePayload),
        (answered({"items": 7}), UnreadablePayload),
        (answered({"id": "a", "status": "done"}), UnreadablePayload),
        (answered([]), UnreadablePayload),
        (answered(b"", 204), UnreadablePayload),
    ],
)
def test_what_is_no_list_fails_as_a_whole(answer: HttpResponse, error: type[UpstreamError]) -> None:
    with pytest.raises(error):
        acme().read_status_many(answer, ["a"])


texts = st.sampled_from(["a", "b", "c", "A", "", "x", "running", "done"])
keys = texts | st.sampled_from(["id", "status", "items", "code", "message"])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | texts,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            texts | st.sampled_from(["id", "status", "items", "code", "message"]), inner, max_size=5
        )
    ),
    max_leaves=25,
)


@given(
    values | values.map(lambda value: {"items": value}),
    st.sampled_from([200, 200, 200, 202, 404, 429, 500]),
    st.sampled_from(["items", "@", "items[]"]),
    st.sampled_from(["", "data"]),
)
def test_any_json_shows_asked_tasks_or_is_an_error_of_the_provider(
    body: Any, status: int, at: str, wrapper: str
) -> None:
    dialect = acme(at=at, wrapper=wrapper or None)
    try:
        found = dialect.read_status_many(answered(body, status), ["a", "b"])
    except UpstreamError:
        return
    assert found.keys() <= {"a", "b"}
    for task_id, text in found.items():
        try:
            observation = dialect.read_status(answered(text), task_id).observation
        except UpstreamError:
            continue
        assert observation.task_id in (task_id, None)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_an_error_of_the_provider(body: bytes) -> None:
    with suppress(UpstreamError):
        assert acme(at="@").read_status_many(answered(body), ["a"]).keys() <= {"a"}


states = st.fixed_dictionaries({"status": st.sampled_from(["running", "done", "failed", "queued"])})


@given(st.dictionaries(st.sampled_from("abcdefgh"), states, max_size=8), st.data())
def test_the_order_of_an_answer_and_what_else_it_holds_do_not_matter(shown: Any, data: st.DataObject) -> None:
    items = [{"id": one} | state for one, state in shown.items()]
    foreign = data.draw(st.lists(st.sampled_from([{"id": "z", "status": "done"}, 3, None, {}]), max_size=4))
    mixed = data.draw(st.permutations([*items, *foreign]))
    found = acme().read_status_many(answered({"items": mixed}), list("abcd"))
    assert {one: orjson.loads(text) for one, text in found.items()} == {
        one["id"]: one for one in items if one["id"] in "abcd"
    }


def errors(**many: Any) -> list[str]:
    return [str(error) for error in compile_document(document(**many))[1]]


def test_all_errors_of_the_call_are_reported_together() -> None:
    at = "calls.status_many"
    known = "method, path, query, headers, base_url, body, ids, separator, max_ids, at, id, wrapper"
    assert errors(max_ids=1, ids="lists", separator="", at="[", id="(", wrapper="a[0]", more=1) == [
        f"{at}.ids: 'lists' is not one of joined, list",
        f"{at}.separator: must be a string, and not empty",
        f"{at}.max_ids: must be a whole number from 2 to 1000",
        *errors(at="["),
        *errors(id="("),
        f"{at}.wrapper: 'a[0]' must be a plain dotted path",
        f"{at}.more: unknown key (known here: {known})",
    ]


CANNOT = "cannot hold a list: only a query parameter or a string {task_ids} can"


@pytest.mark.parametrize(
    ("many", "error"),
    [
        ({"query": {}}, ": {task_ids} is neither in its path nor in its query or body"),
        ({"path": "many"}, ".path: must begin with /"),
        ({"path": "/many/{task_id}"}, ".path: {task_id} is not known here (task_ids)"),
        (
            {"path": "/many/{task_ids}", "query": {}, "ids": "list"},
            ".path: '/many/{task_ids}' " + CANNOT,
        ),
        (
            {"query": {"ids": "[{task_ids}]"}, "ids": "list"},
            ".query.ids: '[{task_ids}]' " + CANNOT,
        ),
        (
            {"query": {"ids": "{task_ids:path}"}},
            ".query.ids: write {task_ids}: ids have no slashes to keep here",
        ),
        ({"headers": {"X": "{task_ids}"}}, ".headers.X: {task_ids} cannot be in a header"),
        ({"max_ids": None}, ".max_ids: missing"),
        ({"max_ids": 5000}, ".max_ids: must be a whole number from 2 to 1000"),
        ({"at": None}, ".at: missing"),
    ],
    ids=str,
)
def test_an_error_says_where_and_what(many: dict[str, Any], error: str) -> None:
    assert errors(**many) == [f"calls.status_many{error}"]


def test_without_the_call_tasks_are_asked_for_one_by_one() -> None:
    plain = document()
    del plain["calls"]["status_many"]
    assert load_document(plain, "acme").max_status_ids == 1
    assert acme().max_status_ids == 10


def test_proxy_serves_no_call_about_many_tasks() -> None:
    assert acme().match("GET", "/many", "ids=a,b", None) is None
