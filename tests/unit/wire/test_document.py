"""The state document: every key of contract section 2, always."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.cursor import Cursor
from bridge.core.event import Confirmation, Event
from bridge.core.task import Failure, Output, Source, State, Status
from bridge.wire.document import Include, document, timestamp
from tests.fakes.tasks import EPOCH, WALL, event, state, video

FILLED = {"task", "upstream", "task_id", "status", "outputs", "changed_at", "observed_at", "source", "cursor"}
KEYS = [
    *("task", "upstream", "task_id", "alias", "status", "upstream_status", "progress", "eta_seconds"),
    *("eta_at", "eta_by"),
    *("queue_position", "model", "action", "created_at", "completed_at", "outputs", "error", "cost"),
    *("changed_at", "observed_at", "source", "cursor", "raw"),
]
OUTPUT_KEYS = [*("type", "url", "expires_at", "width", "height", "duration_seconds", "file_id", "stored_url")]
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def read(known: State, *, include: Include | None = None, **more: Any) -> dict[str, Any]:
    more = {"now": WALL, "include": include or Include()} | more
    return dict(orjson.loads(document(event(17, known), **more)))


def test_every_key_is_there_and_null_when_unknown() -> None:
    plain = read(state("queued"))
    assert list(plain) == KEYS
    assert {key for key in KEYS if plain[key] is not None} == FILLED
    assert plain["outputs"] == []
    assert (plain["task"], plain["upstream"], plain["task_id"]) == ("qingbo/task-1", "qingbo", "task-1")
    assert (plain["status"], plain["source"], plain["cursor"]) == ("queued", "poll", "k3f9-17")


def test_what_is_known_stands_where_the_contract_says() -> None:
    known = state(
        "failed",
        40.5,
        alias="mine",
        upstream_status="KO",
        queue_position=0,
        eta_at=WALL + 1.5,
        error=Failure("E1", "no"),
        credits_used=0.0,
        outputs=(video("https://a/1.mp4", expires_at=1_800_000_000, file_id="123"),),
        source=Source.STREAM,
    )
    told = read(known)
    assert told["error"] == {"code": "E1", "message": "no"}
    assert told["cost"] == {"credits_used": 0.0, "credits_estimated": None}
    assert (told["progress"], told["queue_position"], told["source"]) == (40.5, 0, "stream")
    [output] = told["outputs"]
    assert list(output) == OUTPUT_KEYS
    assert (output["expires_at"], output["file_id"]) == ("2027-01-15T08:00:00.000Z", "123")


def test_whole_progress_is_a_whole_number() -> None:
    assert b'"progress":42,' in document(event(1, state(progress=42.0)), now=WALL)
    assert b'"progress":42.5,' in document(event(1, state(progress=42.5)), now=WALL)


@given(st.sampled_from(Status), st.floats(0, 4e9), st.floats(0, 4e9))
def test_times_are_rfc_3339_in_utc_with_milliseconds(status: Status, changed: float, created: float) -> None:
    told = read(state(status, changed_at=changed, observed_at=changed, created_at=created))
    assert all(RFC3339.fullmatch(told[key]) for key in ("changed_at", "observed_at", "created_at"))


@given(st.floats())
def test_any_number_is_a_time_or_none(seconds: float) -> None:
    told = timestamp(seconds)
    assert told is None or RFC3339.fullmatch(told)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1720000000.1234, "2024-07-03T09:46:40.123Z"),
        (1720000000.9996, "2024-07-03T09:46:41.000Z"),
        (-62_000_000_000, "0005-04-19T09:46:40.000Z"),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (1e18, None),
    ],
)
def test_milliseconds_are_rounded(seconds: float | None, told: str | None) -> None:
    assert timestamp(seconds) == told


def test_a_later_confirmation_is_told_and_an_earlier_is_not() -> None:
    known = state(observed_at=1_800_000_000.0)
    assert read(known, confirmation=Confirmation(WALL + 5))["observed_at"] == "2027-01-15T08:00:05.000Z"
    assert read(known, confirmation=Confirmation(WALL - 1))["observed_at"] == "2027-01-15T08:00:00.000Z"


def test_the_providers_own_document_comes_only_when_asked_for() -> None:
    known = state(raw=b'{"a":\r\n 1}')
    assert read(known)["raw"] is None
    assert read(known, include=Include(raw=True))["raw"] == {"a": 1}
    assert b"\n" not in document(event(1, known), include=Include(raw=True), now=WALL)
    assert read(state(), include=Include(raw=True))["raw"] is None


def test_the_raw_document_may_be_nested_deeper_than_can_be_written_and_keeps_every_digit():
    raw = b'{"n":123456789012345678901234567890,"a":' + b"[" * 500 + b"]" * 500 + b"}"
    assert raw in document(event(1, state(raw=raw)), include=Include(raw=True), now=WALL)


@pytest.mark.parametrize(("data", "size"), [("", 0), ("QQ==", 1), ("QUI=", 2), ("QUJD", 3), ("QUI", 2)])
def test_content_is_a_size_unless_asked_for(data: str, size: int) -> None:
    known = state(outputs=(Output(type="image", data=data, media_type="image/png"),))
    [plain] = read(known)["outputs"]
    assert (plain["type"], plain["bytes"], plain["url"]) == ("image", size, None)
    [asked] = read(known, include=Include(data=True))["outputs"]
    assert asked["url"] == f"data:image/png;base64,{data}"


def test_a_task_nobody_has_seen_stands_before_everything() -> None:
    assert str(Cursor(EPOCH, 0)) == f"{EPOCH}-0"
    unseen = Event(event(1).key, Cursor(EPOCH, 0), state("unknown"))
    assert orjson.loads(document(unseen, now=WALL))["cursor"] == f"{EPOCH}-0"


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        (state("completed", raw=b'{"a":1}', result=b'{"words":1}'), {"words": 1}),
        (state("completed", raw=b'{"a":1}', result=b"[]", outputs=(video("https://a/1.mp4"),)), {"a": 1}),
        (state("failed", raw=b'{"a":1}', result=b'{"detail":1}'), {"a": 1}),
        (state("completed", raw=b'{"a":1}'), {"a": 1}),
        (state("completed", result=b'{"words":1}'), {"words": 1}),
    ],
)
def test_a_result_without_a_link_is_what_raw_shows(known: State, shown: Any) -> None:
    assert read(known, include=Include(raw=True))["raw"] == shown
    assert read(known)["raw"] is None
