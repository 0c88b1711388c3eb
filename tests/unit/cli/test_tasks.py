"""`taskbridge list`, `register`, `forget`, `close-group`, and `watch` of a tag or group."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from bridge.cli import terminal
from bridge.cli.main import main
from bridge.cli.progress import ProgressBars
from tests.unit.cli.test_terminal import Clock, Screen, bars
from tests.unit.client.test_tasks import group_done, page

pytestmark = pytest.mark.anyio


async def invoke(fake: Any, *arguments: str) -> Any:
    env = {"BRIDGE_URL": fake.url, "BRIDGE_TOKEN": "t0"}
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=env)


async def run(fake: Any, *refs: str, out: io.StringIO | None = None, **more: Any) -> tuple[int, str]:
    out = out or io.StringIO()
    arguments = {"json": False, "token": None, "give_up": 0.2} | more
    code = await terminal.watch(fake.url, list(refs), out=out, **arguments)
    return code, out.getvalue()


# -- watch


async def test_a_group_is_watched_until_it_is_done(fake):
    fake.plays(
        [
            fake.state("e-1", "queued", task="q/1"),
            fake.state("e-2", "completed", task="q/1", progress=100),
            fake.state("e-3", "completed", task="q/2", progress=100),
            group_done(completed=2),
            fake.end(2),
        ]
    )
    result = await invoke(fake, "watch", "--group", "g")
    assert result.output.splitlines() == [
        "q/1 queued --% 0s",
        "q/1 completed 100% in 0s",
        "q/2 completed 100%",
        "group g done: 2 completed",
    ]
    assert result.exit_code == 0
    assert fake.seen[0].path == "/v1/events?group=g"


async def test_a_group_with_a_failed_task_is_exit_code_1_also_if_it_was_not_shown(fake):
    fake.plays([fake.state("e-1", "completed"), group_done(lost=1, completed=1500, failed=2), fake.end()])
    code, out = await run(fake, group="g")
    assert code == 1
    assert out.endswith("group g done: 1500 completed, 2 failed, 1 lost\n")


async def test_a_group_that_ended_before_is_judged_by_its_tasks(fake):
    fake.plays([fake.state("e-1", "failed"), fake.CUT], fake.answer(204))
    assert (await run(fake, group="g"))[0] == 1


async def test_json_of_a_group_is_states_and_nothing_else(fake):
    fake.plays([fake.state("e-1", "completed"), group_done(completed=1), fake.end()])
    code, out = await run(fake, group="g", json=True)
    assert (code, [json.loads(line)["task"] for line in out.splitlines()]) == (0, ["q/1"])


async def test_a_tag_is_watched_until_it_is_interrupted(fake):
    fake.plays([fake.state("e-1", "completed"), fake.HANG])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", "watch", "--tag", "user:7", "--url", fake.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert b"completed" in await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")


async def test_bars_have_a_title_and_only_the_newest_that_ended(fake, monkeypatch):
    monkeypatch.setattr(terminal, "_MAX_ENDED", 3)
    states = [fake.state(f"e-{n}", "completed", task=f"q/{n}") for n in range(1, 6)]
    fake.plays([fake.state("e-0", task="q/0"), *states, fake.end()])
    screen = Screen()
    view = bars(screen, clock=Clock())
    code, _ = await run(fake, tag="t", bars=view, out=screen)
    assert code == 0
    assert [row.split()[0] for row in screen.rows()] == ["q/0", "q/3", "q/4", "q/5"]
    made: list[list[str]] = []

    class Titled(ProgressBars):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self.lines_above)

    monkeypatch.setattr(terminal, "ProgressBars", Titled)
    await run(fake, tag="t", out=Screen())
    await run(fake, tag="t", out=io.StringIO())
    await run(fake, "q/1", out=Screen())
    assert made == [["tag t"], [], []]


@pytest.mark.parametrize(
    "arguments", [(), ("q/1", "--tag", "t"), ("--tag", "t", "--group", "g"), ("--tag", "ü")]
)
async def test_a_watch_is_of_tasks_or_of_one_name(fake, arguments):
    result = await invoke(fake, "watch", *arguments)
    assert result.exit_code == 2
    assert not fake.seen


# -- list


async def test_tasks_are_listed_in_columns(fake):
    tasks = [
        fake.document("q/2", "processing", "e-2", progress=42.6),
        fake.document("q/\x1b[2J", "completed", "e-1", progress=100),
    ]
    fake.plays(fake.answer(200, {"tasks": tasks, "next": None}))
    result = await invoke(
        fake,
        "list",
        "--upstream",
        "q",
        "--status",
        "open",
        "--status",
        "completed",
        "--tag",
        "user:7",
        "--group",
        "g",
    )
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "TASK    STATUS      PROGRESS  SINCE                     TIME LEFT",
        "q/2     processing  42%       2026-11-20T10:00:00.000Z  -",
        "q/?[2J  completed   100%      2026-11-20T10:00:00.000Z  -",
    ]
    assert fake.seen[0].path == "/v1/tasks?upstream=q&status=open%2Ccompleted&tag=user%3A7&group=g&limit=51"
    assert fake.seen[0].headers["Authorization"] == "Bearer t0"


async def test_a_list_says_when_there_is_more(fake):
    fake.plays(page(fake, "q/3", "q/2", "q/1", next="x"))
    result = await invoke(fake, "list", "--limit", "2", "--json")
    documents = [json.loads(line)["task"] for line in result.stdout.splitlines()]
    assert documents == ["q/3", "q/2"]
    assert result.stderr == "only the newest 2 are shown; --limit shows more\n"


async def test_an_empty_list_prints_nothing_for_programs(fake):
    fake.plays(page(fake))
    result = await invoke(fake, "list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no tasks\n")


async def test_a_list_that_is_rejected(fake):
    fake.plays(fake.problem(403, "forbidden", "not for you"))
    result = await invoke(fake, "list")
    assert (result.exit_code, result.output) == (2, "taskbridge list: not for you\n")
    fake.plays(fake.problem(503, "over_capacity", "full"))
    assert (await invoke(fake, "list")).exit_code == 3


# -- register, forget, close-group, submit


async def test_a_task_is_registered_and_watched(fake):
    created = fake.answer(201, {"state": fake.document("q/1", "unknown", "e-1"), "links": {}})
    fake.plays(created, [fake.finish("e-2", "failed")])
    words = ["--tag", "user:7", "--tag", "b", "--group", "g", "--deadline", "60"]
    result = await invoke(fake, "register", "q/1", *words, "--watch")
    assert (result.exit_code, result.output) == (1, "q/1\nq/1 failed --%\n")
    assert fake.seen[0].method == "PUT"
    assert json.loads(fake.seen[0].body) == {"tags": ["user:7", "b"], "group": "g", "deadline_seconds": 60}
    fake.plays(fake.problem(404, "task_not_found", "no such task"))
    result = await invoke(fake, "register", "q/1")
    assert (result.exit_code, result.output) == (2, "taskbridge register: no such task\n")


async def test_a_task_is_forgotten(fake):
    fake.plays(fake.answer(204), fake.problem(409, "conflict", "the task is not final"))
    result = await invoke(fake, "forget", "q/1")
    assert (result.exit_code, result.output) == (0, "")
    result = await invoke(fake, "forget", "q/1")
    assert (result.exit_code, result.output) == (2, "taskbridge forget: the task is not final\n")


async def test_a_group_is_closed(fake):
    fake.plays(fake.answer(200, {"group": "g", "closed": True, "counts": {"failed": 1}, "open": 2}))
    result = await invoke(fake, "close-group", "g")
    assert (result.exit_code, result.output) == (0, "group g closed; unfinished: 2; ended: 1 failed\n")
    result = await invoke(fake, "close-group", "g", "--json")
    assert json.loads(result.output) == {"group": "g", "closed": True, "counts": {"failed": 1}, "open": 2}


async def test_a_submit_has_tags_and_a_group(fake):
    fake.plays(fake.answer(201, {"state": fake.document("q/1", "queued", "e-1"), "links": {}}))
    result = await invoke(fake, "submit", "q", "{}", "--tag", "user:7", "--tag", "b", "--group", "g")
    assert (result.exit_code, result.output) == (0, "q/1\n")
    assert fake.seen[0].headers["X-Task-Tags"] == "user:7,b"
    assert fake.seen[0].headers["X-Task-Group"] == "g"
    result = await invoke(fake, "submit", "q", "{}", "--tag", "two words")
    assert result.exit_code == 2
