"""What only a lenient reading reads, and what stays an error."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.task import Status
from bridge.dialects.base import HttpResponse
from bridge.dialects.lenient import read_json, read_text, write_json
from bridge.dialects.registry import load_text
from bridge.errors import TaskNotFound, UnreadablePayload

ACME = load_text(
    """
base_url = "https://api.acme.example"
calls.status.path = "/jobs/{task_id}"
status.at = "state"
status.words = { processing = "running", completed = "finished" }
fields.task_id = "id"
fields.progress = "progress"
""",
    "acme",
)

LENIENT = {
    "a lone surrogate": (b'{"a":"cut \\ud83d"}', {"a": "cut \ufffd"}),
    "a surrogate as key": (b'{"\\udc00":[["\\ud83d"]]}', {"\ufffd": [["\ufffd"]]}),
    "NaN": (b'{"a":NaN,"b":[-Infinity,Infinity]}', {"a": None, "b": [None, None]}),
    "a number beyond a float": (b'{"a":1e999,"b":2}', {"a": None, "b": 2}),
    "five thousand digits": (b'{"a":' + b"9" * 5000 + b"}", {"a": None}),
    "control characters": (b'{"a":"one\ntwo\tend\x01"}', {"a": "one\ntwo\tend\x01"}),
    "not UTF-8": (b'{"a":"\xff\xfeb"}', {"a": "\ufffd\ufffdb"}),
    "text after it": (b'{"a":1}\n<!-- cached -->', {"a": 1}),
    "another document after it": (b'{"a":1}{"a":2}', {"a": 1}),
    "zeros around it": (b'\x00\x00 {"a":1}\x00\x00', {"a": 1}),
    "a mark": (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
    "a mark in UTF-16": ('{"a":"\u5b8c"}'.encode("utf-16"), {"a": "\u5b8c"}),
    "UTF-16 without a mark": ('{"a":1}'.encode("utf-16-be"), {"a": 1}),
    "UTF-32": ('{"a":1}'.encode("utf-32"), {"a": 1}),
    "a guard": (b')]}\',\n{"a":1}', {"a": 1}),
    "in a string": (b'"{\\"a\\": 1}"', {"a": 1}),
    "in a string in a string": (json.dumps(json.dumps('{"a": 1}')).encode(), {"a": 1}),
    "a backslash inside a GBK character": ('{"a":"\u8aa0"}'.encode("gbk"), {"a": "\u8aa0"}),
    "a list": (b"[NaN]", [None]),
}
UNREADABLE = {
    "nothing": b"",
    "a comma": b'{"a":1,}',
    "a comment": b'{"a":1 /* b */}',
    "single quotes": b"{'a':1}",
    "no quotes": b"{a:1}",
    "text before it": b'callback({"a":1})',
    "half of it": b'{"a":"b',
    "a page": b"<html>busy</html>",
    "a number": b"12",
    "a string": b'"done"',
    "too deep": b"[" * 100_000,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize(("body", "document"), LENIENT.values(), ids=LENIENT)
def test_what_the_usual_parsers_read(body, document):
    read = read_json(body)
    assert read.document == document
    assert read.lenient
    assert orjson.loads(read.raw) == document


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_no_usual_parser_reads(body):
    assert read_json(body) is None


@pytest.mark.parametrize("charset", ["gbk", "GB18030", "big5", "shift_jis", "euc-kr", '"GBK"'])
def test_the_charset_of_the_response_counts(charset):
    text = {"a": "\u5b8c\u6210" if charset != "euc-kr" else "\uc644\ub8cc"}
    body = json.dumps(text, ensure_ascii=False).encode(charset.strip('"'))
    assert read_json(body, f"application/json; charset={charset}").document == text


@pytest.mark.parametrize(
    ("charset", "codec", "word"),
    [
        *((name, "shift_jis", "\u8868\u80fd") for name in ("Shift-JIS", "x-sjis", "windows-31j", "ms932")),
        *((name, "gbk", "\u5b8c\u6210") for name in ("cp936", "x-gbk", "gb_2312-80")),
        *((name, "cp949", "\uc644\ub8cc") for name in ("windows-949", "ks_c_5601-1987", "euc_kr")),
        *(("cp1252", "cp1252", "\xe9"), ("iso8859-1", "latin-1", "\xe9"), ("windows-874", "cp874", "\u0e44")),
    ],
)
def test_a_charset_counts_by_every_name_it_has(charset, codec, word):
    body = json.dumps({"a": word}, ensure_ascii=False).encode(codec)
    assert read_json(body, f"application/json; charset={charset}").document == {"a": word}


@pytest.mark.parametrize("charset", ["zip", "unicode_escape", "idna", "no-such", "hex", "raw_unicode_escape"])
def test_a_header_chooses_no_codec_that_is_no_charset(charset):
    assert read_json(b'{"a":"\xff"}', f"application/json; charset={charset}").document == {"a": "\ufffd"}


def test_strict_json_is_kept_as_it_came():
    body = b' {"a": 1.0, "b": 12345678901234567890123}\n'
    read = read_json(body)
    assert (read.raw, read.lenient) == (body, False)


@pytest.mark.parametrize("depth", [253, 300, 900])
def test_a_deep_document_can_be_written(depth):
    nested = orjson.loads(b"[" * depth + b"]" * depth)
    assert orjson.loads(write_json(nested)) == nested
    assert read_json(b"[" * depth + b"NaN" + b"]" * depth).lenient


def test_a_string_with_something_after_its_json_stays_a_sentence():
    assert read_text("[1] see the notes") is None
    assert read_text('{"a": NaN, "b": "x\ny"}') == {"a": None, "b": "x\ny"}


@given(JSON, st.binary(max_size=8), st.data())
def test_a_mutated_document_reads_as_one_that_agrees_with_its_text(value, noise, data):
    text = json.dumps({"value": value}).encode()
    at = data.draw(st.integers(0, len(text)))
    read = read_json(text[:at] + noise + text[at + data.draw(st.integers(0, 3)) :])
    assert read is None or with_floats(read.raw) == with_floats(write_json(read.document))


def with_floats(text):
    """The document with all numbers as floats, as orjson reads an integer beyond 64 bits."""
    return json.loads(text, parse_int=float)


def shown(body, task_id=None, status=200, **headers):
    count = []
    answer = HttpResponse(status, headers, body, on_lenient=lambda: count.append(1))
    return ACME.read_status(answer, task_id).observation, len(count)


def test_a_lenient_reading_is_counted_and_its_raw_is_valid():
    seen, count = shown(b'{"id":"7","state":"finished","log":"\\ud83d","loss":NaN}')
    assert (seen.status, seen.task_id, count) == (Status.COMPLETED, "7", 1)
    assert orjson.loads(seen.raw) == {"id": "7", "state": "finished", "log": "\ufffd", "loss": None}
    assert shown(b'{"id":"7","state":"finished"}')[1] == 0


def test_of_a_list_the_document_with_the_tasks_id_counts():
    body = b'[{"id":"6","state":"running","prompt":"x"},5,{"id":"7","state":"finished"}]'
    seen, _ = shown(body, "7")
    assert (seen.task_id, seen.status) == ("7", Status.COMPLETED)
    assert seen.raw == b'{"id":"7","state":"finished"}'  # the others may be tasks of other people
    assert shown(body, "owner/model/6")[0].status is Status.PROCESSING
    assert shown(b'[{"id":"jobs/7","state":"finished"},{"id":"8"}]', "7")[0].task_id == "jobs/7"


def test_a_list_of_one_is_that_one():
    body = b'[{"state":"running"}]'
    seen, _ = shown(body, "7")
    assert (seen.status, seen.raw) == (Status.PROCESSING, body)


@pytest.mark.parametrize("body", [b"[]", b'[{"id":"1","state":"running"},{"id":"2","state":"running"}]'])
def test_a_list_without_the_task_does_not_know_it(body):
    with pytest.raises(TaskNotFound):
        shown(body, "7")


def test_a_list_of_something_else_is_unreadable():
    with pytest.raises(UnreadablePayload):
        shown(b"[1,2]", "7")


def test_a_dialect_may_say_which_item_it_is():
    dialect = load_text(
        'base_url="https://a.example"\ncalls.status.path="/{task_id}"\nstatus.at="state"\n'
        'status.words={completed="ok"}\nanswer.list_item="[1].task"',
        "own",
    )
    answer = HttpResponse(200, {}, b'[{"meta":1},{"task":{"state":"ok"}}]')
    assert dialect.read_status(answer, "7").observation.status is Status.COMPLETED


@pytest.mark.parametrize("status", [202, 204])
@pytest.mark.parametrize("body", [b"", b" \r\n"])
def test_accepted_and_nothing_more_is_processing(status, body):
    seen, _ = shown(body, "7", status)
    assert (seen.status, seen.upstream_status, seen.raw) == (Status.PROCESSING, None, None)


@pytest.mark.parametrize(("status", "body"), [(200, b""), (202, b"<html>"), (206, b"")])
def test_any_other_empty_body_is_unreadable(status, body):
    with pytest.raises(UnreadablePayload):
        shown(body, "7", status)


def test_a_status_with_a_stated_meaning_needs_no_json():
    dialect = load_text(
        'base_url="https://a.example"\ncalls.status.path="/{task_id}"\nstatus.at="state"\n'
        'answer.http={202="queued", 204="completed"}',
        "own",
    )
    for status, body, expected in [(202, b"still working", Status.QUEUED), (204, b"", Status.COMPLETED)]:
        assert dialect.read_status(HttpResponse(status, {}, body), "7").observation.status is expected
