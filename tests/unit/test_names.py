"""A class name means one thing: no name is defined twice in `bridge/`, the simulator included."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]

# `Bridge` is public in both places: the application in `bridge.app`, the client in `bridge.client.bridge`.
ALLOWED = {"Bridge"}


def class_names(source: str) -> list[str]:
    """All classes of a module, nested ones included."""
    return [node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]


def test_no_class_name_exists_twice() -> None:
    modules: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "bridge").rglob("*.py")):
        for name in class_names(path.read_text("utf-8")):
            modules[name].append(str(path.relative_to(ROOT)))
    assert len(modules) > 200
    assert {name: paths for name, paths in modules.items() if len(paths) > 1 and name not in ALLOWED} == {}


def test_every_exception_is_still_needed() -> None:
    modules = [path.read_text("utf-8") for path in (ROOT / "bridge").rglob("*.py")]
    names = [name for source in modules for name in class_names(source)]
    assert [name for name in ALLOWED if names.count(name) < 2] == []


def test_nested_classes_are_found() -> None:
    source = "class A:\n    class B: ...\ndef f():\n    class C: ...\n"
    assert sorted(class_names(source)) == ["A", "B", "C"]
