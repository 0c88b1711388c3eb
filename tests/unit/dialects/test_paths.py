import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.dialects.paths import Field, compile_path, holds
from bridge.dialects.values import identifier, number, word

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_a_plain_path_finds_what_jmespath_finds(document):
    for path in ("a", "a.b", "a.b.c"):
        quoted = ".".join(f'"{key}"' for key in path.split("."))
        assert compile_path(path)(document) == compile_path(quoted)(document)


@given(JSON)
def test_an_expression_never_raises(document):
    for path in (
        "a[].b",
        "a.b[0] || c",
        "length(a)",
        "sort(a)",
        "join('', a)",
        "abs(a)",
        "to_number(a)",
        "a == b",
    ):
        compile_path(path)(document)


def test_the_first_path_of_the_right_type_wins():
    field = Field((compile_path("data.status"), compile_path("status")), word)
    assert field.read({"data": {"status": {}}, "status": "ok"}) == "ok"
    assert field.read({"data": "x"}) is None


def test_what_is_no_jmespath_says_so():
    with pytest.raises(ValueError, match="a"):
        compile_path("a..b")


def test_emptiness_does_not_hold_but_zero_does():
    assert [holds(value) for value in (None, False, "", [], {}, 0, "x", [0])] == [False] * 5 + [True] * 3


def test_numbers_are_finite_and_of_sensible_size():
    given_values = [
        1,
        1.5,
        "35",
        " 2 ",
        True,
        None,
        float("nan"),
        float("inf"),
        1e300,
        "1e5",
        "nan",
        "1_0",
        [1],
    ]
    assert [number(value) for value in given_values] == [1, 1.5, 35, 2, *[None] * 9]


def test_ids_are_text_whatever_they_were():
    assert identifier(314053136425242999) == "314053136425242999"
    assert [identifier(value) for value in (True, 1.5, "", "a\nb", "x" * 1025, None)] == [None] * 6
