"""what `taskbridge watch` and `taskbridge submit` print, and how they end."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bridge.cli import terminal, watch
from bridge.cli.main import main
from bridge.cli.progress import ProgressBars, cells, clip, duration, safe, shorten
from bridge.client.state import TaskNotice, TaskState

pytestmark = pytest.mark.anyio


class Screen(io.StringIO):
    """Enough of a terminal to see what is left on it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def rows(self) -> list[str]:
        rows: list[str] = []
        at = 0
        for up, erase, colour, newline, text in re.findall(
            r"\x1b\[(\d+)A\r|(\x1b\[J)|(\x1b\[\d*m)|(\n)|([^\x1b\n]+)", self.getvalue()
        ):
            if up:
                at -= int(up)
                assert at >= 0
            elif erase:
                del rows[at:]
            elif newline:
                rows += [""] * (at + 1 - len(rows))
                at += 1
            elif text and not colour:
                rows += [""] * (at + 1 - len(rows))
                rows[at] += text
        return rows


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def state(fake, status: str = "processing", task: str = "q/1", **more: object) -> TaskState:
    return TaskState.of(fake.document(task, status, "e-1", **more))


def bars(
    out: io.StringIO, *refs: str, clock: Clock | None = None, columns: int = 100, lines: int = 24, **more
) -> ProgressBars:
    return ProgressBars(
        out, refs, now=clock or Clock(), size=lambda: os.terminal_size((columns, lines)), **more
    )


async def run(fake, *refs: str, out: io.StringIO | None = None, **kwargs) -> tuple[int, str, str]:
    out, err = out or io.StringIO(), io.StringIO()
    arguments = {"json": False, "token": None, "give_up": 0.2} | kwargs
    code = await terminal.watch(fake.url, list(refs or ("q/1",)), out=out, err=err, **arguments)
    return code, out.getvalue(), err.getvalue()


async def test_plain_lines_when_it_is_no_terminal(fake):
    fake.plays(
        [
            fake.state("e-1", "queued"),
            fake.state("e-2", progress=42, eta_seconds=80, created_at="2026-11-20T10:00:00Z"),
            fake.finish("e-3", progress=100, outputs=[{"type": "image", "url": "https://x/y.png"}]),
        ]
    )
    code, out, err = await run(fake)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "q/1 queued --% 0s",
        "q/1 processing 42% 5s about 1 min 20 s left",
        "q/1 completed 100% in 0s https://x/y.png",
    ]


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ({"url": "https://x/y.png", "stored_url": "https://bucket.test/y.png"}, " https://bucket.test/y.png"),
        ({"url": "https://x/y.png", "stored_url": "/v1/tasks/q/1/outputs/0"}, " https://x/y.png"),
        ({"url": "data:image/png;base64,AAAA", "stored_url": "https://b.test/y"}, " https://b.test/y"),
        ({"url": "data:image/png;base64,AAAA"}, ""),
    ],
)
async def test_the_copy_of_a_result_is_shown_where_its_address_is_whole(fake, output, shown):
    fake.plays([fake.state("e-1"), fake.finish("e-2", progress=100, outputs=[output])])
    _, out, _ = await run(fake)
    assert out.splitlines()[-1] == f"q/1 completed 100% in 0s{shown}"


async def test_json_is_a_document_a_line_and_nothing_else(fake):
    fake.plays([fake.state("e-1"), fake.notice("stale", task="q/1"), fake.finish("e-2", model="完成\x9b")])
    code, out, _ = await run(fake, json=True)
    assert code == 0
    assert out.isascii()
    documents = [json.loads(line) for line in out.splitlines()]
    assert documents == [
        fake.document("q/1", "processing", "e-1"),
        fake.document("q/1", "completed", "e-2", model="完成\x9b"),
    ]


@pytest.mark.parametrize("status", ["failed", "cancelled", "lost"])
async def test_a_task_that_did_not_complete_is_exit_code_1(fake, status):
    fake.plays([fake.finish("e-1", status, error={"code": "nsfw", "message": "not\nallowed"})])
    code, out, _ = await run(fake)
    assert code == 1
    # It had ended before: how long it took is unknown without the provider's own times.
    assert out.splitlines() == [f"q/1 {status} --% nsfw: not?allowed"]


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (404, "task_not_found", 2),
        (400, "invalid_request", 2),
        (401, "unauthenticated", 2),
        (502, "upstream_refused", 3),
    ],
)
async def test_refusals_are_told_on_standard_error(fake, status, code, exit_code):
    fake.plays(fake.problem(status, code, "the sentence\x1b[2J", x_should_retry="false"))
    got, out, err = await run(fake)
    assert (got, out) == (exit_code, "")
    about = "q/1: " if code == "task_not_found" else ""
    assert err == f"taskbridge watch: {about}the sentence?[2J\n"


async def test_bad_usage_and_a_missing_task_among_others_are_exit_code_2(fake):
    assert (await run(fake, "nonsense"))[0] == 2
    gone = fake.notice("task_not_found", task="q/b", retriable=False)
    fake.plays([gone, fake.state("e-1", "completed", task="q/a"), fake.end(2)])
    code, out, _ = await run(fake, "q/a", "q/b")
    assert code == 2
    assert "q/b task not found" in out


async def test_a_bridge_out_of_reach_is_exit_code_3(fake):
    fake.url = "http://127.0.0.1:1"
    code, _, err = await run(fake, give_up=0)
    assert code == 3
    assert "cannot be reached: 127.0.0.1:1: Connection refused\n" in err


async def test_bars_are_drawn_over_themselves(fake):
    a, b = {"task": "q/a"}, {"task": "q/longer"}
    fake.plays(
        [
            fake.state("e-1", progress=10, **a),
            fake.state("e-2", "queued", **b),
            fake.state("e-3", progress=55, **a),
            fake.state("e-4", "completed", progress=100, outputs=[{"url": "https://x/" + "y" * 200}], **a),
            fake.state("e-5", "failed", progress=55, error={"code": "nsfw", "message": "no"}, **b),
            fake.end(2),
        ]
    )
    screen = Screen()
    view = bars(screen, "q/a", "q/longer", lines_above=["watching two tasks"])
    code, _, _ = await run(fake, "q/a", "q/longer", bars=view)
    assert code == 1
    assert screen.rows() == [
        "watching two tasks",
        "q/a       ████████████████████   100%  completed   in 0s",
        "q/longer  ███████████░░░░░░░░░    55%  failed      in 0s  nsfw: no",
        "q/a  https://x/" + "y" * 200,
        "q/longer  nsfw: no",
    ]


async def test_clocks_go_on_between_states(fake):
    clock, screen = Clock(), Screen()
    view = bars(screen, "q/1", clock=clock)
    view.show(state(fake, progress=50, eta_seconds=90, created_at="2026-11-20T09:59:05Z"))
    assert screen.rows()[0].endswith("  50%  processing  1m00s  about 1 min 30 s left")
    clock.now += 31
    view.draw()
    assert screen.rows()[0].endswith("  50%  processing  1m31s  about 59 s left")
    view.show_notice(TaskNotice(code="upstream_unavailable"))
    assert "upstream unavailable" in screen.rows()[0]
    view.show_notice(TaskNotice(code="fresh", task="q/1"))
    assert "upstream" not in screen.rows()[0]


@pytest.mark.parametrize("columns", [10, 40, 80])
async def test_no_line_is_wider_than_the_terminal(fake, columns):
    screen = Screen()
    view = bars(screen, "q/" + "任务" * 40, columns=columns, lines_above=["x" * 300])
    view.show(state(fake, task="q/" + "任务" * 40, progress=33, eta_seconds=7))
    assert len(screen.rows()) == 2
    assert all(cells(row) < max(columns, 21) for row in screen.rows())


async def test_more_tasks_than_rows_still_draw_over_themselves(fake):
    screen = Screen()
    refs = [f"q/{n}" for n in range(50)]
    view = bars(screen, *refs, lines=10)
    for ref in refs[:20]:
        view.show(state(fake, "completed", task=ref))
    rows = screen.rows()
    assert len(rows) == 9
    assert rows[-1] == "... and 42 more"
    assert rows[0].startswith("q/20")


async def test_a_provider_cannot_move_the_cursor(fake):
    screen = Screen()
    bars(screen, "q/1").show(state(fake, "failed", error={"code": "\x1b[2J", "message": "a\r\nb\x9bc\u202e"}))
    assert "?[2J: a??b?c?" in screen.rows()[0]


async def test_an_old_terminal_gets_plain_bars(fake):
    screen = Screen()
    screen.encoding = "ascii"
    bars(screen, "q/1").show(state(fake, progress=50))
    assert "##########----------" in screen.rows()[0]
    assert screen.getvalue().isascii()


async def test_colour_can_be_refused(fake, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    bars(screen, "q/1").show(state(fake, "failed"))
    assert "\x1b[31m" not in screen.getvalue()
    monkeypatch.delenv("NO_COLOR")
    bars(screen, "q/1").show(state(fake, "failed"))
    assert "\x1b[31m" in screen.getvalue()


async def test_header_lines_are_told_once_without_a_terminal(fake):
    out = io.StringIO()
    view = bars(out, "q/1", lines_above=["one"])
    view.draw()
    view.draw()
    view.lines_above.append("two")
    view.show(state(fake))
    assert out.getvalue().splitlines() == ["one", "two", "q/1 processing --% 0s"]


def test_small_words():
    assert [duration(s) for s in (-1, 0.9, 59, 60, 125, 3600, 7380)] == [
        "0s",
        "0s",
        "59s",
        "1m00s",
        "2m05s",
        "1h00m",
        "2h03m",
    ]
    assert clip("任务任务", 5) == "任务~"
    assert clip("abc", 3) == "abc"
    assert safe("a\x00\x1b\n\u202eb") == "a????b"


async def test_a_reader_that_has_seen_enough_ends_the_watch(fake):
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    fake.plays([fake.state("e-1"), fake.HANG])
    code, _, _ = await run(fake, out=Closed(), json=True)
    assert code == 1


async def invoke(*arguments: str, text: str | None = None, env: dict[str, str] | None = None):
    cmd, *rest = arguments
    return await asyncio.to_thread(CliRunner().invoke, getattr(watch, cmd), rest, input=text, env=env)


async def test_the_watch_command(fake):
    fake.plays([fake.finish("e-1")])
    result = await invoke("watch", "q/1", env={"BRIDGE_URL": fake.url, "BRIDGE_TOKEN": "t0"})
    assert (result.exit_code, result.output) == (0, "q/1 completed --%\n")
    assert fake.seen[0].headers["Authorization"] == "Bearer t0"
    result = await invoke("watch")
    assert result.exit_code == 2


async def test_the_submit_command(fake, tmp_path):
    created = fake.answer(201, {"state": fake.document("q/1", "queued", "e-1"), "links": {}})
    fake.plays(created)
    body = tmp_path / "body.json"
    body.write_text('{"n": 1}')
    for argument in ('{"n": 1}', "-", f"@{body}"):
        result = await invoke("submit", "q", argument, "--url", fake.url, text='{"n": 1}')
        assert (result.exit_code, result.output) == (0, "q/1\n")
    assert [json.loads(seen.body) for seen in fake.seen] == [{"n": 1}] * 3
    fake.plays(created, [fake.finish("e-2", "failed")])
    result = await invoke("submit", "q", "{}", "--watch", "--url", fake.url)
    assert (result.exit_code, result.output) == (1, "q/1\nq/1 failed --%\n")
    fake.plays(fake.problem(404, "upstream_not_found", "no such upstream"))
    result = await invoke("submit", "q", "{}", "--url", fake.url)
    assert (result.exit_code, result.output) == (2, "taskbridge submit: no such upstream\n")
    for bad in ("[]", "{", "@/nowhere/at/all"):
        assert (await invoke("submit", "q", bad, "--url", fake.url)).exit_code == 2


async def test_control_c_is_quiet(fake):
    fake.plays([fake.state("e-1"), fake.HANG])
    code = "from bridge.cli.watch import watch; watch()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "q/1", "--url", fake.url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert b"processing" in await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")


@pytest.mark.parametrize("columns", [44, 80])
async def test_narrow_terminals_show_the_ends_of_ids_and_the_status(fake, columns: int) -> None:
    screen = Screen()
    bars = ProgressBars(screen, now=Clock(), size=lambda: os.terminal_size((columns, 24)))
    refs = {
        "qingbo/task_01PQ7B3EJM91Z0QYXM1GG43Q9Q": "processing",
        "fal/fal-ai/flux/764cabcf-b745-4b3e-ae38-1200304cf45b": "completed",
        "bytespike/task_01S1CDRXD4BW15JGV34EWCDKR9TDM": "cancelled",
        "veo/models/veo-3.1/operations/abcdefgh1234": "input_required",
    }
    for ref, status in refs.items():
        bars.show(state(fake, status, ref, eta_seconds=65))
    rows = screen.rows()
    assert len(rows) == len(refs)
    for row, (ref, status) in zip(rows, refs.items(), strict=True):
        assert cells(row) < columns
        assert row.startswith(ref.partition("/")[0] + "/")
        assert ref[-6:] in row
        assert status in row
    assert ("left" in rows[0]) == (columns == 80)


def test_a_ref_is_shortened_in_its_middle() -> None:
    assert shorten("qingbo/task_12345678", 20) == "qingbo/task_12345678"
    assert shorten("qingbo/task_123456789", 14) == "qingbo/~456789"
    assert shorten("an-upstream-with-a-long-name/1234567890", 14) == "an-upstr~67890"
    assert cells(shorten("q/" + "任务" * 20, 15)) <= 15


async def test_a_bar_can_be_removed(fake) -> None:
    screen = Screen()
    bars = ProgressBars(screen, now=Clock(), size=lambda: os.terminal_size((80, 24)))
    bars.show(state(fake, "completed", "q/1"))
    bars.show(state(fake, "processing", "q/2"))
    bars.forget("q/1")
    bars.forget("q/3")
    bars.draw()
    assert [row.split()[0] for row in screen.rows()] == ["q/2"]


def test_a_misspelt_command_is_answered_with_the_closest_one() -> None:
    for written, meant in (("wach", "watch"), ("srve", "serve"), ("simulat", "simulate")):
        done = CliRunner().invoke(main, [written])
        assert done.exit_code == 2
        assert f"no such command {written!r}; did you mean {meant!r}?" in done.stderr
    assert "no such command 'zzz'\n" in CliRunner().invoke(main, ["zzz"]).stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="terminals are POSIX")
def test_submit_on_a_terminal_says_what_it_waits_for() -> None:
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "submit", "qingbo"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(theirs)
        assert process.stderr is not None
        assert "Waiting for the JSON of the task on standard input; Ctrl-D" in process.stderr.readline()
        assert "taskbridge submit qingbo '{...}', or @FILE" in process.stderr.readline()
        os.write(ours, b"\x04")
        assert "nothing on standard input" in process.stderr.read()
        assert process.wait() == 2
    os.close(ours)
