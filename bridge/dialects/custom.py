"""Checks a dialect that the operator wrote, in the configuration or in its own file, with line numbers."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from bridge.dialects.lines import Keys, Lines
from bridge.dialects.rules import compile_document
from bridge.dialects.schema import DocumentError


def read_file(path: Path, errors: list[str]) -> dict[str, object] | None:
    """The document in a file; its errors are appended to `errors`, each with its line."""
    try:
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        errors.append(f"{path}: not TOML: {error}")
        return None
    except OSError as error:
        errors.append(f"{path}: {error.strerror}")
        return None
    except UnicodeDecodeError:
        errors.append(f"{path}: not UTF-8 text")
        return None
    except ValueError:
        errors.append(f"{str(path)!r} is not a path")
        return None
    except RecursionError:
        errors.append(f"{path}: nested too deep")
        return None
    _, found = compile_document(document)
    errors += _with_lines(found, str(path), text)
    return document


def check_table(document: Mapping[str, object], at: Keys, file: str, text: str) -> list[str]:
    """The errors of a document inside a larger one.

    Args:
        at: The keys down to it.
        file: Name of the file the larger one came from; empty for none.
        text: The content of that file.
    """
    _, found = compile_document(document)
    errors = [DocumentError((*at, *error.keys), error.message) for error in found]
    return _with_lines(errors, file, text) if file else [str(error) for error in errors]


def _with_lines(errors: list[DocumentError], file: str, text: str) -> list[str]:
    """The errors as `file:line: place: message`, in the order of the lines."""
    if not errors:
        return []  # finding the lines parses the text once more, line by line
    lines = Lines(text)
    located = sorted(((lines.of(error.keys) or 1, error) for error in errors), key=lambda pair: pair[0])
    return [f"{file}:{line}: {error}" for line, error in located]
