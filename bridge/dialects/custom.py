"""A dialect the operator wrote: in the configuration itself, or in a file beside it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from bridge.dialects.document import Keys, Mistake
from bridge.dialects.lines import Lines
from bridge.dialects.registry import mistakes_in


def read_file(path: Path, mistakes: list[str]) -> dict[str, object] | None:
    """The document in a file; what is wrong with it is added to `mistakes`, each with its line."""
    try:
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{path}: not TOML: {error}")
        return None
    except OSError as error:
        mistakes.append(f"{path}: {error.strerror}")
        return None
    except UnicodeDecodeError:
        mistakes.append(f"{path}: not UTF-8 text")
        return None
    except ValueError:
        mistakes.append(f"{str(path)!r} is no path")
        return None
    except RecursionError:
        mistakes.append(f"{path}: nested too deep")
        return None
    mistakes += located(mistakes_in(document), str(path), text)
    return document


def check_table(document: Mapping[str, object], at: Keys, file: str, text: str) -> list[str]:
    """What is wrong with a document that stands inside a larger one.

    Args:
        at: The keys down to it.
        file: Name of the file the larger one came from; empty for none.
        text: Of that file.
    """
    found = [Mistake((*at, *mistake.keys), mistake.what) for mistake in mistakes_in(document)]
    return located(found, file, text) if file else [str(mistake) for mistake in found]


def located(mistakes: list[Mistake], file: str, text: str) -> list[str]:
    """The mistakes as `file:line: place: what`, in the order of the lines."""
    if not mistakes:
        return []
    lines = Lines(text)
    told = [(lines.of(mistake.keys) or 1, mistake) for mistake in mistakes]
    told.sort(key=lambda one: one[0])
    return [f"{file}:{line}: {mistake}" for line, mistake in told]
