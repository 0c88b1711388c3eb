"""One range of bytes, asked for and answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.outputs.ranges import asked_range

SIZES = st.integers(0, 10**12)
NUMBERS = st.none() | st.integers(0, 10**12)


def asked(text: str, condition: str | None = None):
    return asked_range({"range": text} | ({"if-range": condition} if condition is not None else {}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=0-1,3-4",
        "lines=0-1",
        "bytes=a-b",
        "bytes=-1-2",
        "0-1",
        "bytes 0-1",
        f"bytes={'9' * 19}-",
        "bytes=\N{ARABIC-INDIC DIGIT THREE}-",
        "bytes=0-1\r\nx: y",
    ],
)
def test_what_is_not_one_range_is_none(text):
    assert asked(text) is None


@pytest.mark.parametrize("text", ["bytes=0-", "Bytes=0-", " bytes=0-", "bytes= 0-"])
def test_how_it_is_written_does_not_matter(text):
    assert str(asked(text)) == "bytes=0-"


@pytest.mark.parametrize(
    ("condition", "counts"),
    [
        ('"abc"', True),
        ("Mon, 30 Nov 2026 09:00:00 GMT", True),
        ('W/"abc"', False),
        ("abc", False),
        ('"a"b"', False),
        ('"a\nb"', False),
    ],
)
def test_a_range_under_a_condition_that_vouches_for_no_byte_is_none(condition, counts):
    assert (asked("bytes=0-1", condition) is not None) is counts


@given(NUMBERS, NUMBERS, SIZES)
def test_what_a_range_is_of_a_file_answers_it(first, last, size):
    text = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    wanted = asked(text)
    if wanted is None:
        assert (first is None and last is None) or (first is not None and last is not None and last < first)
        return
    assert str(wanted) == text
    span = wanted.of(size)
    if span is None:
        assert size == 0 or last == 0 or (first is not None and first >= size)
        return
    assert 0 <= span[0] <= span[1] < size
    assert wanted.is_answered_by(*span, size)
    assert wanted.is_answered_by(*span, None)
    # and nothing before it, nor beyond the file
    assert span[0] == 0 or not wanted.is_answered_by(span[0] - 1, span[1], size)
    assert not wanted.is_answered_by(span[0], size, size)
