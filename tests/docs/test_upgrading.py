"""Log events: the pages name those in the code, and every renamed one."""

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.docs.pages import PAGES, ROOT

UPGRADING = PAGES["docs/upgrading.md"]
LOGGING = PAGES["docs/logging.md"]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
MAY_LOG = re.compile(rf"\blog(?:ger|ging)?\b.*\.(?:{'|'.join(LEVELS)}|LogRecord)\(", re.IGNORECASE)
CODE = re.compile(r"`([^`]+)`")


@cache
def parsed() -> tuple[ast.Module, ...]:
    """Every file that may log."""
    sources = (file.read_text("utf-8") for file in sorted((ROOT / "bridge").rglob("*.py")))
    return tuple(ast.parse(source) for source in sources if MAY_LOG.search(source))


def is_log_call(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    if node.func.attr not in LEVELS | {
        "LogRecord"
    }:  # before what takes long: there are some ten thousand calls
        return False
    return bool(re.search(r"\blog(?:ger|ging)?\b", ast.unparse(node.func.value), re.IGNORECASE))


@cache
def events() -> frozenset[str]:
    """Every text of the functions that log, since an event may be chosen before the call."""
    functions = (
        node
        for tree in parsed()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(map(is_log_call, ast.walk(node)))
    )
    return frozenset(
        part.value
        for function in functions
        for part in ast.walk(function)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )


@cache
def logged() -> tuple[str, ...]:
    return tuple(_logged())


def _logged() -> Iterator[str]:
    """The event of each call that logs; each of them if it is chosen before, in the same function."""
    for tree in parsed():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            chosen = {
                node.targets[0].id: node.value
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and is_log_call(call) and call.args:
                    place = 4 if ast.unparse(call.func).endswith("LogRecord") else 0
                    event = call.args[place]
                    yield from texts(chosen.get(event.id) if isinstance(event, ast.Name) else event)


def texts(event: ast.expr | None) -> Iterator[str]:
    """The texts that an expression can be, conditions left out."""
    if isinstance(event, ast.IfExp):
        yield from texts(event.body)
        yield from texts(event.orelse)
    elif isinstance(event, ast.Constant) and isinstance(event.value, str):
        yield event.value


def rows(page: str, header: str) -> list[list[str]]:
    """The cells of the table below `header`."""
    _, _, after = page.partition(f"\n{header}\n")
    assert after, header
    lines = after.split("\n\n", 1)[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


RENAMED = rows(UPGRADING, "| old event | new event |")
FIELDS = rows(UPGRADING, "| event | old field | new field |")


def test_every_new_event_is_logged_by_a_call_in_the_code() -> None:
    new = [cells[1].strip(" `") for cells in RENAMED]
    new += CODE.findall(next(line for line in UPGRADING.splitlines() if line.startswith("New: ")))
    assert len(new) > 30
    known = set(logged())
    assert [event for event in new if event not in known] == []


def test_no_old_event_is_left_in_the_code() -> None:
    old = {cells[0].strip(" `") for cells in RENAMED}
    assert old & events() == set()


def test_the_table_is_sorted() -> None:
    old = [cells[0] for cells in RENAMED]
    assert old == sorted(old)


def test_every_event_of_the_table_of_fields_and_every_new_field_exists() -> None:
    for event, old, new in FIELDS:
        assert set(CODE.findall(event)) <= events(), event
        assert set(CODE.findall(new)) <= events(), event
        assert not set(CODE.findall(old)) or CODE.findall(old) != CODE.findall(new)


def test_the_page_on_logging_names_events_of_the_code_only() -> None:
    named = [
        event
        for cells in rows(LOGGING, "| event | level | when, and its fields |")
        for event in CODE.findall(cells[0])
    ]
    assert len(named) > 10
    assert [event for event in named if event not in events()] == []


@pytest.mark.parametrize(
    "page", ["docs/logging.md", "docs/troubleshooting.md", "docs/operations.md", "docs/security.md"]
)
def test_no_page_names_an_old_event(page: str) -> None:
    old = {cells[0].strip(" `") for cells in RENAMED} - {"collected"}
    assert [event for event in old if f"`{event}`" in PAGES[page]] == []


def test_every_event_has_one_text_and_its_values_in_fields() -> None:
    assert [event for event in logged() if "%" in event] == []


def test_the_page_on_logging_names_every_warning_and_error() -> None:
    assert [event for event in sorted(set(logged())) if f"`{event}`" not in LOGGING + UPGRADING] == []
