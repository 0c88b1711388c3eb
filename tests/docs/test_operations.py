"""Operations and CONTRIBUTING are true: numbers as measured, folders as they are."""

import re

import pytest

from tests.docs.pages import PAGES, ROOT, coded, links

OPERATIONS, PERFORMANCE = PAGES["docs/operations.md"], PAGES["docs/performance.md"]
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
    table = section(PERFORMANCE, f"### {scenario}")
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


def test_the_example_is_calculated_right():
    rows = dict(re.findall(r"^\| ([\w ,]+) \| (.+) \|$", section(OPERATIONS, "### An example"), re.MULTILINE))
    assert pytest.approx(5000 * 20 / 120, rel=0.01) == 830
    assert pytest.approx(830 * (150 + 4 * 13) / 1e6, abs=0.01) == float(rows["states"].split("|")[1])
    assert pytest.approx(1000 * 340 / 1e6, abs=0.01) == float(rows["polls, every 5 s"].split("|")[1])
    assert "= 380 MB" in rows["memory"]
    assert pytest.approx(67 + 20_000 * 12.1 / 1000 + 64 * 1.048576, rel=0.02) == 380
    assert "600 MB" in rows["disk, one day retained"]
    streams = planned("new streams")[0]
    assert f"20,000 streams at {streams:,.0f} per second: {20_000 / streams:.0f} s" in rows["after a restart"]


def test_the_limit_of_memory_is_calculated_from_the_sizing():
    part = section(PAGES["docs/deployment.md"], "## How large")
    sizes = {row: planned(f"memory {row}") for row in ("of an idle SSE stream", "of an idle WebSocket")}
    alone = re.search(r"64 to (\d+) MB", section(OPERATIONS, "## Sizing"))[1]
    stays = planned("memory that stays after 10,000 connections have closed")
    (stream,), (socket,) = sizes.values()
    assert f"| the process, without connections | {alone} MB |" in part
    assert f"| an SSE stream | {stream} KB |\n| a WebSocket | {socket} KB |" in part
    assert f"| {stays[0]:.0f} MB (SSE), {stays[1]:.0f} MB (WebSocket) |" in part
    assert f"{alone} MB + 15,000 x {socket} KB + 64 MiB = 420 MB" in part
    assert pytest.approx(int(alone) + 15 * socket + 64 * 1.048576, rel=0.02) == 420


def test_the_comparison_gives_the_figures_of_the_tables():
    part = " ".join(section(PAGES["docs/comparison.md"], "## What it costs").split())
    for kind, sentence in (("SSE", "{} times the events of nchan"), ("WebSocket", "By WebSocket {} times")):
        median = re.search(
            rf"^\|.*\| 1\. 1,000 {kind}: events/s over nchan's \|.*\| ([\d.]+)x", PERFORMANCE, re.MULTILINE
        )[1]
        assert sentence.format(median) in part
    many = [measured("many", f"{who}, many tasks", "events/s") for who in ("ours", "nchan")]
    assert "{:,.0f} events per second, nchan {:,.0f}.".format(*many) in part
    new = [measured("connect", f"{who} SSE", "per second") for who in ("ours", "nchan")]
    assert "New streams: {:,.0f} per second, nchan {:,.0f}.".format(*new) in part
    idle = [measured("idle", f"{who} SSE", "KB per connection") for who in ("ours", "nchan")]
    assert "idle SSE connection: {} KB, nchan {} KB.".format(*idle) in part


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
