"""The profile `valkey` of compose.yaml, without containers: its programs, commands, files and settings.

Names of services become ports of this machine; nothing else is changed.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from bridge.client.backoff import Timeouts
from bridge.client.bridge import Bridge
from tests.chaos.judge import Account, Judge
from tests.chaos.proxy import HOST, free_port
from tests.chaos.site import KEY, QUICK, Studio, studio
from tests.conftest import missing
from tests.deploy.edge import needs, program
from tests.deploy.test_compose import BALANCER, PASSWORD, REPLICAS, SERVICES, _variables
from tests.deploy.tokens import SECRET, mint
from tests.docs.pages import ROOT
from tests.fakes.redis_servers import binaries, unavailable
from tests.grafana.pages import dashboard_expressions, engine_metrics, filled_in, rule_expressions, selectors
from tests.grafana.prometheus import scraping
from tests.grafana.test_live import WINDOW, unanswered
from tests.harness import PATIENCE, BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio

LIFE = {"queue_seconds": 0.5, "run_seconds": 20, "outcome": "completed"}
TASKS, VIEWERS = 6, 24
LEASE = 3.0  # of ten seconds in the file
TIMEOUTS = Timeouts(silence=10.0, first_delay=0.05, min_delay=0.02, max_delay=0.3)


@dataclass
class Stack:
    """What runs.

    Attributes:
        admin: The admin address of each bridge.
    """

    url: str
    bridges: dict[str, BridgeProcess]
    admin: dict[str, str]
    valkey: Process
    valkey_port: int
    valkey_environment: dict[str, str]


@pytest.fixture
async def provider() -> AsyncIterator[Studio]:
    async with studio() as running:
        yield running


@pytest.fixture
async def stack(provider: Studio, tmp_path: Path) -> AsyncIterator[Stack]:
    needs("haproxy")
    async with AsyncExitStack() as everything:
        enter = everything.enter_async_context
        port = free_port()
        valkey, environment = await enter(_valkey(tmp_path, port))
        bridges, admin = {}, {}
        for name in REPLICAS:
            bridges[name] = await enter(_bridge(name, provider, port))
            assert bridges[name].process.stdout is not None
            line = (await bridges[name].process.stdout.readline()).decode()
            admin[name] = line.split()[-1]
        url = await enter(
            _balancer(tmp_path, {name: int(one.url.rpartition(":")[2]) for name, one in bridges.items()})
        )
        yield Stack(url, bridges, admin, valkey, port, environment)


@asynccontextmanager
async def _valkey(folder: Path, port: int) -> AsyncIterator[tuple[Process, dict[str, str]]]:
    """The command of the service; the folders `bin`, `etc` and `data` are what it has in its container."""
    if reason := unavailable("valkey"):
        missing(reason)
    for name in ("bin", "data"):
        (folder / name).mkdir()
    (folder / "bin" / "valkey-server").symlink_to(str(binaries()["valkey"].path))
    client = shutil.which("valkey-cli") or shutil.which("redis-cli", path=Path(sys.executable).parent)
    if client is None:
        missing("valkey-cli")
    # what the container's own port is there
    (folder / "bin" / "valkey-cli").write_text(f'#!/bin/sh\nexec {client} -p {port} "$@"\n')
    (folder / "bin" / "valkey-cli").chmod(0o755)
    config = (ROOT / "deploy/compose/valkey.conf").read_text("utf-8")
    assert "dir /data" in config
    (folder / "valkey.conf").write_text(
        config.replace("dir /data", f"dir {folder}/data\nport {port}\nbind {HOST}")
    )
    service = SERVICES["valkey"]
    assert service["entrypoint"][:2] == ["/bin/sh", "-ec"]
    script = service["entrypoint"][2].replace("$$", "$")
    assert "/etc/valkey/valkey.conf" in script
    environment = {"PATH": f"{folder}/bin:{os.environ['PATH']}"} | _variables("valkey")
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-ec",
        script.replace("/etc/valkey/valkey.conf", f"{folder}/valkey.conf"),
        env=environment,
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = []
    try:
        async with asyncio.timeout(PATIENCE):
            while b"eady to accept connections" not in (line := await process.stdout.readline()):
                said.append(line)
                assert line, b"".join(said).decode()
        yield process, environment
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def _bridge(name: str, provider: Studio, engine: int):  # an asynccontextmanager
    """A replica with the settings of the service."""
    own = {key: value for key, value in _variables(name).items() if "UPSTREAMS" not in key}
    url = own.pop("BRIDGE_ENGINE")
    assert "@valkey:6379" in url
    own |= {"BRIDGE_ADMIN_HOST": HOST, "BRIDGE_ADMIN_PORT": "0", "BRIDGE_TOKEN_ISSUER": "test"}
    upstream = {"base_url": provider.url, "api_key": KEY} | QUICK
    return running_bridge(
        {"qingbo": upstream},
        environment=own,
        engine=url.replace("valkey:6379", f"{HOST}:{engine}"),
        engine_lease_seconds=LEASE,
        keepalive_seconds=1.0,
    )


@asynccontextmanager
async def _balancer(folder: Path, bridges: Mapping[str, int]) -> AsyncIterator[str]:
    """HAProxy with the file of the service."""
    port = free_port()
    text = BALANCER.read_text("utf-8")
    wanted = {"bind :8080": f"bind {HOST}:{port}"}
    wanted |= {f" {name}:8080": f" {HOST}:{number}" for name, number in bridges.items()}
    for old, new in wanted.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "haproxy.cfg").write_text(text)
    command = program("haproxy") or "haproxy"
    check = await asyncio.create_subprocess_exec(
        command, "-c", "-f", str(folder / "haproxy.cfg"), stdout=DEVNULL, stderr=PIPE
    )
    _, said = await check.communicate()
    assert (check.returncode, b"WARNING" in said) == (0, False), said.decode()
    process = await asyncio.create_subprocess_exec(
        command, "-db", "-f", str(folder / "haproxy.cfg"), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
    )
    url = f"http://{HOST}:{port}"
    try:
        # the health check of the service
        assert SERVICES["balancer"]["healthcheck"]["test"][-1] == "http://127.0.0.1:8080/readyz"
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as http:
            while True:
                with suppress(aiohttp.ClientError):
                    async with http.get(f"{url}/readyz") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.05)
        yield url
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_viewers_behind_the_balancer_notice_nothing_of_a_killed_bridge(
    stack: Stack, provider: Studio
) -> None:
    judge = Judge()
    refs = await provider.submit([LIFE | {"run_seconds": 8 + number} for number in range(TASKS)])
    async with AsyncExitStack() as watchers:
        watching = [
            asyncio.create_task(_watch(stack, judge.account(f"viewer-{number}", [refs[number % TASKS]])))
            for number in range(VIEWERS)
        ]
        for one in watching:
            watchers.callback(one.cancel)
        await _until(lambda: all(one.known for one in judge.accounts), watching)
        shares = [await _metric(stack, name, 'bridge_connections{delivery="sse"}') for name in REPLICAS]
        assert sum(shares) == VIEWERS
        assert min(shares) > VIEWERS / 6, f"spread by the number of connections: {shares}"
        async with asyncio.timeout(PATIENCE):  # known from the renewals
            while await _metric(stack, REPLICAS[0], "bridge_replicas") != len(REPLICAS):  # noqa: ASYNC110
                await asyncio.sleep(0.25)
        owned = {name: await _metric(stack, name, "bridge_owned") for name in REPLICAS}
        assert sum(owned.values()) == TASKS  # each task is polled by one of them
        victim = max(REPLICAS, key=lambda name: owned[name])
        (survivor,) = set(REPLICAS) - {victim}
        stack.bridges[victim].process.send_signal(signal.SIGKILL)
        loop = asyncio.get_running_loop()
        killed = loop.time()
        while (await _metric(stack, survivor, "bridge_owned")) < TASKS:
            assert loop.time() - killed < LEASE + 2.0
            await asyncio.sleep(0.05)
        provider.advance(60)
        await _until(lambda: all(one.over for one in judge.accounts), watching)
    assert judge.verdict(provider.truth(refs)) == []


async def test_the_health_check_of_valkey_is_right_in_both_directions(stack: Stack) -> None:
    kind, script = SERVICES["valkey"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"

    async def check() -> int:
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", script.replace("$$", "$"), env=stack.valkey_environment, stderr=DEVNULL
        )
        return await process.wait()

    assert await check() == 0
    stack.valkey.kill()
    await stack.valkey.wait()
    assert await check() != 0


async def test_nobody_reaches_valkey_without_the_password_and_no_argument_shows_it(stack: Stack) -> None:
    from redis.asyncio import Redis
    from redis.exceptions import AuthenticationError, NoPermissionError

    arguments = Path(f"/proc/{stack.valkey.pid}/cmdline").read_bytes().decode()  # noqa: ASYNC240
    assert "valkey-server" in arguments
    assert PASSWORD not in arguments
    port = stack.valkey_port
    async with Redis(port=port) as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.ping()
    async with Redis(port=port, username="bridge", password=PASSWORD) as known:
        info = await known.info("memory")
        assert (info["maxmemory_policy"], info["maxmemory"]) == ("noeviction", 512 * 1024 * 1024)
        assert (await known.info("persistence"))["aof_enabled"] == 1
        with pytest.raises(NoPermissionError):
            await known.flushall()


async def test_prometheus_reads_both_and_their_alerts_are_quiet(stack: Stack, tmp_path: Path) -> None:
    (folder := tmp_path / "prometheus").mkdir()
    targets = [url.removeprefix("http://") for url in stack.admin.values()]
    async with scraping(targets[0], folder, also=targets[1:], token=mint()) as prometheus:
        async with asyncio.timeout(PATIENCE):
            while len(await prometheus.value("bridge_engine_connected == 1")) < len(REPLICAS):  # noqa: ASYNC110
                await asyncio.sleep(0.25)
        async with asyncio.timeout(PATIENCE):  # known from the renewals
            while await prometheus.value("bridge_replicas") != [2.0, 2.0]:  # noqa: ASYNC110
                await asyncio.sleep(0.25)
        assert max(await prometheus.value("bridge_engine_lag_seconds")) < 2.0
        assert min(await prometheus.value("bridge_lease_seconds")) > 0.0
        assert all(used > 0 for used in await prometheus.value("bridge_engine_memory_used_bytes"))
        assert await prometheus.value("bridge_engine_memory_limit_bytes") == [512.0 * 1024 * 1024] * 2
        # what the dashboard and the alerts ask about an engine has an answer
        own = engine_metrics()
        asked = {
            where: filled_in(expr, window=WINDOW)
            for where, expr in dashboard_expressions()
            if own & {selector.name for selector in selectors(expr)}
        } | {
            f"{where}: {selector.text}": selector.text
            for where, expr in rule_expressions()
            for selector in selectors(expr)
            if selector.name in own
        }
        assert len(asked) > 20
        assert await unanswered(prometheus, asked) == {}
        assert (
            await prometheus.value('ALERTS{alertname=~"BridgeEngine.*|BridgeStates.*|BridgeTasksO.*"}') == []
        )


async def _watch(stack: Stack, account: Account) -> None:
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.2))

    async with Bridge(
        stack.url, mint(), timeouts=TIMEOUTS, rng=random.Random(account.name), sleep=sleep
    ) as bridge:
        async for state in bridge.watch(*account.refs):
            account.connected(cursor=None)  # the connection that delivered it is unknown
            account.state(state.document)
    account.ended("our client")


async def _until(true, watching: list[asyncio.Task[None]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            for one in watching:
                if one.done() and one.exception() is not None:
                    raise one.exception()
            await asyncio.sleep(0.02)


async def _metric(stack: Stack, name: str, series: str) -> float:
    headers = {"Authorization": f"Bearer {mint()}"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.get(f"{stack.admin[name]}/metrics") as answer,
    ):
        text = await answer.text()
    for line in text.splitlines():
        if line.startswith(f"{series} "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no series {series}")


def test_the_token_of_these_tests_is_the_one_that_the_services_accept() -> None:
    assert SECRET in _variables("bridge-1")["BRIDGE_TOKEN_SECRETS"]
