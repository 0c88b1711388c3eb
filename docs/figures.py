"""The figures of the newest benchmark, as other pages quote them.

`make bench` writes the tables of docs/benchmarks.md; everything here is read from there, so that no page can
quote an older run. docs/generate.py writes the result into the pages.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import re
import textwrap
from math import ceil, floor, log10
from pathlib import Path

DOCS = Path(__file__).parent
CACHE_MIB, MIB = 64, 1.048576  # the default of journal_cache_bytes, in MiB; MB in one of them
STATE_MICROSECONDS = 150  # recording and encoding, docs/decisions/2026-11-22-what-a-delivery-costs.md
MALLOC = ("4 MB", "12 to 25 %")  # docs/decisions/2026-11-22-what-a-delivery-costs.md
# The example of docs/operations.md
USERS, TASKS, SECONDS, CHANGES, POLL_SECONDS = 20_000, 5_000, 120, 20, 5
PAGE_WIDTH = 120
# The plan of docs/scaling.md
PLANNED_VIEWERS = (1_000, 20_000, 100_000, 1_000_000)
VIEWERS_EACH, BUSY = (
    10_000,
    0.5,
)  # of a replica: streams, and of its core, so that it bears the loss of another
ENGINE_KILOBYTES = 2.0 + 20 * 0.6  # of a task with so many states, each with its provider's document
LOG_MEGABYTES = 40  # of 50,000 entries
CEILING_REPLICAS = (1, 3, 8, 24, 64)
CEILING_COLUMNS = ("engine CPU µs/change", "follower CPU µs/entry", "changes/s at 70 % of the core")
CEILING_ROW = f"{CEILING_REPLICAS[-1]} replicas, 2,000 changes/s"
PEERS = ("nchan", "Centrifugo", "Mercure")
# CPU of ours over that of a peer, as docs/benchmarks.md calls it
COMPARED = {
    "an event of one task, 1,000 SSE streams": "1. 1,000 SSE: CPU per event over {}'s",
    "the same, 10,000 streams": "1. 10,000 SSE: CPU per event over {}'s",
    "the same, 1,000 WebSockets": "1. 1,000 WebSocket: CPU per event over {}'s",
    "the same, 10,000 WebSockets": "1. 10,000 WebSocket: CPU per event over {}'s",
    "the last of 1,000 SSE streams, p99": "1. 1,000 SSE: last socket's p99 over {}'s",
    "an event of 5,000 tasks, memory journal": "2. many tasks, memory journal: CPU per event over {}'s",
    "ours on disk": "2. many tasks, durable: CPU per event over {}'s, which keeps nothing",
    "a new SSE stream": "6. a new SSE stream: CPU over {}'s",
    "a new WebSocket": "6. a new WebSocket: CPU over {}'s",
}
SOCKETS = 15_000  # max_connections of the files under deploy/


class Bench:
    """The tables of a page of results."""

    def __init__(self, page: str) -> None:
        self._page = page

    def value(self, scenario: str, row: str, column: str) -> float:
        """One number; the table of the scenario must have it."""
        section = self._page.partition(f"\n### {scenario}\n")[2].partition("\n### ")[0]
        table = [line for line in section.splitlines() if line.startswith("|")]
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
        (found,) = (cells for cells in rows if cells[0] == row)
        return float(found[head.index(column)].replace(",", ""))

    def ratio(self, what: str) -> tuple[str, str, str]:
        """Median, lowest and highest of a comparison, as they are written."""
        (found,) = re.findall(
            rf"\| {re.escape(what)} \|[^|]*\| ([\d.]+)x \(([\d.]+)-([\d.]+)\) \|", self._page
        )
        return found

    @property
    def day(self) -> str:
        """When the newest scenario ran."""
        return max(re.findall(r"^- `\w+`: (\d{4}-\d\d-\d\d) ", self._page, re.MULTILINE))


def bench() -> Bench:
    """The results in docs/benchmarks.md."""
    return Bench((DOCS / "benchmarks.md").read_text("utf-8"))


def peers() -> str:
    """What ours costs over what each peer does, for docs/performance.md; empty where it was not measured."""
    rows = [
        (what, *(_over(comparison.format(peer)) for peer in PEERS)) for what, comparison in COMPARED.items()
    ]
    return _table(("ours over", *PEERS), rows)


def _over(comparison: str) -> str:
    try:
        usual, least, most = bench().ratio(comparison)
    except ValueError:
        return ""
    return f"{usual}x ({least}-{most})"


def headline() -> str:
    """Three numbers, for the first screen of the README."""
    sse = bench().value("fanout", "ours SSE, 1,000", "events/s")
    return _items(
        "**1** status call per task and interval, whether one client waits or a thousand",
        f"**{_rounded(sse)}** states delivered per second to 1,000 SSE clients of one task",
        f"**{_idle('SSE')} KB** of memory for an idle SSE stream",
    )


def sizing() -> str:
    """What one process does and needs."""
    of = bench().value
    polls = [_rounded(of("upstream", f"ours, {how}", "per second")) for how in ("maximum rate", "many tasks")]
    new = [_rounded(of("connect", f"ours {kind}", "per second")) for kind in ("SSE", "WebSocket")]
    clients, seconds = (of("restart", "ours", column) for column in ("connections", "seconds"))
    kept = [of("idle", f"ours {kind}", "MB kept") for kind in ("SSE", "WebSocket")]
    stays = (
        f"{kept[0]:.0f} MB after SSE streams, {kept[1]:.0f} MB after WebSockets; later connections use it; "
        f"with `PYTHONMALLOC=malloc` {MALLOC[0]}, for {MALLOC[1]} more CPU per change"
    )
    rows = [
        ("states delivered, many subscribers per task", _delivered("fanout", "ours SSE, 1,000")),
        ("states delivered, 1.5 subscribers per task", _delivered("many", "ours, many tasks")),
        ("polls of providers", f"{polls[0]} per second alone, {polls[1]} with 20,000 tasks watched"),
        ("new streams", f"{new[0]} per second, WebSockets {new[1]}"),
        ("all clients reconnected after a kill and a start", f"{clients:,.0f} clients in {seconds:.1f} s"),
        ("memory of an idle SSE stream", f"{_idle('SSE')} KB"),
        ("memory of an idle WebSocket", f"{_idle('WebSocket')} KB"),
        ("memory without connections", f"{_alone():.0f} MB"),
        ("memory that stays after 10,000 connections have closed", stays),
    ]
    return _table(("what", "a process has"), rows)


def memory() -> str:
    """What the memory of a process consists of, and the sum for the limit in the files of deploy/."""
    kept = [bench().value("idle", f"ours {kind}", "MB kept") for kind in ("SSE", "WebSocket")]
    socket, alone = _idle("WebSocket"), _alone()
    rows = [
        ("the process, without connections", f"{alone:.0f} MB"),
        ("an SSE stream", f"{_idle('SSE')} KB"),
        ("a WebSocket", f"{socket} KB"),
        ("the newest states, cached (`journal_cache_bytes`)", f"up to {CACHE_MIB} MiB"),
        (
            "what stays with the process after 10,000 connections have closed, for later ones",
            f"{kept[0]:.0f} MB (SSE), {kept[1]:.0f} MB (WebSocket)",
        ),
    ]
    total = _tens(alone + SOCKETS / 1000 * socket + CACHE_MIB * MIB)
    calculation = f"{alone:.0f} MB + {SOCKETS:,} x {socket} KB + {CACHE_MIB} MiB = {total} MB"
    return f"{_table(('', 'memory'), rows)}\nFor {SOCKETS:,} WebSockets: {calculation}.\n"


def costs() -> str:
    """CPU and memory in two sentences."""
    of = bench().value
    each = [
        of("fanout", f"ours {kind}, {number}", "CPU µs/event")
        for kind in ("SSE", "WebSocket")
        for number in ("1,000", "10,000")
    ]
    polls = [_tens(of("upstream", f"ours, {how}", "CPU µs/call")) for how in ("maximum rate", "many tasks")]
    return _items(
        f"**CPU.** A state costs about {STATE_MICROSECONDS} µs once, for recording and encoding, and "
        f"{min(each):.0f} to {max(each):.0f} µs per subscriber. A poll costs {polls[0]} to {polls[1]} µs, "
        "for any result. More than one core's work is for [several processes](replicas.md): each task is "
        "still polled once.",
        f"**Memory.** {_alone():.0f} MB, the connections, and up to {CACHE_MIB} MiB (`journal_cache_bytes`) "
        "for the newest states, which are cached.",
    )


def example() -> str:
    """The calculation of docs/operations.md, "An example"."""
    of = bench().value
    each = round(of("fanout", "ours SSE, 1,000", "CPU µs/event"))
    poll = _tens(of("upstream", "ours, maximum rate", "CPU µs/call"))
    streams = _two_digits(of("connect", "ours SSE", "per second"))
    states, viewers, polls = _tens(TASKS * CHANGES / SECONDS), USERS // TASKS, TASKS // POLL_SECONDS
    change = f"({STATE_MICROSECONDS} + {viewers} x {each}) µs"
    share = states * (STATE_MICROSECONDS + viewers * each) / 1e6
    total = _tens(_alone() + USERS / 1000 * _idle("SSE") + CACHE_MIB * MIB)
    rate = f"{TASKS:,} x {CHANGES} / {SECONDS} s = {states} per second"
    disk = f"{states} per second for a day, 600 bytes each; but a million states at most: 600 MB"
    restart = round(USERS / streams)
    again = f"{USERS:,} streams at {streams:,} per second: {restart} s of CPU, spread over 5 to 15 s"
    rows = [
        ("states", f"{rate}, four subscribers each: {states} x {change}", f"{share:.2f}"),
        (f"polls, every {POLL_SECONDS} s", f"{polls:,} per second x {poll} µs", f"{polls * poll / 1e6:.2f}"),
        ("memory", f"{_alone():.0f} MB + {USERS:,} x {_idle('SSE')} KB + {CACHE_MIB} MiB = {total} MB", ""),
        ("disk, one day retained", disk, ""),
        ("after a restart", again, f"all of it for {restart} seconds"),
    ]
    return _table(("", "calculation", "of one core"), rows)


def scaling() -> str:
    """The plan of docs/scaling.md: what so many viewers need, by the figures of docs/benchmarks.md."""
    rows = [_scaled(viewers) for viewers in PLANNED_VIEWERS]
    heads = (
        "viewers",
        "open tasks",
        "changes/s",
        "polls/s",
        "replicas",
        "engines",
        "engine core",
        "engine memory",
        "for each hour of retention",
    )
    return _table((*heads, "all reconnect in"), rows)


def _scaled(viewers: int) -> tuple[str, ...]:
    of = bench().value
    tasks = viewers * TASKS // USERS
    changes, polls = tasks * CHANGES / SECONDS, tasks / POLL_SECONDS
    each = of("fanout", "ours SSE, 1,000", "CPU µs/event")
    poll = of("upstream", "ours, maximum rate", "CPU µs/call")
    cores = (changes * (STATE_MICROSECONDS + viewers / tasks * each) + polls * poll) / 1e6
    ceiling = of("replicas: ceiling", CEILING_ROW, "changes/s at 70 % of the core")
    engines = ceil(changes / ceiling)
    replicas = max(2, ceil(viewers / VIEWERS_EACH), ceil(cores / BUSY), engines * 2)
    share = changes / engines * of("replicas: ceiling", CEILING_ROW, "engine CPU µs/change") / 1e6
    megabytes = tasks * ENGINE_KILOBYTES / 1000 + engines * LOG_MEGABYTES
    retained = tasks * 3600 / SECONDS * ENGINE_KILOBYTES / 1000
    seconds = viewers / replicas / of("connect", "ours SSE", "per second")
    return (
        *(f"{number:,.0f}" for number in (viewers, tasks, changes, polls, replicas, engines)),
        f"{share:.0%}",
        _size(megabytes),
        _size(retained),
        f"{seconds:.1f} s" if seconds >= 0.1 else "0.1 s",
    )


def _size(megabytes: float) -> str:
    return f"{megabytes / 1000:,.1f} GB" if megabytes >= 1000 else f"{megabytes:,.0f} MB"


def ceiling() -> str:
    """What one log can carry, with ever more replicas that follow it."""
    of = bench().value
    rows = [
        (f"{count}", *(f"{of('replicas: ceiling', row, column):,.0f}" for column in CEILING_COLUMNS))
        for count in CEILING_REPLICAS
        for row in [f"{count} replicas, 2,000 changes/s"]
    ]
    return _table(("replicas that follow", *CEILING_COLUMNS), rows)


def compared() -> str:
    """The figures beside nchan, for docs/comparison.md."""
    of, found = bench().value, bench()
    sse, socket = (found.ratio(f"1. 1,000 {kind}: events/s over nchan's") for kind in ("SSE", "WebSocket"))
    most = of("idle", "ours SSE, maximum", "connections")
    many = [of("many", f"{who}, many tasks", "events/s") for who in ("ours", "nchan")]
    new = [of("connect", f"{who} SSE", "per second") for who in ("ours", "nchan")]
    idle = [of("idle", f"{who} SSE", "KB per connection") for who in ("ours", "nchan")]
    source = _paragraph(
        f"Measured on one core of one machine, loopback, {found.day}; these are the figures of the tables in "
        "[benchmarks](benchmarks.md), with the method and all missed targets."
    )
    return f"{source}\n" + _items(
        f"One task, 1,000 SSE clients: {sse[0]} times the events of nchan per second ({sse[1]} to {sse[2]} "
        f"over the cycles). By WebSocket {socket[0]} times ({socket[1]} to {socket[2]}).",
        "5,000 tasks with one or two subscribers each, changing at maximum speed: "
        f"{many[0]:,.0f} events per second, nchan {many[1]:,.0f}. Every change is on disk before it is "
        "announced, and a task with a single subscriber shares that cost with no other.",
        f"New streams: {new[0]:,.0f} per second, nchan {new[1]:,.0f}.",
        f"An idle SSE connection: {idle[0]} KB, nchan {idle[1]} KB. More than {most:,.0f} concurrent "
        "connections were not measured.",
    )


def _delivered(scenario: str, row: str) -> str:
    rate, cpu = (bench().value(scenario, row, column) for column in ("events/s", "CPU µs/event"))
    return f"{_rounded(rate)} per second, {cpu:.0f} µs of CPU each"


def _idle(kind: str) -> float:
    return bench().value("idle", f"ours {kind}", "KB per connection")


def _alone() -> float:
    return max(bench().value("idle", f"ours {kind}", "MB at first") for kind in ("SSE", "WebSocket"))


def _two_digits(value: float) -> int:
    return int(round(value, 1 - floor(log10(value))))


def _rounded(value: float) -> str:
    return f"{_two_digits(value):,}"


def _tens(value: float) -> int:
    return round(value / 10) * 10


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, tuple("---" for _ in heads), *rows)]
    return "\n".join(line.replace("|  |", "| |") for line in lines) + "\n"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, PAGE_WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _items(*texts: str) -> str:
    wrapped = (_paragraph(f"- {text}").replace("\n", "\n  ").rstrip() for text in texts)
    return "".join(f"{text}\n" for text in wrapped)
