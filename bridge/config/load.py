"""Reads the settings: one TOML file, `BRIDGE_` environment variables over it, arguments over both."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from bridge.config import renamed
from bridge.config.renamed import RenamedSettings
from bridge.config.settings import Origin, Settings
from bridge.errors import ConfigError

PREFIX = "BRIDGE_"
NESTED = "__"
CLIENT_VARIABLES = frozenset({"BRIDGE_URL", "BRIDGE_TOKEN", "BRIDGE_CONFIG", "BRIDGE_CA_FILE"})


def load(path: Path | None, *, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read and check all settings.

    Args:
        path: The TOML file; None to use the environment alone.
        environment: Variables to use instead of the process's own.
        overrides: Settings of the command line, over everything else; None leaves a setting alone.

    Raises:
        ConfigError: With every error found.
    """
    variables = dict(os.environ if environment is None else environment)
    errors = _unknown_variables(variables)
    text = _text(path, errors)
    names = RenamedSettings()
    config: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, layer in (
        ("file", _document(path, text, errors)),
        ("environment", _from_environment(variables, errors)),
        ("command line", {name: value for name, value in overrides.items() if value is not None}),
    ):
        current = names.translate(layer)
        config = _merge(config, current)
        sources |= dict.fromkeys(_names(current), source)
    errors += names.errors()
    warnings = tuple(names.warnings())
    origin = Origin(path, text, sources, warnings)
    try:
        settings = Settings.model_validate(config, context=origin)
    except ValidationError as error:
        errors += [names.as_written(_sentence(detail)) for detail in error.errors()]
        raise ConfigError(errors, warnings) from None
    if errors:
        raise ConfigError(errors, warnings)
    return settings


class _Variables(Settings, BaseSettings):
    """How the fields of `Settings` are called in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTED, extra="forbid", frozen=True, case_sensitive=False
    )


def _from_environment(variables: Mapping[str, str], errors: list[str]) -> dict[str, Any]:
    source = EnvSettingsSource(_Variables)
    source.env_vars = usable = {name.lower(): value for name, value in variables.items()}
    # The source reads only fields of `Settings`; renamed ones are passed on as they are.
    old = {name: usable.pop(f"{PREFIX}{name}".lower(), None) for name in renamed.SETTINGS}
    while True:
        try:
            config = source()
            break
        except SettingsError as error:
            # Raised for the first variable that is not JSON: drop that one and read the others. The error
            # quotes the value, which may be a secret, and is not shown.
            field = str(error).partition('"')[2].partition('"')[0]
            name = f"{PREFIX}{field}"
            errors.append(f'{name.upper()}: is a list or a table and must be JSON, for example ["a", "b"]')
            source.env_vars = usable = {
                key: value for key, value in usable.items() if not key.startswith(name.lower())
            }
    if isinstance(config.get("upstreams"), dict):
        # Shells allow no hyphen in the name of a variable.
        config["upstreams"] = {name.replace("_", "-"): value for name, value in config["upstreams"].items()}
    return config | {name: value for name, value in old.items() if value is not None}


def _names(config: dict[str, Any]) -> list[str]:
    """Every setting in a layer: `port`, `upstreams.NAME.api_key`, ..."""
    upstreams = config.get("upstreams")
    names = [name for name in config if name != "upstreams"]
    for upstream, table in upstreams.items() if isinstance(upstreams, dict) else ():
        names += [f"upstreams.{upstream}.{name}" for name in table] if isinstance(table, dict) else []
    return names


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _text(path: Path | None, errors: list[str]) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        errors.append(f"{path}: {error.strerror}")
    except UnicodeDecodeError:
        errors.append(f"{path}: not UTF-8 text")
    return ""


def _document(path: Path | None, text: str, errors: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        errors.append(f"{path}: {error}")
    except RecursionError:
        errors.append(f"{path}: nested too deeply")
    return {}


def _unknown_variables(variables: Mapping[str, str]) -> list[str]:
    known = {name.upper() for name in (*Settings.model_fields, *renamed.SETTINGS)}
    unknown = []
    for name in sorted(variables):
        if not name.upper().startswith(PREFIX) or name.upper() in CLIENT_VARIABLES:
            continue
        if name.upper().removeprefix(PREFIX).split(NESTED)[0] not in known:
            unknown.append(f"{name}: no such setting")
    return unknown


def _sentence(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{place}: no such setting"
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
