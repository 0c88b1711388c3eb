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
from bridge.config.settings import Origin, OutputSettings, Settings, UpstreamSettings, WebhookSettings
from bridge.core.suggestion import did_you_mean
from bridge.dialects.registry import preset_names
from bridge.errors import ConfigError

PREFIX = "BRIDGE_"
NESTED = "__"
CLIENT_VARIABLES = frozenset({"BRIDGE_URL", "BRIDGE_TOKEN", "BRIDGE_CONFIG", "BRIDGE_CA_FILE"})
FILE = Path("bridge.toml")
# Of pydantic's types of errors, those whose message names Python's types instead of those of the file.
_TABLES_BY_NAME = ("upstreams", "webhooks")
_TYPE_SENTENCES = {
    "dict_type": "must be a table",
    "model_type": "must be a table, such as [upstreams.fal]",
    "model_attributes_type": "must be a table, such as [upstreams.fal]",
    "list_type": 'must be a list, such as ["a", "b"]',
    "tuple_type": 'must be a list, such as ["a", "b"]',
    "set_type": 'must be a list, such as ["a", "b"]',
    "frozen_set_type": 'must be a list, such as ["a", "b"]',
    "string_type": "must be a text in quotes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
}


def load(
    path: Path | None,
    *,
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Settings:
    """Read and check all settings.

    Args:
        path: The TOML file; None to use the environment alone.
        text: What the file contained; None to read it now.
        environment: Variables to use instead of the process's own.
        overrides: Settings of the command line, over everything else; None leaves a setting alone.

    Raises:
        ConfigError: With every error found; a file that cannot be read or is not TOML is reported alone.
    """
    variables = dict(os.environ if environment is None else environment)
    text, document = _document(path, text)
    errors = _unknown_variables(variables)
    names = RenamedSettings()
    config: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, layer in (
        ("file", document),
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
        errors += [names.as_written(_sentence(detail, document)) for detail in error.errors()]
        raise ConfigError(_causes(errors), warnings) from None
    if errors:
        raise ConfigError(errors, warnings)
    return settings


def _causes(errors: list[str]) -> list[str]:
    """The errors without the one that no provider is configured, if another one says why."""
    causes = [error for error in errors if not error.startswith("upstreams: configure")]
    misplaced = any("upstreams" in error.lower() for error in causes)
    return causes if misplaced else errors


def in_working_directory() -> Path | None:
    """The file that is read if none is named: `bridge.toml` in the working directory; None without one."""
    try:
        # a directory of that name too: reading it says what is wrong
        return FILE if FILE.exists() else None
    except OSError:  # a directory that may not be searched
        return None


class _Variables(Settings, BaseSettings):
    """How the fields of `Settings` are called in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTED, extra="forbid", frozen=True, case_sensitive=False
    )


def _is_readable(source: EnvSettingsSource, variables: dict[str, str | None]) -> bool:
    source.env_vars = variables
    try:
        source()
    except SettingsError:
        return False
    return True


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
            # names the setting, not the variable inside of its table; and it quotes the value, which may be a
            # secret, and is not shown.
            field = str(error).partition('"')[2].partition('"')[0]
            name = f"{PREFIX}{field}".lower()
            inside = sorted(key for key in usable if key.startswith(name))
            wrong = [key for key in inside if not _is_readable(source, {key: usable[key]})] or inside
            needed = 'is a list or a table and must be JSON, for example ["a", "b"]'
            errors += [f"{key.upper()}: {needed}" for key in wrong]
            source.env_vars = usable = {key: usable[key] for key in usable if key not in wrong}
    for tables in _TABLES_BY_NAME:
        if isinstance(config.get(tables), dict):
            # Shells allow no hyphen in the name of a variable.
            config[tables] = {name.replace("_", "-"): value for name, value in config[tables].items()}
    return config | {name: value for name, value in old.items() if value is not None}


def _names(config: dict[str, Any]) -> list[str]:
    """Every setting in a layer: `port`, `outputs.store`, `upstreams.NAME.api_key`, ..."""
    names = [name for name in config if name not in (*_TABLES_BY_NAME, "outputs")]
    outputs = config.get("outputs")
    names += [f"outputs.{setting}" for setting in outputs] if isinstance(outputs, dict) else []
    for tables in _TABLES_BY_NAME:
        named = config.get(tables)
        for name, table in named.items() if isinstance(named, dict) else ():
            names += [f"{tables}.{name}.{setting}" for setting in table] if isinstance(table, dict) else []
    return names


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _document(path: Path | None, text: str | None) -> tuple[str, dict[str, Any]]:
    """The text of the file and its content.

    Raises:
        ConfigError: The file cannot be read, or is not TOML. What its settings are is unknown then: checks of
            them would only report what follows from that.
    """
    if path is None:
        return "", {}
    try:
        text = path.read_text(encoding="utf-8") if text is None else text
        return text, tomllib.loads(text)
    except OSError as error:
        message = error.strerror or str(error)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
    except UnicodeDecodeError:
        message = "not UTF-8 text"
    except ValueError as error:  # a path with a null byte
        message = str(error)
    except RecursionError:
        message = "nested too deeply"
    raise ConfigError([f"{path}: {message}"], unreadable=True)


def _unknown_variables(variables: Mapping[str, str]) -> list[str]:
    known = {name.upper() for name in (*Settings.model_fields, *renamed.SETTINGS)}
    unknown = []
    for name in sorted(variables):
        if not name.upper().startswith(PREFIX) or name.upper() in CLIENT_VARIABLES:
            continue
        setting = name.upper().removeprefix(PREFIX).split(NESTED)[0]
        if setting not in known:
            # Compared without the prefix: it makes all names similar.
            names_known = {known_name.removeprefix(PREFIX) for known_name in CLIENT_VARIABLES} | known
            advice = did_you_mean(setting, names_known, prefix=PREFIX)
            if setting.lower() in OutputSettings.model_fields:
                advice = f"; did you mean {PREFIX}OUTPUTS{NESTED}{setting}?"
            if setting.lower() in UpstreamSettings.model_fields:
                advice = f"; it is a setting of an upstream: {PREFIX}UPSTREAMS{NESTED}NAME{NESTED}{setting}"
            unknown.append(f"{name}: no such setting{advice}")
    return unknown


def _sentence(error: Any, document: Mapping[str, Any]) -> str:
    path = tuple(str(part) for part in error["loc"])
    place = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"{place}: no such setting{_advice(path, document)}"
    message = _TYPE_SENTENCES.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _advice(path: tuple[str, ...], document: Mapping[str, Any]) -> str:
    """What was probably meant by a setting that does not exist."""
    name = path[-1]
    if path[0] == "upstreams":
        if name in Settings.model_fields:
            return "; it is a setting of the bridge: move it above the first table"
        return did_you_mean(name, UpstreamSettings.model_fields)
    if path[0] in ("outputs", "webhooks"):
        model = OutputSettings if path[0] == "outputs" else WebhookSettings
        return did_you_mean(name, model.model_fields)
    if name in UpstreamSettings.model_fields:
        return "; it is a setting of an upstream: move it below [upstreams.NAME]"
    if isinstance(document.get(name), dict) and name in preset_names():
        return f"; did you mean [upstreams.{name}]?"
    return did_you_mean(name, Settings.model_fields)
