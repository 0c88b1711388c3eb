import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.dialects.base import HttpResponse
from bridge.dialects.paths import Field, compile_path
from bridge.dialects.registry import load_text
from bridge.dialects.retry import RetryRules, retry_after
from bridge.dialects.values import positive

SENT = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": SENT}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT", "date": SENT}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "99999999"}, 86400.0),
        ({"retry-after": "1792567710", "date": SENT}, 30.0),
        ({"retry-after": "1792567710123", "date": SENT}, 30.123),
        ({"retry-after": "1792567710"}, None),
        ({"retry-after": "Wednesday, 21-Oct-26 07:28:30 GMT", "date": SENT}, 30.0),
        ({"retry-after": "2026-10-21T07:28:30Z", "date": SENT}, 30.0),
        ({}, None),
    ],
)
def test_what_the_headers_ask_for(headers, seconds):
    assert retry_after(headers) == (None if seconds is None else pytest.approx(seconds))


def test_a_reset_header_counts_only_where_the_preset_names_it():
    headers = {"x-ratelimit-reset": "1792567710", "date": SENT}
    assert RetryRules().wait(headers, {}, None) is None
    assert RetryRules(reset_headers=("x-ratelimit-reset",)).wait(headers, {}, None) == 30.0


def test_a_reset_in_the_past_or_without_a_date_says_nothing():
    rules = RetryRules(reset_headers=("x-ratelimit-reset",))
    assert rules.wait({"x-ratelimit-reset": "5", "date": SENT}, {}, None) is None
    assert rules.wait({"x-ratelimit-reset": "1792567710"}, {}, None) is None


def test_the_answer_beats_the_preset_and_the_code_beats_the_window():
    rules = RetryRules(
        at=Field((compile_path("retry_after"),), positive),
        by_code={"concurrency_limit": 2.0},
        reset_headers=("x-ratelimit-reset",),
    )
    headers = {"x-ratelimit-reset": "1792567710", "date": SENT}
    assert rules.wait({**headers, "retry-after": "4"}, {"retry_after": 5}, "concurrency_limit") == 4
    assert rules.wait(headers, {"retry_after": 5}, "concurrency_limit") == 5
    assert rules.wait(headers, {}, "concurrency_limit") == 2
    assert rules.wait(headers, {}, "other") == 30


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date", "x-reset"]), st.text()))
def test_any_header_gives_a_sane_wait_or_none(headers):
    wait = RetryRules(reset_headers=("x-reset",)).wait(headers, {}, None)
    assert wait is None or 0 <= wait <= 86400


@pytest.mark.parametrize(
    ("headers", "poll_after"),
    [
        ({"retry-after": "5"}, 5.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:20 GMT", "date": SENT}, 20.0),
        ({"x-pace": "Wed, 21 Oct 2026 07:28:20 GMT", "date": SENT}, 20.0),
        ({"x-pace": "1500", "retry-after": "9"}, 1.5),
        ({"x-pace": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "86400"}, 3600.0),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [200, 202])
def test_a_response_without_an_error_sets_the_pace_of_its_task_for_at_most_an_hour(
    headers, poll_after, status
):
    dialect = load_text(
        'base_url="https://a.example"\ncalls.status.path="/{task_id}"\nstatus.at="state"\n'
        'status.words={processing="running"}\npoll.hint_headers={x-pace=0.001}',
        "own",
    )
    answer = HttpResponse(status, headers, b'{"state":"running"}')
    assert dialect.read_status(answer, "7").observation.poll_after == poll_after
