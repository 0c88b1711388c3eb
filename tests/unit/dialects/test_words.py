import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.task import Status
from bridge.dialects.base import HttpResponse
from bridge.dialects.registry import load_preset
from bridge.dialects.words import COMMON_WORDS, WordMap, fold, spell


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


def test_common_words_stand_behind_the_own_ones_and_only_where_asked_for():
    own = {"done": Status.PROCESSING}
    asked, plain = WordMap(own, common=True), WordMap(own)
    assert asked.get("Done") is Status.PROCESSING
    for spelled in ("InProgress", "IN_PROGRESS", "in-progress", " in progress "):
        assert (asked.get(spelled), plain.get(spelled)) == (Status.PROCESSING, None)
    for status, words in COMMON_WORDS.items():
        assert {asked.get(word.upper()) for word in words if word != "done"} == {status}
    assert asked.get("ready") is None
    assert asked.words == plain.words


@pytest.mark.parametrize(
    ("word", "status"), [("succeeded", "completed"), ("EXPIRED", "failed"), ("canceled", "cancelled")]
)
def test_a_gateways_words_are_read(word, status):
    answer = HttpResponse(200, {}, b'{"id":"v","status":"%b"}' % word.encode())
    assert load_preset("openai-videos").read_status(answer).observation.status == status
