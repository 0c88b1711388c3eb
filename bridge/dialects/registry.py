"""The providers this program knows: one TOML file each, and whatever document an operator brings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files

from bridge.core.task import UPSTREAM_NAME
from bridge.dialects.compile import compile_document
from bridge.dialects.document import Mistake
from bridge.dialects.mapping import MappedDialect
from bridge.errors import ConfigError

CUSTOM = "custom"

_PRESETS = files("bridge.dialects").joinpath("presets")


def preset_names() -> list[str]:
    """The names of the presets that ship with the program."""
    return sorted(
        file.name.removesuffix(".toml") for file in _PRESETS.iterdir() if file.name.endswith(".toml")
    )


def load_dialect(name: str, preset: object, document: object) -> MappedDialect:
    """The dialect of an upstream: its preset, the one of its own name, or the operator's own document.

    Raises:
        ConfigError: There is no such preset, or the document has mistakes.
    """
    if preset == CUSTOM:
        return load_document(document if isinstance(document, dict) else {}, name)
    return load_preset(str(preset or name))


def load_preset(name: str) -> MappedDialect:
    """A dialect that ships with the program.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in preset_names():
        raise ConfigError([f"no dialect {name[:80]!r}; there are {', '.join(preset_names())}"])
    return load_text(_PRESETS.joinpath(f"{name}.toml").read_text("utf-8"), name)


def load_text(text: str, name: str) -> MappedDialect:
    """A dialect from TOML text.

    Raises:
        ConfigError: It is no TOML, or the document has mistakes.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"dialect {name}: not TOML: {error}"]) from error
    return load_document(document, name)


def mistakes_in(document: Mapping[str, object]) -> list[Mistake]:
    """Everything that is wrong with a document, each mistake once, in the order it was met."""
    found: list[Mistake] = []
    compile_document(document, found)
    return list(dict.fromkeys(found))


def load_document(document: Mapping[str, object], name: str) -> MappedDialect:
    """A dialect from a document.

    Raises:
        ConfigError: The document has mistakes; all of them are told.
    """
    mistakes = [] if UPSTREAM_NAME.fullmatch(name) else [f"{name[:80]!r} cannot name a dialect"]
    found: list[Mistake] = []
    rules = compile_document(document, found)
    mistakes += [str(mistake) for mistake in dict.fromkeys(found)]
    if mistakes:
        raise ConfigError([f"dialect {name}: {mistake}" for mistake in mistakes])
    return MappedDialect(name, rules)
