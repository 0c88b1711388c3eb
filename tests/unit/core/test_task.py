"""Keys, refs and words."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.event import Closing
from bridge.core.task import Status, TaskKey, check_task_id, climbs
from bridge.errors import InvalidRequest

names = st.from_regex(re.compile(r"[a-z][a-z0-9-]{0,31}"), fullmatch=True)
ids = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256).filter(
    lambda text: not climbs(text) and text.replace("/", "").strip()
)


@given(names, ids.filter(lambda text: not re.search(r"%[0-9A-Fa-f]{2}", text)))
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


@pytest.mark.parametrize(
    "odd",
    [
        *(
            "..;x",
            "a/..;/b",
            "a/ ../b",
            "\uff0e\uff0e",
            "a\uff0f..\uff0fb",
            "a\uff3cb",
            "\u2025",
            "%ef%bc%8e.",
        ),
        *(
            "%c0%ae.",
            "a/%C0%AE%c0%ae/b",
            "a%c0%af..%c0%afb",
            "a%c1%9cb",
            "%u002e%u002e",
            "a%u005cb",
            "%uff0e.",
        ),
        *("/", "//", "%2F", " ", "/ /", "%20%2F"),
    ],
)
def test_what_some_servers_read_as_another_resource_is_refused(odd: str) -> None:
    with pytest.raises(InvalidRequest):
        check_task_id(odd)


@pytest.mark.parametrize(
    "fine", ["...", "a..b", ".a", "100%", "50%25", "operations/veo 3/abc", "a;b", ".;a", "%ff", "a//b"]
)
def test_dots_inside_of_a_segment_are_text(fine: str) -> None:
    assert check_task_id(fine).lower() == fine


@pytest.mark.parametrize("task_id", ["models/ü x", "a:b", "100%", "50%25", "%FF"])
def test_ids_that_differ_only_in_percent_encoding_are_one(task_id: str) -> None:
    each = "".join(f"%{byte:02x}" for byte in task_id.encode()).replace("%25", "%")
    for form in (task_id, quote(task_id, safe="%"), each):
        assert check_task_id(form) == task_id


def test_an_id_that_is_percent_encoded_again_and_again_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="too often"):
        check_task_id("%%%36%331"[:2] + "%%%333%31"[1:] + "%%%%36%3136%331" * 4)


@given(st.text("%0123456789abcdefABCDEF./\\;é\uff0e", min_size=1))
def test_the_canonical_form_is_its_own_and_never_climbs(text: str) -> None:
    try:
        canonical = check_task_id(text)
    except InvalidRequest:
        return
    assert check_task_id(canonical) == canonical
    assert not climbs(quote(canonical, safe=""))
