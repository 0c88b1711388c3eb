"""Submitting: what goes out, and under which id the task is known afterwards."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.task import Status
from bridge.dialects.base import HttpResponse, Submission
from bridge.dialects.registry import load_document, load_preset
from bridge.errors import (
    ConfigError,
    CredentialRefused,
    InvalidRequest,
    UnreadablePayload,
    UpstreamRefused,
    UpstreamUnavailable,
)

QINGBO, VAPI, BYTESPIKE = map(load_preset, ("qingbo", "vapi", "bytespike"))
HAILUO = {"endpoint": "minimax/v1/video_generation"}
FAL = {
    "base_url": "https://queue.fal.run",
    "task_id": {"pattern": r"(?P<app>[\w-]+/[\w-]+)/(?P<id>[\w-]+)"},
    "calls": {
        "status": {"path": "/{app:path}/requests/{id}/status"},
        "submit": {"method": "POST", "path": "/{endpoint:path}", "headers": {"X-App": "{endpoint}"}},
    },
    "submit": {
        "callback_query": "fal_webhook",
        "options": {"endpoint": r"[\w-]+(?:/[\w-]+){1,4}"},
        "task_id": {
            "at": "status_url",
            "pattern": r"https://queue\.fal\.run/(?P<app>[\w-]+/[\w-]+)/requests/(?P<id>[\w-]+)/status",
            "id": "{app}/{id}",
        },
    },
    "status": {"at": "status", "words": {"queued": "IN_QUEUE"}},
    "fields": {"task_id": "request_id"},
}
DEEP = {"endpoint": "fal-ai/flux/dev"}


def made(**changes):
    return load_document({**FAL, **changes}, "made-up")


def told(**changes):
    with pytest.raises(ConfigError) as caught:
        made(**changes)
    return [mistake.removeprefix("dialect made-up: ") for mistake in caught.value.errors]


def submission(body=b"{}", **options):
    return Submission(body=body, options=options)


def ok(document, status=200):
    return HttpResponse(status, {}, orjson.dumps(document))


def test_the_body_goes_unchanged_with_its_own_content_type():
    body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--'
    request = QINGBO.submit_request(Submission(body=body, content_type="multipart/form-data; boundary=x"))
    assert (request.method, request.path, request.body) == ("POST", "/v1/tasks", body)
    assert request.headers == {"content-type": "multipart/form-data; boundary=x"}
    assert QINGBO.submit_request(Submission(body=b"{}")).headers == {"content-type": "application/json"}
    with pytest.raises(InvalidRequest):
        QINGBO.submit_request(Submission(body=b"{}", content_type="a\r\nX-Admin: 1"))


def test_an_option_fills_the_path():
    assert VAPI.submit_request(Submission(body=b"{}", options=HAILUO)).path == (
        "/task/minimax/v1/video_generation"
    )
    request = made().submit_request(submission(**DEEP))
    assert (request.path, request.headers["X-App"]) == ("/fal-ai/flux/dev", "fal-ai/flux/dev")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "'endpoint' is missing"),
        ({"endpoint": ""}, "cannot be"),
        ({"endpoint": "../admin"}, "cannot be"),
        ({"endpoint": "a/b?key=1"}, "cannot be"),
        ({"endpoint": "a/b" + "/c" * 2000}, "cannot be"),
        ({"endpoint": "a/b", "endpiont": "a/b"}, "no such option: 'endpiont'"),
    ],
)
def test_an_option_that_is_missing_malformed_or_unknown_is_refused(options, sentence):
    with pytest.raises(InvalidRequest, match=sentence):
        made().submit_request(submission(**options))


def test_an_option_without_a_pattern_still_cannot_climb():
    loose = made(submit={"task_id": FAL["submit"]["task_id"]})
    assert loose.submit_request(submission(endpoint="a b/ü")).path == "/a%20b/%C3%BC"
    with pytest.raises(InvalidRequest):
        loose.submit_request(submission(endpoint="../v1/keys"))


def test_an_option_nobody_needs_is_refused():
    with pytest.raises(InvalidRequest, match="this call takes none"):
        QINGBO.submit_request(submission(api_key="x"))


def test_the_submitted_task_is_known_by_the_id_that_the_other_calls_take():
    answer = ok(
        {
            "status": "IN_QUEUE",
            "request_id": "764c",
            "status_url": "https://queue.fal.run/fal-ai/flux/requests/764c/status",
        }
    )
    seen = made().read_submitted(answer, submission(**DEEP))
    assert (seen.task_id, seen.status) == ("fal-ai/flux/764c", Status.QUEUED)
    assert made().status_request(seen.task_id).path == "/fal-ai/flux/requests/764c/status"
    assert made().status_request(seen.task_id).base_url is None


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/fal-ai/flux/requests/764c/status",
        "https://queue.fal.run.evil.example/fal-ai/flux/requests/764c/status",
        "https://queue.fal.run/fal-ai/flux/requests/764c/status?next=https://evil.example",
        "http://169.254.169.254/latest/meta-data",
        "https://queue.fal.run/" + "a" * 5000,
        "",
        7,
        None,
        ["https://queue.fal.run/fal-ai/flux/requests/764c/status"],
    ],
)
def test_a_returned_address_of_another_shape_is_unreadable_and_never_used(url):
    with pytest.raises(UnreadablePayload):
        made().read_submitted(ok({"request_id": "764c", "status_url": url}), submission(**DEEP))


def test_an_id_composed_of_an_option_and_the_answer():
    runpod = made(
        submit={
            "options": {"endpoint": r"[\w-]+(?:/[\w-]+)?"},
            "task_id": {"needs": {"request_id": ["id", "request_id"]}, "id": "{endpoint}/{request_id}"},
        }
    )
    assert runpod.read_submitted(ok({"id": 7}), submission(endpoint="a/b")).task_id == "a/b/7"
    with pytest.raises(UnreadablePayload, match="has no task id"):
        runpod.read_submitted(ok({"status": "IN_QUEUE"}), submission(endpoint="a/b"))
    with pytest.raises(UnreadablePayload, match="not one of this upstream's"):
        runpod.read_submitted(ok({"id": 7}), submission(endpoint="alone"))


def test_without_a_word_in_the_answer_the_task_is_queued():
    seen = VAPI.read_submitted(
        ok({"task_id": 106916112212032, "base_resp": {"status_code": 0, "status_msg": "success"}}),
        Submission(body=b"{}", options=HAILUO),
    )
    assert (seen.task_id, seen.status, seen.upstream_status) == ("106916112212032", Status.QUEUED, None)


def test_a_word_nobody_mapped_stays_unknown():
    seen = QINGBO.read_submitted(ok({"task_id": "1", "status": "brewing"}), submission())
    assert (seen.status, seen.upstream_status) == (Status.UNKNOWN, "brewing")


def test_an_error_beside_an_id_does_not_lose_a_paid_task():
    seen = QINGBO.read_submitted(ok({"task_id": "1", "error": {"code": "slow_day"}}), submission())
    assert (seen.task_id, seen.status) == ("1", Status.QUEUED)


def test_the_clients_own_id_is_told_even_where_the_answer_does_not_repeat_it():
    body = b'{"out_task_id":"mine"}'
    assert BYTESPIKE.client_id(Submission(body=body)) == "mine"
    assert BYTESPIKE.read_submitted(ok({"task_id": "t"}), Submission(body=body)).alias == "mine"
    assert QINGBO.client_id(Submission(body=body)) is None


@pytest.mark.parametrize("body", [b"", b"[]", b"out_task_id=1", b'{"out_task_id":null}', b"[" * 100_000])
def test_a_body_without_an_own_id_has_none(body):
    assert BYTESPIKE.client_id(Submission(body=body)) is None


@pytest.mark.parametrize(
    ("dialect", "answer", "error", "sentence"),
    [
        (VAPI, ok({"base_resp": {"status_code": 1026, "status_msg": "sensitive"}}), UpstreamRefused, "sensi"),
        (VAPI, ok({"base_resp": {"status_code": 1004, "status_msg": "login"}}), CredentialRefused, "login"),
        (QINGBO, ok({"error": {"code": "x"}}, 404), UpstreamRefused, "x"),
        (QINGBO, ok({"error": {"code": "x"}}, 409), UpstreamRefused, "x"),
        (QINGBO, ok({"error": {"code": "x"}}, 500), UpstreamUnavailable, "x"),
        (BYTESPIKE, ok({"error": {"code": "duplicate_out_task_id"}}, 409), UpstreamRefused, "duplicate"),
        (QINGBO, ok({"status": "queued"}), UnreadablePayload, "has no task id"),
        (QINGBO, ok({"task_id": "..\n"}), UnreadablePayload, "has no task id"),
        (QINGBO, HttpResponse(201, {}, b"<html>"), UnreadablePayload, "not a JSON"),
        (
            QINGBO,
            HttpResponse(302, {"location": "https://evil.example"}, b""),
            UpstreamUnavailable,
            "not followed",
        ),
    ],
)
def test_a_refused_create_says_whose_fault_it_is(dialect, answer, error, sentence):
    options = HAILUO if dialect is VAPI else {}
    with pytest.raises(error, match=sentence) as caught:
        dialect.read_submitted(answer, Submission(body=b"{}", options=options))
    assert type(caught.value) is error
    assert caught.value.provider_status == answer.status


URL = "https://bridge.example/v1/callbacks/x/s?a=1&b=2"


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b" { }", b' {"callback_url":"%b" }'),
        (
            b'{"n":123456789012345678901,"x":1.50}',
            b'{"callback_url":"%b","n":123456789012345678901,"x":1.50}',
        ),
        (
            b'{"callback_url":null,"n":123456789012345678901}',
            b'{"callback_url":"%b","n":123456789012345678901}',
        ),
    ],
)
def test_the_callback_address_is_added_and_nothing_else_changes(body, sent):
    assert QINGBO.with_callback(Submission(body=body), URL).body == sent.replace(b"%b", URL.encode())


@pytest.mark.parametrize(
    "body", [b'{"callback_url":"https://own.example"}', b"[]", b"", b"a=1", b"\xff", b"[" * 50_000]
)
def test_a_body_that_has_an_address_or_takes_none_stays_as_it_is(body):
    own = Submission(body=body)
    assert QINGBO.with_callback(own, URL) is own


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b"{}", {"config": {"hook": {"url": URL}}}),
        (b'{"config":{"a":1}}', {"config": {"a": 1, "hook": {"url": URL}}}),
        (b'{"config":7}', {"config": 7}),
        (b'{"config":{"hook":{"url":"x"}}}', {"config": {"hook": {"url": "x"}}}),
    ],
)
def test_the_callback_address_may_stand_deeper(body, sent):
    deep = made(submit={"callback_url": "config.hook.url"})
    assert orjson.loads(deep.with_callback(Submission(body=body), URL).body) == sent


def test_the_callback_address_may_stand_in_the_query():
    asked = made().with_callback(submission(**DEEP), URL)
    assert made().submit_request(asked).path == (
        "/fal-ai/flux/dev?fal_webhook=https%3A%2F%2Fbridge.example%2Fv1%2Fcallbacks%2Fx%2Fs%3Fa%3D1%26b%3D2"
    )
    own = submission(fal_webhook="https://own.example", **DEEP)
    assert made().with_callback(own, URL).options["fal_webhook"] == "https://own.example"


DEEPER = made(submit={"callback_url": "config.hook.url"})


@pytest.mark.parametrize(
    ("dialect", "own", "url"),
    [
        (QINGBO, Submission(body=b'{"n":12345678901234567890,"callback_url":"https://own.example"}'), "own"),
        (DEEPER, Submission(body=b'{"config":{"a":1,"hook":{"url":"https://own.example"}}}'), "own"),
        (made(), submission(fal_webhook="https://own.example", **DEEP), "own"),
        (QINGBO, Submission(body=b'{"callback_url":null}'), None),
        (QINGBO, Submission(body=b'{"callback_url":7}'), None),
        (QINGBO, Submission(body=b'{"callback_url":{"url":"https://own.example"}}'), None),
        (QINGBO, Submission(body=b'{"callback_url":"https://' + b"o" * 5000 + b'"}'), None),
        (QINGBO, Submission(body=b"\xff"), None),
        (DEEPER, Submission(body=b'{"config":7}'), None),
        (made(submit={}), Submission(body=b'{"callback_url":"https://own.example"}'), None),
    ],
)
def test_the_callers_own_address_is_found_where_the_provider_reads_it_and_can_be_replaced(dialect, own, url):
    assert dialect.callback_in(own) == (None if url is None else "https://own.example")
    if url is None:
        return
    ours = dialect.with_callback(own, URL, instead=True)
    assert dialect.callback_in(ours) == URL
    assert b"own.example" not in ours.body
    assert (b"12345678901234567890" in own.body) == (b"12345678901234567890" in ours.body)
    assert dialect.with_callback(own, URL) == own, "unless it is to be replaced"


def test_a_parameter_of_the_providers_call_is_known():
    assert (made().takes_parameter("fal_webhook"), made().takes_parameter("webhook")) == (True, False)
    assert load_preset("wavespeed").takes_parameter("webhook")
    assert not load_preset("replicate").takes_parameter("webhook"), "there it is in the body"


def test_where_the_provider_takes_no_address_nothing_changes():
    own = submission()
    assert made(submit={}).with_callback(own, URL) is own


KEYS = st.sampled_from(["callback_url", "a", "b"]) | st.text()
BODIES = st.dictionaries(KEYS, st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text())


@given(BODIES, st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_the_body_holds_it_keeps(document, url):
    import json

    body = json.dumps(document).encode()
    sent = json.loads(QINGBO.with_callback(Submission(body=body), url).body)
    assert sent == {"callback_url": url, **document}


def test_mistakes_are_told_with_their_place():
    assert told(
        submit={
            "client_id": "a[0]",
            "callback_url": "a.b",
            "callback_query": "hook",
            "options": {"endpoint": "["},
            "task_id": {"at": "status_url", "pattern": "(?P<Id>.+)", "id": "{nobody}"},
            "colour": "red",
        }
    ) == [
        "submit.client_id: 'a[0]' must be a plain dotted path",
        "submit.options.endpoint: is not a regular expression: unterminated character set at position 0",
        "submit.colour: unknown key (known here: client_id, callback_url, callback_query, options, task_id)",
        "submit.callback_query: the address is in the body or in the query, not in both",
        "submit.task_id.pattern: 'Id' cannot name a part (lower-case letters, digits and _)",
        "submit.task_id.id: {nobody} is not known here (Id, endpoint)",
    ]


def test_a_submit_table_without_a_call_is_a_mistake():
    assert told(calls={"status": {"path": "/x"}}, submit={"client_id": "a"}) == [
        "submit: needs [calls.submit]"
    ]


@pytest.mark.parametrize(
    ("task_id", "mistake"),
    [
        ({}, "submit.task_id.at: missing"),
        ({"at": "x", "id": "{endpoint}"}, "submit.task_id.pattern: `at` and `pattern` need each other"),
        (
            {"pattern": "(?P<id>.)", "id": "{id}"},
            "submit.task_id.pattern: `at` and `pattern` need each other",
        ),
        ({"needs": {"id": "id"}}, "submit.task_id.id: missing"),
    ],
)
def test_half_an_id_is_a_mistake(task_id, mistake):
    assert any(one.startswith(mistake) for one in told(submit={"task_id": task_id}))


def test_the_body_of_a_submit_call_is_the_callers():
    calls = {"status": {"path": "/x"}, "submit": {"path": "/y", "body": {"a": "{b}"}}}
    assert told(calls=calls, submit={}) == [
        "calls.submit.body: unknown key (known here: method, path, query, headers, base_url)"
    ]
