"""What `check-config` shows: values in use and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry

from bridge.app.bridge import make_upstream
from bridge.config.effective import effective, learned_sentence, table
from bridge.config.load import load
from bridge.config.settings import OutputSettings, Settings, UpstreamSettings
from bridge.errors import ConfigError
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.tracing import NO_TRACING
from tests.fakes.clock import FakeClock

MAPPING = """
base_url = "https://acme.example"
[poll]
min_seconds = 4
max_seconds = 8
deadline_seconds = 1800
[calls.status]
path = "/{task_id}"
[status]
at = "s"
"""


def shown(settings: Settings, name: str) -> tuple[Any, str]:
    return tuple(effective(settings)[name])


def test_every_setting_is_shown_once_and_fits_into_json() -> None:
    settings = load(None, environment={}, upstreams={"qingbo": {"api_key": "a-key-to-hide"}, "vapi": {}})
    rows = effective(settings)
    names = [name for name in Settings.model_fields if name not in {"outputs", "upstreams", "webhooks"}]
    names += [f"outputs.{setting}" for setting in OutputSettings.model_fields]
    for upstream in ("qingbo", "vapi"):
        names += [f"upstreams.{upstream}.{setting}" for setting in UpstreamSettings.model_fields]
    assert list(rows) == names
    assert orjson.loads(orjson.dumps({name: row.value for name, row in rows.items()}))["host"] == "127.0.0.1"
    assert [line.split()[0] for line in table(rows).splitlines()] == ["SETTING", *names]
    assert "a-key-to-hide" not in table(rows)


def test_the_admin_listener_is_shown_where_it_is() -> None:
    token = {"auth": "token", "token_issuer": "me", "token_secrets": ["s" * 32]}
    settings = load(None, environment={}, upstreams={"qingbo": {}}, port=9000, **token)
    assert shown(settings, "admin_host") == ("127.0.0.1", "default")
    assert shown(settings, "admin_port") == (9001, "default")
    assert shown(settings, "token_secrets") == (["***"], "command line")
    settings = load(None, environment={}, upstreams={"qingbo": {}})
    assert shown(settings, "admin_host") == shown(settings, "admin_port") == (None, "default")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("written", "least", "most", "deadline"),
    [
        ({}, (4, "preset"), (8, "preset"), (1800, "preset")),
        ({"poll_max_seconds": 2}, (2, "preset"), (2, "command line"), (1800, "preset")),
        ({"poll_min_seconds": 20}, (20, "command line"), (20, "preset"), (1800, "preset")),
        ({"task_deadline_seconds": 60}, (4, "preset"), (8, "preset"), (60, "command line")),
    ],
)
async def test_an_upstream_runs_with_what_is_shown(
    tmp_path: Path,
    written: dict[str, Any],
    least: tuple[float, str],
    most: tuple[float, str],
    deadline: tuple[float, str],
) -> None:
    (tmp_path / "acme.toml").write_text(MAPPING)
    upstream = {"preset": "custom", "dialect_file": str(tmp_path / "acme.toml"), **written}
    settings = load(None, environment={}, upstreams={"acme": upstream})
    assert shown(settings, "upstreams.acme.poll_min_seconds") == least
    assert shown(settings, "upstreams.acme.poll_max_seconds") == most
    assert shown(settings, "upstreams.acme.task_deadline_seconds") == deadline
    assert shown(settings, "upstreams.acme.base_url") == ("https://acme.example", "preset")
    assert shown(settings, "upstreams.acme.dialect") == ({"base_url": "https://acme.example"}, "command line")
    metrics = Metrics(CollectorRegistry(), ["acme"])
    running = make_upstream("acme", settings.upstreams["acme"], FakeClock(), metrics, NO_TRACING)
    assert (running.pace.min_seconds, running.pace.max_seconds) == (least[0], most[0])
    assert running.deadline_seconds == deadline[0]
    await running.session.close()


def errors_of(**settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(None, environment={}, **settings)
    return caught.value.errors


def test_errors_of_fields_and_of_combinations_are_reported_together() -> None:
    errors = errors_of(
        host="0.0.0.0",
        linger_seconds=-1,
        token_issuer="me",
        upstreams={
            "qingbo": {"poll_min_seconds": 5, "poll_max_seconds": 1, "speed": 3},
            "vapi": {"base_url": "ftp://x"},
            "Odd_Name": {"preset": "vapi"},
        },
    )
    assert [error.partition(": ")[0] for error in errors] == [
        "linger_seconds",
        "upstreams.qingbo.speed",
        "upstreams.vapi.base_url",
        "host",
        "token_issuer",
        "upstreams.qingbo.poll_min_seconds",
        "upstreams.Odd_Name",
    ]


def test_no_error_is_reported_that_only_follows_from_another() -> None:
    qingbo: dict[str, Any] = {"qingbo": {}}
    assert len(errors_of(host="0.0.0.0", auth="tokens", upstreams=qingbo)) == 1
    assert len(errors_of(port=70_000, admin_port=70_000, upstreams=qingbo)) == 2
    assert len(errors_of(auth="token", token_issuer="me", token_secrets=["short"], upstreams=qingbo)) == 1
    assert len(errors_of(upstreams=3)) == 1
    assert len(errors_of(upstreams={"qingbo": 3})) == 1
    assert len(errors_of(upstreams={"own": {"preset": "none-such"}})) == 1
    assert len(errors_of(upstreams={"qingbo": {"poll_min_seconds": 0, "poll_max_seconds": 0}})) == 2


@pytest.mark.parametrize(
    ("wishes", "named"),
    [
        ({"upstreams": {"fal": {}}}, None),
        ({"upstreams": {"fal": {"requests_per_second": 5}}}, "fal"),
        ({"upstreams": {"fal": {}, "vapi": {}}}, "vapi"),
        ({"upstreams": {"vapi": {"enabled": False}}}, None),
        ({"journal": "sqlite:x.db", "upstreams": {"vapi": {}}}, None),
    ],
)
def test_a_journal_in_memory_keeps_nothing_learned(wishes: dict[str, Any], named: str | None) -> None:
    settings = load(None, environment={}, **({"journal": "memory"} | wishes))
    sentence = learned_sentence(settings)
    assert (sentence is None) == (named is None)
    assert f"({named})" in (sentence or "(None)")
