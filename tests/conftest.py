"""What all tests share: two speeds, surroundings that are always the same, and a few fixtures.

`make test` runs everything but what is marked `extended`; `make test-all` runs the rest. A path or a test
named on the command line runs whatever its mark is.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from hypothesis import HealthCheck, settings

from tests.fakes import s3_server as s3
from tests.harness import PATIENCE

# No example is judged by real milliseconds: on a busy machine any of them may take half a second.
# A change lands or not by what it is, not by luck: each run tries the same fifty examples of a test.
# `--hypothesis-profile=long` tries 500 others each time.
PROFILE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", PROFILE, max_examples=50, derandomize=True)
settings.register_profile("long", PROFILE, max_examples=500, derandomize=False)
settings.load_profile("same")

TESTS = Path(__file__).parent
# What starts a browser, Node, a compiler or a foreign server, or builds packages. A single test that is slow
# bears the mark itself.
EXTENDED = (
    "browser",
    "contract/clients/test_api_js.py",
    "contract/clients/test_bridge_js.py",
    "contract/clients/test_bridge_js_bytes.py",
    "contract/clients/test_bridge_js_package.py",
    "contract/clients/test_bridge_js_selections.py",
    "contract/clients/test_bridge_js_subscribe.py",
    "contract/clients/test_hooks_selections.py",
    "contract/sdks",
    "contract/test_s3_store.py",
    "contract/test_schemathesis.py",
    "deploy",
    "docs/test_operators.py",
    "docs/test_recipes.py",
    "docs/test_recipes_pages.py",
    "docs/test_recipes_typed.py",
    "docs/test_users_tasks.py",
    "docs/test_walkthrough.py",
    "grafana/test_live.py",
    "packages",
    "release",
)
NOT_EXTENDED = "not extended"  # the -m of `make test`
ONLY_EXTENDED = "extended"  # of `make test-all`
# Files that take longest begin first: else one of them is still running when all others are done.
FIRST = (
    "docs/test_recipes_typed.py",
    "stateful/test_replica_index.py",
    "stateful/test_replica_selections.py",
    "packages/test_node.py",
    "deploy/test_edges_boundaries.py",
    "webhooks/test_endpoints.py",
    "webhooks/test_kill.py",
    "webhooks/test_once.py",
    "release/test_distribution.py",
    "browser/test_inspector.py",
    "replicas/test_virtual.py",
    "packages/test_pages.py",
    "chaos/test_copies.py",
    "chaos/test_replicas.py",
    "docs/test_operators.py",
    "deploy/test_helm.py",
    "e2e/test_replicas.py",
    "docs/test_recipes_pages.py",
    "docs/test_recipes.py",
    "e2e/test_slow_requests.py",
    "e2e/test_secrets.py",
    "e2e/test_status_many.py",
    "e2e/test_logs.py",
    "e2e/test_expiry.py",
    "e2e/test_workers.py",
    "webhooks/test_flood.py",
    "chaos/test_provider.py",
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
FOREIGN_SETTINGS = ("BRIDGE_", "OTEL_", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR")


def pytest_configure(config: pytest.Config) -> None:
    """Make the surroundings the same everywhere; in each worker, before anything is imported."""
    forget_surroundings()


def forget_surroundings() -> None:
    """Undo what a shell, `nohup` or a supervisor hands down, here and so for every child.

    An ignored signal stays ignored over exec: under `trap '' INT`, or in a background job of `sh`, a child
    that is sent SIGINT would never end. Python's own handler is reset by exec, so children start as usual.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            usual = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    for name in [name for name in os.environ if name.startswith(FOREIGN_SETTINGS)]:
        del os.environ[name]
    local = "127.0.0.1,localhost,::1"  # a proxy in the environment is for the world, not for our own ports
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), local)))


def relative(path: Path) -> Path | None:
    """Where a file or folder is below ours, if it is."""
    return path.relative_to(TESTS) if path.is_relative_to(TESTS) else None


@functools.cache
def is_extended(path: Path) -> bool:
    """Whether a file or folder is left to `make test-all`."""
    place = relative(path)
    return place is not None and any(place.is_relative_to(one) for one in EXTENDED)


@functools.cache
def may_be_extended(path: Path) -> bool:
    """Whether a file may have a test for `make test-all`."""
    return is_extended(path) or "extended" in path.read_text("utf-8")


@functools.cache
def turn(path: Path) -> int:
    """When a file begins, the smallest first."""
    place = relative(path)
    return FIRST.index(str(place)) if str(place) in FIRST else len(FIRST)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what would be left out: four processes each import all that is collected."""
    if config.option.markexpr == NOT_EXTENDED and is_extended(collection_path):
        return True
    if config.option.markexpr == ONLY_EXTENDED and collection_path.suffix == ".py":
        return None if may_be_extended(collection_path) else True
    return None


def pytest_collection() -> None:
    """Nothing of what is collected becomes garbage; looking for some takes a third of the time."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by path, before `-m` is applied, and begin with what takes longest."""
    for item in items:
        if is_extended(item.path):
            item.add_marker(pytest.mark.extended)
        elif item.get_closest_marker("extended") and not may_be_extended(item.path):
            raise pytest.UsageError(
                f"{item.nodeid}: its file must say `extended`, or `make test-all` misses it"
            )
    items.sort(key=lambda item: turn(item.path))


@pytest.fixture
def anyio_backend() -> str:
    """One event loop library: asyncio."""
    return "asyncio"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client session that waits long and pools nothing between tests."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield session


@pytest.fixture
async def nothing_left_running() -> AsyncIterator[None]:
    """After a test no task of its own is left."""
    before = asyncio.all_tasks()
    yield
    left = [task for task in asyncio.all_tasks() - before if not task.done()]
    assert not left, f"left running: {left}"


def missing(what: str) -> None:
    """A program a test needs is not here: skip on a laptop, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and in CI it must not be")
    pytest.skip(f"{what} is not installed")


def forbidden(what: str) -> None:
    """The machine does not let us, which nothing that can be installed would change: skip, in CI too."""
    pytest.skip(f"{what} is not allowed here")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[s3.S3Server]:
    """A real server of S3 with a bucket; missing, it is an error in CI and a skip elsewhere."""
    if reason := s3.unavailable():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with s3.running() as running:
        yield running
