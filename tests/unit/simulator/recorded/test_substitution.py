from datetime import UTC
from functools import partial

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.simulator.recorded.substitution import Substitution, file_name
from bridge.simulator.recorded.times import TaskTimes, retimed

MOMENTS = TaskTimes(created=1.72e9, started=1.72e9, changed=1.72e9, ended=1.72e9)
KEYS = st.sampled_from(["id", "created_at", "endTime", "url", "x"])
TEXTS = st.text(max_size=8) | st.sampled_from(
    ["rec-1234567", "https://[", "https://cdn.example/%zz.png", "2020-99-99T99:99:99Z", "{", "[1]", "9" * 30]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
JSON = st.recursive(LEAVES, lambda below: st.lists(below) | st.dictionaries(KEYS, below), max_leaves=10)


def substitution(**more):
    made = {
        "own": {"rec-1234567": "new-7654321"},
        "base_url": "https://api.acme.example/v2",
        "here": "http://sim/acme",
        "files": "http://sim/files/new-7654321",
        "is_call": lambda path: path.startswith("/jobs/"),
    }
    return Substitution(**made | more)


@pytest.mark.parametrize(
    ("recorded", "now"),
    [
        ("rec-1234567", "new-7654321"),
        ("job rec-1234567 is queued", "job new-7654321 is queued"),
        ("xrec-1234567", "xrec-1234567"),
        ("rec-12345678", "rec-12345678"),
        ("https://api.acme.example/v2/jobs/rec-1234567?a=1", "http://sim/acme/jobs/new-7654321?a=1"),
        ("https://acme.example/show/rec-1234567", "http://sim/acme/show/new-7654321"),
        ("https://cdn.example/rec-1234567/out.MP4?sig=x", "http://sim/files/new-7654321-1.mp4"),
        ("https://api.acme.example/v2/blobs/1.png", "http://sim/files/new-7654321-1.png"),
        ("https://cdn.example/what", "http://sim/files/new-7654321-1.bin"),
        ("see https://docs.example/errors", "see https://docs.example/errors"),
        (None, None),
        (1, 1),
        (1.5, 1.5),
        (True, True),
    ],
)
def test_the_recorded_task_gives_way_to_the_new_one(recorded, now):
    assert substitution().fill({"at": [recorded]}) == {"at": [now]}


def test_a_number_that_is_the_id_stays_a_number():
    filled = substitution(own={"176": "812"}).fill({"a": 176, "b": "176", "c": 1760})
    assert filled == {"a": 812, "b": "812", "c": 1760}


def test_a_short_id_is_replaced_only_where_it_stands_alone_and_in_links():
    filled = substitution(own={"1": "900000001"}).fill(
        ["1", "1 of 1", "https://api.acme.example/v2/jobs/1", "v1"]
    )
    assert filled == ["900000001", "1 of 1", "http://sim/acme/jobs/900000001", "v1"]


def test_json_in_a_text_is_filled_too():
    inside = orjson.dumps({"urls": ["https://cdn.example/a.png"], "id": "rec-1234567"}).decode()
    filled = substitution().fill({"result": inside})
    assert orjson.loads(filled["result"]) == {
        "urls": ["http://sim/files/new-7654321-1.png"],
        "id": "new-7654321",
    }


def test_each_result_has_a_link_of_its_own_and_the_same_result_the_same():
    first, second = "https://cdn.example/a.png", "https://cdn.example/b.png"
    filled = substitution().fill([first, second, first])
    assert filled[0] != filled[1]
    assert filled[0] == filled[2]


def test_a_link_without_an_ending_gets_that_of_its_type():
    url = "https://cdn.example/a"
    assert substitution(kinds={url: "video"}).fill(url).endswith(".mp4")


def test_two_words_never_replace_each_other():
    swapped = substitution(own={"aaaaaaa": "bbbbbbb", "bbbbbbb": "aaaaaaa"})
    assert swapped.fill("aaaaaaa bbbbbbb") == "bbbbbbb aaaaaaa"


def test_callers_own_addresses_are_left_alone():
    kept = {"webhook": "https://me.example/hook"}
    assert substitution().fill(kept) == kept


def test_the_recording_itself_is_not_changed():
    recorded = {"id": "rec-1234567", "more": ["rec-1234567"]}
    substitution().fill(recorded)
    assert recorded == {"id": "rec-1234567", "more": ["rec-1234567"]}


def test_an_id_with_slashes_names_a_file():
    assert file_name("models/veo/operations/1 2") == "models-veo-operations-1%202"


def outline(tree):
    if isinstance(tree, dict):
        return {key: outline(below) for key, below in tree.items()}
    return [outline(below) for below in tree] if isinstance(tree, list) else None


@given(JSON)
def test_any_body_keeps_its_outline(body):
    filled = substitution(retime=partial(retimed, times=MOMENTS, zone=UTC)).fill(body)
    assert outline(filled) == outline(body)
    assert "rec-1234567" not in str(filled)
