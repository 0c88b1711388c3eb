"""The table "where to change what": the standard term leads to the file."""

import re

import pytest

from tests.docs.pages import PAGES, ROOT

BRIDGE = ROOT / "bridge"
SECTION = PAGES["docs/design.md"].split("\n## Where to change what\n")[1].split("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in SECTION.splitlines()
    if line.startswith("| ") and "search for" not in line
]
CHANGES = [row for row in ROWS if len(row) >= 3]
STARTS = [(row[1], row[2]) for row in CHANGES] + [(row[0], row[1]) for row in ROWS if len(row) == 2]


def paths(cell: str) -> list[str]:
    return re.findall(r"`([a-z_/0-9]+(?:\.py|/))`", cell)


def text_of(path: str) -> str:
    place = BRIDGE / path
    files = [place] if place.is_file() else sorted([*place.glob("*.py"), *place.glob("*.toml")])
    return "".join(file.read_text("utf-8") for file in files).lower()


def test_there_are_twenty_six_changes() -> None:
    assert len(CHANGES) == 26


@pytest.mark.parametrize(("search", "start"), STARTS)
def test_the_term_leads_to_the_file(search: str, start: str) -> None:
    (first, *_) = paths(start)
    found = text_of(first)
    terms = re.findall(r"`([^`]+)`", search)
    assert terms
    assert [term for term in terms if term.lower() not in found and term.lower() not in first] == []


@pytest.mark.parametrize("path", sorted({path for row in ROWS for cell in row for path in paths(cell)}))
def test_every_file_of_the_table_exists(path: str) -> None:
    assert (BRIDGE / path).exists()
