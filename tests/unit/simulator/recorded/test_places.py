import pytest

from bridge.simulator.recorded.places import find, plain_places, put


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("data.task_id", ("data.task_id",)),
        (["a", "b.c[0]", "d"], ("a", "d")),
        ("data.state && data.progress", ("data.progress",)),
        ("(a || b) && c[?d]", ()),
        (None, ()),
        (7, ()),
    ],
)
def test_only_plain_places_are_kept(raw, plain):
    assert plain_places(raw) == plain


def test_a_value_is_found_at_the_first_place_that_has_one():
    assert find({"a": {"b": None}, "c": 0}, ("a.b", "a.b.c", "c")) == 0
    assert find([], ("a",)) is None


def test_a_value_is_put_only_where_there_was_one():
    document = {"a": {"b": 1}}
    put(document, ("x.y", "a.c", "a.b"), 2)
    put(document, ("new",), 3)
    assert document == {"a": {"b": 2}}
