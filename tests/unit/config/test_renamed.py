"""The old name of a setting works alone, with a warning, wherever a setting can be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bridge.config import renamed
from bridge.config.load import load
from bridge.config.settings import Settings, UpstreamSettings
from bridge.errors import ConfigError

VALUES: dict[str, Any] = {"admin_host": "::1", "admin_port": 9100, "max_request_head_bytes": 4096}
PLACES = ("file", "environment", "override")
NAMES = [*((old, new, "") for old, new in renamed.SETTINGS.items())] + [
    (old, new, "upstreams.qingbo.") for old, new in renamed.UPSTREAM_SETTINGS.items()
]


def read(tmp_path: Path, written: dict[str, dict[str, Any]], prefix: str) -> Settings:
    """Load with each setting of `written` at its place: file, environment or override."""
    environment = {"BRIDGE_UPSTREAMS__QINGBO__API_KEY": "k"}
    lines = ["[upstreams.qingbo]"] if prefix else []
    lines += [f"{name} = {value!r}" for name, value in written.get("file", {}).items()]
    path = tmp_path / "bridge.toml"
    path.write_text("\n".join(lines))
    for name, value in written.get("environment", {}).items():
        environment[f"BRIDGE_{prefix.replace('.', '__')}{name}".upper()] = str(value)
    above = written.get("override", {})
    overrides = {"upstreams": {"qingbo": above}} if prefix and above else above
    return load(path, environment=environment, **overrides)


def value_of(settings: Settings, name: str, prefix: str) -> Any:
    return getattr(settings.upstreams["qingbo"] if prefix else settings, name)


@pytest.mark.parametrize("place", PLACES)
def test_the_old_name_alone_works_with_one_warning_that_names_the_new_one(tmp_path: Path, place: str) -> None:
    for old, new, prefix in NAMES:
        value = VALUES.get(new, 7.5)
        settings = read(tmp_path, {place: {old: value}}, prefix)
        assert value_of(settings, new, prefix) == value
        (warning,) = settings.warnings
        assert warning.startswith(f"{prefix}{old} was renamed to {prefix}{new};")


def test_the_new_name_works_everywhere_without_a_warning(tmp_path: Path) -> None:
    for place in PLACES:
        for _, new, prefix in NAMES:
            value = VALUES.get(new, 7.5)
            settings = read(tmp_path, {place: {new: value}}, prefix)
            assert value_of(settings, new, prefix) == value
            assert settings.warnings == ()


@pytest.mark.parametrize("first", PLACES)
@pytest.mark.parametrize("second", PLACES)
def test_both_names_together_are_an_error_in_one_place_or_in_two(
    tmp_path: Path, first: str, second: str
) -> None:
    for old, new, prefix in NAMES:
        value = VALUES.get(new, 7.5)
        written: dict[str, dict[str, Any]] = {first: {old: value}}
        written.setdefault(second, {})[new] = value
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, written, prefix)
        assert caught.value.errors == [
            f"{prefix}{old}: is the old name of {prefix}{new}, which is set too; remove {prefix}{old}"
        ]


@pytest.mark.parametrize("place", PLACES)
def test_an_invalid_value_is_reported_under_the_name_that_was_written_with_the_warning(
    tmp_path: Path, place: str
) -> None:
    for old, new, prefix in NAMES:
        if new == "admin_host":
            continue  # any text is valid
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, {place: {old: "bad"}}, prefix)
        (error,) = caught.value.errors
        assert error.startswith(f"{prefix}{old}: ")
        (warning,) = caught.value.warnings
        assert warning.startswith(f"{prefix}{old} was renamed to {prefix}{new};")
        assert str(caught.value).endswith(f"  - {error}\nwarning: {warning}")


def test_an_error_across_settings_is_reported_under_the_name_that_was_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, {"file": {"port": 9100}, "environment": {"ops_port": 9100}}, "")
    assert "ops_port: 9100 is also the value of port" in str(caught.value)


def test_an_old_name_is_not_a_field_any_more_and_a_new_name_is_one() -> None:
    for names, model in ((renamed.SETTINGS, Settings), (renamed.UPSTREAM_SETTINGS, UpstreamSettings)):
        fields = set(model.model_fields)
        assert not fields & set(names)
        assert set(names.values()) <= fields
