"""Loads dialects: the presets that ship, one TOML file each, and the documents that operators write."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files

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


def load_dialect(name: str, preset: object, document: object) -> Dialect:
    """The dialect of an upstream: its preset, the preset of its own name, or the operator's document.

    Raises:
        ConfigError: No such preset, or errors in the document.
    """
    if preset == CUSTOM:
        return load_document(document if isinstance(document, dict) else {}, name)
    return load_preset(str(preset or name))


def load_preset(name: str) -> Dialect:
    """A dialect that ships with the program.

    Raises:
        ConfigError: No preset has this name.
    """
    if name not in preset_names():
        raise ConfigError([f"no dialect {name[:80]!r}; choose one of: {', '.join(preset_names())}"])
    return load_text(_PRESETS.joinpath(f"{name}.toml").read_text("utf-8"), name)


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
