import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.task import Status
from bridge.dialects.words import WordMap, fold, spell


@pytest.mark.parametrize("word", ["IN_PROGRESS", "in-progress", "In Progress", " in_progress "])
def test_case_hyphens_and_spaces_do_not_count(word):
    assert WordMap({"in_progress": Status.PROCESSING}).get(word) is Status.PROCESSING


def test_an_unknown_word_is_not_guessed():
    words = WordMap({"completed": Status.COMPLETED})
    assert words.get("complete") is None
    assert words.get("") is None


@given(st.text())
def test_folding_twice_changes_nothing_more(word):
    assert fold(fold(word)) == fold(word)


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_folding_does_not_hear_case(word):
    assert fold(word.upper()) == fold(word.lower())


def test_codes_and_truth_values_are_spelled_out():
    assert [spell(value) for value in (1, True, False, " x ", "", 1.5, None)] == [
        "1",
        "true",
        "false",
        "x",
        None,
        None,
        None,
    ]
