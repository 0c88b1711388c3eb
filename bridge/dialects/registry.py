"""Loads dialects: the presets that ship, one TOML file each, and the documents that operators write."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from bridge.core.task import UPSTREAM_NAME
from bridge.dialects.dialect import Dialect
from bridge.dialects.rules import compile_document
from bridge.errors import ConfigError

CUSTOM = "custom"

_PRESETS = files("bridge.dialects").joinpath("presets")


def preset_names() -> list[str]:
    """The names of the presets that ship, sorted."""
    return sorted(
        file.name.removesuffix(".toml") for file in _PRESETS.iterdir() if file.name.endswith(".toml")
    )


def load_dialect(name: str, preset: object, document: object, follow_up_path: str | None = None) -> Dialect:
    """The dialect of an upstream: its preset, the preset of its own name, or the operator's document.

    Args:
        follow_up_path: Replaces the path of the call for the result.

    Raises:
        ConfigError: No such preset, or errors in the document.
    """
    if preset == CUSTOM:
        own = document if isinstance(document, dict) else {}
    else:
        name = str(preset or name)
        own = tomllib.loads(_preset(name))
    return load_document(own if follow_up_path is None else _following(own, follow_up_path, name), name)


def _following(document: Mapping[str, Any], path: str, name: str) -> Mapping[str, Any]:
    calls = document.get("calls")
    call = calls.get("follow_up") if isinstance(calls, dict) else None
    if not isinstance(calls, dict) or not isinstance(call, dict):
        raise ConfigError([f"dialect {name}: it has no follow_up call, whose path could be replaced"])
    return {**document, "calls": {**calls, "follow_up": {**call, "path": path}}}


def load_preset(name: str) -> Dialect:
    """A dialect that ships with the program.

    Raises:
        ConfigError: No preset has this name.
    """
    return load_text(_preset(name), name)


def _preset(name: str) -> str:
    if name not in preset_names():
        raise ConfigError([f"no dialect {name[:80]!r}; choose one of: {', '.join(preset_names())}"])
    return _PRESETS.joinpath(f"{name}.toml").read_text("utf-8")


def load_text(text: str, name: str) -> Dialect:
    """A dialect from TOML text.

    Raises:
        ConfigError: The text is not TOML, or the document has errors.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"dialect {name}: not TOML: {error}"]) from error
    return load_document(document, name)


def load_document(document: Mapping[str, object], name: str) -> Dialect:
    """A dialect from a parsed document.

    Raises:
        ConfigError: All errors in the document.
    """
    rules, found = compile_document(document)
    errors = [] if UPSTREAM_NAME.fullmatch(name) else [f"{name[:80]!r} cannot name a dialect"]
    errors += [str(error) for error in found]
    if errors or rules is None:
        raise ConfigError([f"dialect {name}: {error}" for error in errors])
    return Dialect(name, rules)
