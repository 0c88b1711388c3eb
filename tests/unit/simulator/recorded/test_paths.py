import pytest

from bridge.simulator.recorded.paths import find, plain_paths, replace


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
    assert plain_paths(raw) == plain


def test_a_value_is_found_at_the_first_place_that_has_one():
    assert find({"a": {"b": None}, "c": 0}, ("a.b", "a.b.c", "c")) == 0
    assert find([], ("a",)) is None


def test_a_value_is_put_only_where_there_was_one():
    document = {"a": {"b": 1}}
    replace(document, ("x.y", "a.c", "a.b"), 2)
    replace(document, ("new",), 3)
    assert document == {"a": {"b": 2}}
