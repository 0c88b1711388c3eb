from datetime import UTC, timedelta, timezone

import pytest

from bridge.simulator.recorded.times import TaskTimes, retimed, zone_of

CREATED = 1_720_000_000.0  # 2024-07-03T09:46:40Z
MOMENTS = TaskTimes(created=CREATED, started=CREATED + 10, changed=CREATED + 20.5, ended=CREATED + 30)


@pytest.mark.parametrize(
    ("key", "recorded", "now"),
    [
        ("created_at", 1700000000, 1720000000),
        ("createTime", 1700000000123, 1720000000000),
        ("createTime", "1700000000123", "1720000000000"),
        ("started_at", "2023-01-02T03:04:05Z", "2024-07-03T09:46:50Z"),
        ("updated_at", "2023-01-02T03:04:05.678Z", "2024-07-03T09:47:00.500Z"),
        ("completedAt", "2023-01-02T03:04:05+08:00", "2024-07-03T17:47:10+08:00"),
        ("end_time", "2023-12-20 21:36:31.896", "2024-07-03 17:47:10.000"),
        ("expires_at", 1700000000, 1720086430),
    ],
)
def test_a_time_becomes_the_tasks_own_in_the_form_it_had(key, recorded, now):
    assert retimed(key, recorded, MOMENTS, timezone(timedelta(hours=8))) == now


@pytest.mark.parametrize(
    ("key", "recorded"),
    [
        ("started_at", "0001-01-01T00:00:00Z"),
        ("created_at", 0),
        ("created_at", None),
        ("created_at", True),
        ("created_by", "somebody"),
        ("execution_time", 4.2),
        ("seed", 1700000000),
        ("width", 1024),
    ],
)
def test_what_is_no_time_stays_as_it_is(key, recorded):
    assert retimed(key, recorded, MOMENTS, UTC) is recorded


def test_a_zone_is_read():
    assert zone_of("+08:00").utcoffset(None) == timedelta(hours=8)
    assert zone_of("-0330").utcoffset(None) == timedelta(hours=-3, minutes=-30)
    assert zone_of("UTC") is UTC
