from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.dialects.times import moment, zone_named

MOMENT = 1720000000
FIRST, LAST = (datetime.fromisoformat(day) for day in ("1973-03-04", "5000-01-01"))


@pytest.mark.parametrize(
    "written",
    [
        MOMENT,
        MOMENT * 1000,
        float(MOMENT),
        str(MOMENT),
        str(MOMENT * 1000),
        "2024-07-03T09:46:40Z",
        "2024-07-03T11:46:40+02:00",
        "2024-07-03 09:46:40.000",
    ],
)
def test_one_moment_many_ways(written):
    assert moment(written) == MOMENT


def test_a_zoneless_text_is_read_in_the_configured_zone():
    assert moment("2023-12-20 21:36:31.896", zone_named("+08:00")) == moment("2023-12-20T13:36:31.896Z")


@pytest.mark.parametrize(
    "nothing",
    [
        0,
        "0",
        "",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00",
        -5,
        True,
        None,
        [],
        {},
        1e14,
        1e300,
        "soon",
        float("inf"),
    ],
)
def test_zero_times_and_what_is_no_time_are_ignored(nothing):
    assert moment(nothing) is None


@given(st.datetimes(min_value=FIRST, max_value=LAST, timezones=st.just(UTC)))
def test_seconds_and_milliseconds_of_one_moment_agree(when):
    seconds = int(when.timestamp())
    assert moment(seconds) == moment(seconds * 1000) == seconds


@given(st.text() | st.floats() | st.integers())
def test_anything_is_a_positive_moment_or_none(value):
    found = moment(value)
    assert found is None or found > 0


@pytest.mark.parametrize("name", ["Europe/Berlin", "+8", "+25:00", ""])
def test_a_zone_is_utc_or_an_offset(name):
    with pytest.raises(ValueError, match="neither UTC nor"):
        zone_named(name)
