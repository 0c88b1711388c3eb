"""Operations and CONTRIBUTING are true: numbers as measured, folders as they are."""

import re
import runpy

import pytest

from tests.docs.pages import PAGES, ROOT, coded, links

OPERATIONS, BENCHMARKS = PAGES["docs/operations.md"], PAGES["docs/benchmarks.md"]
CONTRIBUTING = PAGES["CONTRIBUTING.md"]
NEAR = 0.25  # if a new bench table differs more, update the sizing


def section(page, heading):
    """The text under a heading, up to the next of its rank."""
    marks = re.match("#+", heading)[0]
    return re.search(
        rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(marks)}}} |\Z)", page, re.DOTALL | re.MULTILINE
    )[1]


def measured(scenario, row, column):
    """One number of the bench tables."""
    table = section(BENCHMARKS, f"### {scenario}")
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in table.strip().splitlines()
    ]
    (found,) = [one for one in rows if one[0] == row]
    return float(found[head.index(column)].replace(",", ""))


def planned(row):
    """The numbers of one row of the sizing table."""
    (line,) = re.findall(rf"^\| {re.escape(row)} \| (.+) \|$", section(OPERATIONS, "## Sizing"), re.MULTILINE)
    return [float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?", line)]


@pytest.mark.parametrize(
    ("row", "numbers"),
    [
        (
            "states delivered, many subscribers per task",
            [("fanout", "ours SSE, 1,000", "events/s"), ("fanout", "ours SSE, 1,000", "CPU µs/event")],
        ),
        (
            "states delivered, 1.5 subscribers per task",
            [("many", "ours, many tasks", "events/s"), ("many", "ours, many tasks", "CPU µs/event")],
        ),
        (
            "polls of providers",
            [
                ("upstream", "ours, maximum rate", "per second"),
                ("upstream", "ours, many tasks", "per second"),
                20_000,
            ],
        ),
        ("new streams", [("connect", "ours SSE", "per second"), ("connect", "ours WebSocket", "per second")]),
        (
            "all clients reconnected after a kill and a start",
            [("restart", "ours", "connections"), ("restart", "ours", "seconds")],
        ),
        ("memory of an idle SSE stream", [("idle", "ours SSE", "KB per connection")]),
        ("memory of an idle WebSocket", [("idle", "ours WebSocket", "KB per connection")]),
    ],
)
def test_the_sizing_says_what_was_measured(row, numbers):
    found = planned(row)
    expected = [measured(*one) if isinstance(one, tuple) else one for one in numbers]
    assert len(found) == len(expected), found
    assert [
        one for one in zip(found, expected, strict=True) if one[0] != pytest.approx(one[1], rel=NEAR)
    ] == []


FIGURES = runpy.run_path(str(ROOT / "docs" / "figures.py"))
GENERATED = re.compile(r"<!-- (generated|bench)\b.*?<!-- (end|bench:end) -->", re.DOTALL)


def test_the_example_is_calculated_from_the_table():
    rows = dict(re.findall(r"^\| ([\w ,]+) \| (.+) \|$", section(OPERATIONS, "### An example"), re.MULTILINE))
    cpu = planned("states delivered, many subscribers per task")[1]
    assert float(rows["states"].split("|")[1]) == pytest.approx(830 * (150 + 4 * cpu) / 1e6, abs=0.01)
    alone, stream = planned("memory without connections")[0], planned("memory of an idle SSE stream")[0]
    (total,) = re.findall(r"= (\d+) MB", rows["memory"])
    assert int(total) == pytest.approx(alone + 20 * stream + 64 * 1.048576, abs=5)
    streams = planned("new streams")[0]
    assert f"20,000 streams at {streams:,.0f} per second: {20_000 / streams:.0f} s" in rows["after a restart"]


def test_a_newer_bench_changes_every_page_that_quotes_it():
    """No figure of the sizing stands anywhere by hand."""
    sizes = {f"{planned(f'memory of an idle {kind}')[0]} KB" for kind in ("SSE stream", "WebSocket")}
    rates = {f"{planned(row)[0]:,.0f} per second" for row in ("new streams", "polls of providers")}
    current = [page for page in PAGES if not page.startswith(("docs/decisions/", "CHANGELOG"))]
    quoted = [page for page in current if any(one in PAGES[page] for one in sizes | rates)]
    assert {"docs/operations.md", "docs/deployment.md", "docs/comparison.md"} <= set(quoted)
    rest = {page: GENERATED.sub("", PAGES[page]) for page in quoted}
    by_hand = {(page, one) for page, text in rest.items() for one in sizes | rates if one in text}
    assert by_hand == set()


def test_the_figures_follow_the_tables_they_are_read_from():
    found = FIGURES["Bench"](BENCHMARKS.replace("| ours SSE | 10,000 | ", "| ours SSE | 10,000 | 9"))
    assert found.value("idle", "ours SSE", "KB per connection") == 900 + measured(
        "idle", "ours SSE", "KB per connection"
    )
    with pytest.raises(ValueError, match="unpack"):
        found.value("idle", "no such server", "KB per connection")


def test_the_memory_limits_of_deploy_hold_what_the_sizing_says():
    part = section(PAGES["docs/deployment.md"], "## How large")
    (total,) = re.findall(r"For 15,000 WebSockets: .* = (\d+) MB\.", part)
    assert int(total) < 512  # half of the limit of 1 GiB; the other half is for clients that read slowly
    assert planned("memory of an idle WebSocket")[0] <= 20  # what the comments in deploy/ count with


def test_the_dates_of_the_comparison_are_those_of_the_results():
    part = section(PAGES["docs/comparison.md"], "## What it costs")
    assert f"loopback, {FIGURES['bench']().day};" in part


def test_the_cost_of_a_scrape_is_that_of_the_table():
    part = section(PAGES["docs/metrics.md"], "## What a scrape costs")
    found = [int(number) for number in re.findall(r"(\d+) ms\b", part)]
    columns = ["CPU ms/scrape", "other requests p99 ms, scrapes", "other requests p99 ms, no scrapes"]
    many, others, without = (measured("scrape", "many watched tasks", column) for column in columns)
    one = measured("scrape", "one watched task", columns[0])
    assert found == [round(number) for number in (many, one, others, without)]


def test_every_folder_of_tests_says_what_it_holds():
    shared = {"fakes", "tools"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] not in "._"}
    named = re.findall(r"^\| `tests/(\w+)` \| \w", CONTRIBUTING, re.MULTILINE)
    assert sorted(named) == sorted(folders - shared)


def test_every_room_a_change_can_be_in_is_named():
    rooms = {path.name for path in (ROOT / "bridge").iterdir() if path.is_dir() and path.name[0] not in "._"}
    named = " ".join(coded(section(CONTRIBUTING, "## Where a thing belongs")))
    assert [room for room in rooms if f"bridge/{room}" not in named] == []


def test_every_path_a_contributor_is_sent_to_is_there():
    paths = {word for word in coded(CONTRIBUTING) if re.fullmatch(r"(bridge|tests|docs)/[\w./-]+", word)}
    assert len(paths) > 25
    assert [path for path in paths if not (ROOT / path).exists() and "lumen" not in path] == []


def test_every_page_is_found_from_the_index():
    index = {target.rstrip("/") for target in links(PAGES["docs/README.md"])}
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - index == set()
