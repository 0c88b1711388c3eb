"""The page of presets agrees with the preset files."""

import re
import tomllib

import pytest

from bridge.dialects.registry import preset_names
from tests.docs.pages import PAGES, ROOT

PAGE = PAGES["docs/presets.md"]
ROWS = {
    cells[0].strip("`"): cells
    for line in re.findall(r"^\| `.*$", PAGE, re.MULTILINE)
    for cells in [[cell.strip() for cell in line.strip().strip("|").split("|")]]
}
NAMES = preset_names()


def columns(name):
    head = next(line for line in PAGE.splitlines() if line.startswith("| preset |"))
    return dict(zip([cell.strip() for cell in head.strip("|").split("|")], ROWS[name], strict=True))


def document(name):
    return tomllib.loads((ROOT / "bridge" / "dialects" / "presets" / f"{name}.toml").read_text("utf-8"))


def test_every_preset_has_its_row_and_they_are_sorted():
    assert list(ROWS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_row_tells_what_the_preset_can(name):
    row, stated = columns(name), document(name)
    calls, submit = stated["calls"], stated.get("submit", {})
    assert (
        row["provider"] == re.sub(r" \([a-z.]+\)$", "", stated["title"]) or row["provider"] == stated["title"]
    )
    assert (row["cancel"] == "no") == ("cancel" not in calls)
    assert (row["stream"] == "no") == ("stream" not in calls)
    assert f"{name}/" in row["task ref"]
    takes = submit.get("callback_url") or submit.get("callback_query")
    assert takes is None or f"`{takes}`" in row["callbacks"]


@pytest.mark.parametrize("name", NAMES)
def test_a_row_names_every_option_a_submit_needs(name):
    submit = document(name)["calls"].get("submit", {})
    needed = set(re.findall(r"\{([a-z_][a-z0-9_]*)(?::path)?\}", submit.get("path", "")))
    assert {f"`{option}`" for option in needed} <= set(
        re.findall(r"`[^`]*`", columns(name)["submit options"])
    )
