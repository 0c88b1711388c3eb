"""Keys, refs and words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.event import Closing
from bridge.core.task import Status, TaskKey, check_task_id, climbs
from bridge.errors import InvalidRequest

names = st.from_regex(re.compile(r"[a-z][a-z0-9-]{0,31}"), fullmatch=True)
ids = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256).filter(
    lambda text: not climbs(text)
)


@given(names, ids)
def test_a_ref_names_its_task_whatever_stands_in_the_id(name: str, task_id: str) -> None:
    key = TaskKey(name, task_id)
    assert TaskKey.parse(key.ref) == key
    assert TaskKey.parse(key.ref, "mine") != key  # another account is another task


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "qingbo",
        "qingbo/",
        "Qingbo/1",
        "7/1",
        "/1",
        "q" * 33 + "/1",
        "q/" + "i" * 1025,
        "q/a\nb",
        "q/\ud800",
        "q/\x85",
        "q\n/1",
        "q/\x7f",
    ],
)
def test_what_is_no_ref_is_refused(ref: str) -> None:
    with pytest.raises(InvalidRequest):
        TaskKey.parse(ref)


def test_four_statuses_are_final() -> None:
    assert {one.value for one in Status if one.final} == {"completed", "failed", "cancelled", "lost"}


def test_close_codes_tell_whether_to_come_back() -> None:
    codes = {closing.value: closing.websocket_code for closing in Closing}
    assert codes == {
        "finished": 1000,
        "gone": 1001,
        "drain": 1012,
        "age": 4002,
        "slow": 4001,
        "expired": 4501,
        "over_capacity": 1013,
    }


@pytest.mark.parametrize(
    "dots", ["..", ".", "%2e%2E", "%252e.", "a/../b", "a%2F..%2Fb", "a%252F..%252fb", "a\\b", "a%5Cb"]
)
def test_an_id_never_names_another_resource(dots: str) -> None:
    with pytest.raises(InvalidRequest):
        check_task_id(dots)
    with pytest.raises(InvalidRequest):
        TaskKey.parse(f"qingbo/{dots}")


@pytest.mark.parametrize("fine", ["...", "a..b", ".a", "100%", "a%2Fb", "operations/veo 3/abc", "%2e%2e%2e"])
def test_dots_inside_of_a_segment_are_text(fine: str) -> None:
    assert check_task_id(fine) == fine
