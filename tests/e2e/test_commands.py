"""The commands as an operator types them."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from tests.commands import run
from tests.e2e.scene import Scene, stage
from tests.harness import PATIENCE, answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

FILE = """
journal = "memory"
linger_seconds = 7
keepalive_seconds = 11

[upstreams.qingbo]
base_url = "http://127.0.0.1:1/qingbo"
api_key = "file-key"
poll_min_seconds = 3
callback_secret = "file-secret"

[upstreams.vapi]
api_key = "other-key"

[upstreams.my-own-bytespike]
preset = "bytespike"
"""


@asynccontextmanager
async def started(*arguments: str, **variables: str) -> AsyncIterator[Process]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bridge",
        *arguments,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=inherited | variables,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        process._transport.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(first_state_timeout_seconds=0.4) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bridge.toml"
    path.write_text(FILE)
    return path


async def test_check_config_prints_the_effective_settings_without_a_secret(file: Path) -> None:
    arguments = ("check-config", "--config", str(file), "--port", "9001")
    ended, table = await asyncio.gather(
        run(*arguments, "--json", BRIDGE_LINGER_SECONDS="9"), run(*arguments, BRIDGE_LINGER_SECONDS="9")
    )
    assert (
        (ended.code, ended.err)
        == (table.code, table.err)
        == (
            0,
            "warning: upstreams.my-own-bytespike: no API key: set api_key or api_key_file\n",
        )
    )
    shown = orjson.loads(ended.out)
    for name, value, source in (
        ("port", 9001, "command line"),
        ("linger_seconds", 9, "environment"),
        ("keepalive_seconds", 11, "file"),
        ("retention_seconds", 86_400, "default"),
        ("upstreams.qingbo.preset", "qingbo", "default"),
        ("upstreams.qingbo.base_url", "http://127.0.0.1:1/qingbo", "file"),
        ("upstreams.qingbo.api_key", "***", "file"),
        ("upstreams.qingbo.poll_min_seconds", 3, "file"),
        ("upstreams.qingbo.poll_max_seconds", 5, "preset"),
        ("upstreams.my-own-bytespike.preset", "bytespike", "file"),
        ("upstreams.my-own-bytespike.base_url", "https://llm.bytespike.ai", "preset"),
        ("upstreams.my-own-bytespike.api_key", None, "default"),
    ):
        assert shown[name] == {"value": value, "source": source}
        text = "-" if value is None else str(value)
        assert re.search(rf"^{re.escape(name)} +{re.escape(text)} +{source}$", table.out, re.MULTILINE), name
    for secret in ("file-key", "file-secret", "other-key"):
        assert secret not in ended.out + table.out


async def test_an_old_name_is_reported_by_check_config_and_at_the_start(file: Path) -> None:
    sentence = "ops_port was renamed to admin_port"
    checked = await run("check-config", "--config", str(file), BRIDGE_OPS_PORT="0")
    assert checked.code == 0
    assert checked.err.startswith(f"warning: {sentence};")
    async with started("serve", "--config", str(file), "--port", "0", BRIDGE_OPS_PORT="0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            assert b"listening" in await process.stdout.readline()
            process.terminate()
            log = (await process.stderr.read()).decode()
    assert log.count(sentence) == 1


async def test_an_invalid_value_under_an_old_name_is_reported_with_the_new_name_by_both(file: Path) -> None:
    arguments, variables = ("--config", str(file)), {"BRIDGE_PROOF_SECONDS": "bad"}
    runs = (run(command, *arguments, **variables) for command in ("check-config", "serve"))
    for ended in await asyncio.gather(*runs):
        assert (ended.code, ended.out) == (2, "")
        assert "  - proof_seconds: " in ended.err
        assert "warning: proof_seconds was renamed to ownership_cache_seconds;" in ended.err


async def test_the_environment_is_over_the_file_down_to_single_settings_of_an_upstream(file: Path) -> None:
    ended = await run(
        "check-config",
        "--json",
        "--config",
        str(file),
        BRIDGE_UPSTREAMS__QINGBO__POLL_MIN_SECONDS="4",
        BRIDGE_UPSTREAMS__MY_OWN_BYTESPIKE__TIMEOUT_SECONDS="5",
    )
    assert ended.code == 0, ended.err
    shown = orjson.loads(ended.out)
    assert shown["upstreams.qingbo.poll_min_seconds"] == {"value": 4, "source": "environment"}
    assert shown["upstreams.qingbo.base_url"]["value"] == "http://127.0.0.1:1/qingbo"
    assert shown["upstreams.my-own-bytespike.timeout_seconds"] == {"value": 5, "source": "environment"}
    by_variable = await run("check-config", BRIDGE_CONFIG=str(file))
    assert by_variable.code == 0


async def test_every_mistake_is_told_in_one_message_with_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        """
colour = "red"
port = 99999
journal = "stone"
host = "0.0.0.0"

[upstreams.qingbo]
api_key = "key-in-a-bad-file"
poll_min_seconds = 5
poll_max_seconds = 1
speed = 3
timeout_seconds = -1
base_url = "ftp://x"

[upstreams.nobody]
api_key = "x"

[upstreams.Bad_Name]
preset = "none-of-that-name"
"""
    )
    runs = (run(command, "--config", str(path), BRIDGE_NONSENSE="1") for command in ("check-config", "serve"))
    for ended in await asyncio.gather(*runs):
        assert (ended.code, ended.out) == (2, "")
        for part in (
            "BRIDGE_NONSENSE",
            "colour",
            "port",
            "journal",
            "0.0.0.0",
            "poll_min_seconds",
            "speed",
            "timeout_seconds",
            "base_url",
            "upstreams.nobody",
            "Bad_Name",
            "none-of-that-name",
        ):
            assert part in ended.err, f"{part} is not told"
        assert "key-in-a-bad-file" not in ended.err
        assert "Traceback" not in ended.err


async def test_a_file_that_is_none_is_a_mistake_and_no_traceback(tmp_path: Path) -> None:
    contents = ["not toml at all [", "\x00", "upstreams = 3", "[upstreams]\nqingbo = 3"]
    paths = [tmp_path / f"odd{number}.toml" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content)
    for ended in await asyncio.gather(*(run("check-config", "--config", str(path)) for path in paths)):
        assert ended.code == 2
        assert "Traceback" not in ended.err


async def test_a_base_url_that_could_hold_a_secret_is_a_mistake_and_is_not_repeated() -> None:
    urls = ["http://user:pass-word@x/y", "http://x/?key=pass-word", "http://x/#pass-word"]
    runs = (run("check-config", BRIDGE_UPSTREAMS__QINGBO__BASE_URL=url) for url in urls)
    for ended in await asyncio.gather(*runs):
        assert (ended.code, ended.out) == (2, "")
        assert "upstreams.qingbo.base_url" in ended.err
        assert "pass-word" not in ended.err


async def test_a_file_that_is_missing_is_a_mistake(tmp_path: Path) -> None:
    ended = await run("serve", "--config", str(tmp_path / "nowhere.toml"))
    assert ended.code == 2
    assert "nowhere.toml" in ended.err
    assert "Traceback" not in ended.err


async def test_no_upstream_at_all_is_a_mistake() -> None:
    ended = await run("serve")
    assert ended.code == 2
    assert "upstreams" in ended.err


async def test_a_public_address_is_refused_without_insecure(file: Path) -> None:
    refused = await run("serve", "--config", str(file), "--host", "0.0.0.0", "--port", "0")
    assert refused.code == 2
    assert "--insecure" in refused.err
    async with started(
        "serve", "--config", str(file), "--host", "0.0.0.0", "--port", "0", "--insecure"
    ) as process:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert b"listening" in await process.stdout.readline()
        process.terminate()
        assert await process.wait() == 0


async def test_serve_listens_where_the_file_and_the_options_say(file: Path) -> None:
    async with started("serve", "--config", str(file), "--port", "0") as process:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await process.stdout.readline()).decode()
        url = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert url, line
        healthy = await run("health", "--url", url[0])
        assert (healthy.code, orjson.loads(healthy.out)["ready"]) == (0, True)
        second = await run("serve", "--config", str(file), "--port", url[0].rpartition(":")[2])
        assert second.code == 1
        assert "cannot listen" in second.err
        assert "Traceback" not in second.err
        process.terminate()
        assert await process.wait() == 0
    gone = await run("health", "--url", url[0])
    assert gone.code == 1
    assert "Traceback" not in gone.err


async def test_a_failed_start_ends_with_one_cause_and_one_next_command(file: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        runs = (
            run("serve", "--config", str(file), "--port", str(port)),
            run("serve", "--config", str(file), "--port", "0", BRIDGE_JOURNAL=f"sqlite:{missing}/b.db"),
            run("serve", "--config", str(file), "--port", "0", BRIDGE_JOURNAL=f"sqlite:{tmp_path}"),
        )
        busy, no_folder, no_file = await asyncio.gather(*runs)
    assert (busy.code, no_folder.code, no_file.code) == (1, 3, 3)
    assert busy.err.endswith(
        f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
        f"Next: taskbridge serve --config {file} --port {port + 1}\n"
    )
    assert no_folder.err.endswith(f"create it first\nNext: mkdir -p {missing}\n")
    assert re.search(
        r"\nError: the journal \S+ is a directory.*\nNext: BRIDGE_JOURNAL=sqlite:\S+ taskbridge serve .*\n$",
        no_file.err,
    )


async def test_health_of_an_address_that_is_none_is_an_error_and_no_traceback() -> None:
    urls = ["ftp://x", "nonsense", "http://", "http://127.0.0.1:99999"]
    for ended in await asyncio.gather(*(run("health", "--url", url) for url in urls)):
        assert ended.code in {1, 2}
        assert "Traceback" not in ended.err


async def test_health_of_another_server_says_so_in_one_line() -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(
            text="<html>" * 500, content_type="text/html", status=int(request.path.partition("/s")[2][:3])
        )

    app = web.Application()
    app.router.add_get("/{tail:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        for status in (200, 404, 503):
            ended = await run("health", "--url", f"{site.name}/s{status}")
            assert (ended.code, ended.out) == (1, "")
            assert ended.err.strip().endswith(f"answers with HTTP {status}, but not as a bridge does")
    finally:
        await runner.cleanup()


async def test_watch_prints_plain_lines_and_exits_0_when_all_completed(scene: Scene) -> None:
    tasks = [scene.id(), scene.id()]
    refs = [
        await scene.script("qingbo", task, qingbo(task, "processing", 5), qingbo_done(task)) for task in tasks
    ]
    ended = await run("watch", *refs, "--url", scene.bridge.url)
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    for ref in refs:
        assert any(line.startswith(ref) and "completed" in line for line in ended.out.splitlines())


async def test_watch_json_prints_each_state_document_as_a_line(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5), qingbo_done(task))
    ended = await run("watch", ref, "--json", BRIDGE_URL=scene.bridge.url)
    assert ended.code == 0
    states = [orjson.loads(line) for line in ended.out.splitlines()]
    assert [state["progress"] for state in states] == [5, 100]
    assert all(state["task"] == ref for state in states)


async def test_watch_exits_1_when_one_failed(scene: Scene) -> None:
    good, bad = scene.id(), scene.id()
    refs = [
        await scene.script("qingbo", good, qingbo_done(good)),
        await scene.script("qingbo", bad, qingbo(bad, "failed", error={"code": "x", "message": "y"})),
    ]
    assert (await run("watch", *refs, "--url", scene.bridge.url)).code == 1


async def test_watch_exits_3_when_the_bridge_cannot_be_reached() -> None:
    ended = await run("watch", "qingbo/x", "--url", "http://127.0.0.1:9", "--give-up", "0.5")
    assert ended.code == 3
    assert "Traceback" not in ended.err


async def test_watch_exits_2_for_a_task_that_does_not_exist_or_is_no_ref(scene: Scene) -> None:
    missing = answer({"error": {"code": "task_not_found", "message": "no"}}, status=404)
    ref = await scene.script("qingbo", scene.id(), missing)
    runs = (run("watch", wrong, "--url", scene.bridge.url) for wrong in (ref, "nonsense", "other/x"))
    for ended in await asyncio.gather(*runs):
        assert ended.code == 2, ended
        assert "Traceback" not in ended.err


async def test_simulate_prints_where_it_listens_and_the_base_urls() -> None:
    async with started("simulate", "--port", "0") as process:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            lines = [(await process.stdout.readline()).decode() for _ in range(5)]
        assert re.match(r"simulator listening on http://127\.0\.0\.1:\d+\n", lines[0])
        assert [line.split()[0] for line in lines[2:]] == ["qingbo", "vapi", "bytespike"]
        process.terminate()
        assert await process.wait() == 0


async def test_help_and_version_name_every_command() -> None:
    helped = await run("--help")
    assert helped.code == 0
    for command in ("serve", "demo", "simulate", "watch", "submit", "check-config", "health"):
        assert command in helped.out
    assert (await run("--version")).code == 0
    assert (await run("dance")).code == 2
