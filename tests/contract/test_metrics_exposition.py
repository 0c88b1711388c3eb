"""What a scrape of the running bridge reads: well-formed, complete from the start, and never growing."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from tests.conftest import missing
from tests.harness import (
    PATIENCE,
    PROVIDERS,
    Provider,
    qingbo,
    qingbo_done,
    running_bridge,
    running_simulator,
    upstreams_of,
)

pytestmark = pytest.mark.anyio

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TOOLS = Path(__file__).parent.parent / "tools"
ALLOWED_COMPLAINTS: set[str] = set()  # of promtool, each with the line of the contract that demands it

CALLS = {"status", "status_many", "submit", "cancel", "stream", "alias"}
OUTCOMES = {"ok", "not_modified", "refused", "not_found", "busy", "error", "timeout", "unreadable"}
STATUSES = {
    "queued",
    "processing",
    "input_required",
    "unknown",
    "completed",
    "failed",
    "cancelled",
    "lost",
}
SOURCES = {"poll", "stream", "callback", "submit"}
UPSTREAM = {"upstream": set(PROVIDERS)}
DELIVERY = {"delivery": {"sse", "websocket", "longpoll", "ndjson"}}
RESULT = "result"
SECRET = "callbacks-come-with-this"

# Contract section 7: each metric, its type, and every value its labels may have (None: any one value).
PROMISED = {
    "bridge_upstream_requests_total": ("counter", UPSTREAM | {"call": CALLS, "outcome": OUTCOMES}),
    "bridge_upstream_request_seconds": ("histogram", UPSTREAM | {"call": CALLS}),
    "bridge_lenient_readings_total": ("counter", UPSTREAM),
    "bridge_polls_total": ("counter", UPSTREAM | {RESULT: {"changed", "unchanged", "failed"}}),
    "bridge_polls_saved_total": ("counter", UPSTREAM),
    "bridge_polls_per_task": ("histogram", UPSTREAM),
    "bridge_poll_price_factor": ("gauge", UPSTREAM),
    "bridge_eta_error_ratio": ("histogram", UPSTREAM),
    "bridge_polls_wished_total": ("counter", UPSTREAM),
    "bridge_watches": ("gauge", UPSTREAM | {"source": SOURCES}),
    "bridge_interests": ("gauge", UPSTREAM),
    "bridge_task_transitions_total": ("counter", UPSTREAM | {"status": STATUSES}),
    "bridge_task_seconds": ("histogram", UPSTREAM | {"status": {"queued", "processing"}}),
    "bridge_detection_seconds": ("histogram", UPSTREAM | {"source": SOURCES}),
    "bridge_delivery_seconds": ("histogram", DELIVERY),
    "bridge_connections": ("gauge", DELIVERY),
    "bridge_connections_total": ("counter", DELIVERY),
    "bridge_disconnects_total": (
        "counter",
        DELIVERY
        | {"reason": {"left", "finished", "gone", "drain", "age", "slow", "expired", "over_capacity"}},
    ),
    "bridge_resumes_total": ("counter", DELIVERY | {RESULT: {"current", "newer", "reset", "ended"}}),
    "bridge_events_total": ("counter", DELIVERY),
    "bridge_conflated_total": ("counter", DELIVERY),
    "bridge_webhook_deliveries_total": (
        "counter",
        {RESULT: {"delivered", "failed", "expired", "gone", "dropped"}},
    ),
    "bridge_files_total": (
        "counter",
        UPSTREAM | {RESULT: {"sent", "not_modified", "refused", "unavailable", "timeout", "cut", "left"}},
    ),
    "bridge_file_bytes_total": ("counter", UPSTREAM | {"origin": {"provider", "store", "inline"}}),
    "bridge_files_in_flight": ("gauge", {}),
    "bridge_cost_total": ("counter", UPSTREAM),
    "bridge_output_copies_total": ("counter", {RESULT: {"in_time", "later", "error", "failed"}}),
    "bridge_output_copy_bytes_total": ("counter", {}),
    "bridge_output_copy_seconds": ("histogram", {}),
    "bridge_output_copies_in_flight": ("gauge", {}),
    "bridge_output_copies_waiting": ("gauge", {}),
    "bridge_output_copies_oldest_seconds": ("gauge", {}),
    "bridge_webhook_attempt_seconds": ("histogram", {}),
    "bridge_webhook_waiting": ("gauge", {}),
    "bridge_webhook_oldest_seconds": ("gauge", {}),
    "bridge_webhooks_disabled": ("gauge", {}),
    "bridge_callbacks_total": (
        "counter",
        UPSTREAM | {RESULT: {"accepted", "forged", "unknown_task", "challenge"}},
    ),
    "bridge_notices_total": (
        "counter",
        {
            "code": {
                "stale",
                "fresh",
                "stalled",
                "upstream_unavailable",
                "credential_refused",
                "unknown_status",
                "result_unavailable",
                "raw_omitted",
                "links_expiring",
                "task_not_found",
                "closing",
            }
        },
    ),
    "bridge_budget_wait_seconds": ("histogram", UPSTREAM),
    "bridge_budget_paused_seconds": ("gauge", UPSTREAM),
    "bridge_circuit_open": ("gauge", UPSTREAM),
    "bridge_upstream_state": (
        "gauge",
        UPSTREAM | {"state": {"VALID", "INITIALIZING", "INTERRUPTED", "OFF"}},
    ),
    "bridge_journal_failures_total": ("counter", {}),
    "bridge_journal_append_seconds": ("histogram", {}),
    "bridge_loop_lag_seconds": ("histogram", {}),
    "bridge_build_info": ("gauge", {"version": None}),
} | {
    f"process_{name}": (kind, {})
    for name, kind in {
        "cpu_seconds_total": "counter",
        "resident_memory_bytes": "gauge",
        "virtual_memory_bytes": "gauge",
        "start_time_seconds": "gauge",
        "open_fds": "gauge",
        "max_fds": "gauge",
    }.items()
    if sys.platform == "linux"
}


@dataclass(frozen=True)
class Scene:
    """A bridge of its own, and the provider behind it."""

    url: str
    log: list[str]
    provider: Provider
    http: aiohttp.ClientSession

    async def scrape(self, accept: str = "text/plain") -> str:
        async with self.http.get(f"{self.url}/metrics", headers={"Accept": accept}) as answer:
            assert answer.status == 200
            return await answer.text()


@asynccontextmanager
async def a_scene() -> AsyncIterator[Scene]:
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with running_simulator() as simulator, aiohttp.ClientSession(timeout=timeout) as http:
        quick = {"poll_min_seconds": 0.05, "poll_max_seconds": 0.05, "callback_secret": SECRET}
        async with running_bridge(upstreams_of(simulator, **quick)) as bridge:
            yield Scene(bridge.url, bridge.log, Provider(simulator, "qingbo", http), http)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Most tests here share one bridge."""
    return "asyncio"


@pytest.fixture
async def fresh() -> AsyncIterator[Scene]:
    """A bridge nobody has asked for anything."""
    async with a_scene() as scene:
        yield scene


@pytest.fixture(scope="module")
async def scene() -> AsyncIterator[Scene]:
    """A bridge that was used through every delivery. Nothing may be logged as an error while it is."""
    async with a_scene() as scene:
        await every_delivery(scene)
        yield scene
        complaints = [line for line in scene.log if "Traceback" in line or "error" in line.lower()]
        assert not complaints


async def every_delivery(scene: Scene) -> None:
    """One task followed by SSE, NDJSON, WebSocket and long-poll, from its beginning to its end."""
    ref = await scene.provider.script("t", qingbo("t", "processing", 10))
    streams = f"{scene.url}/v1/tasks/{ref}/events"
    state = f"{scene.url}/v1/tasks/{ref}"
    lines = {"Accept": "application/x-ndjson"}
    async with (
        scene.http.get(streams) as sse,
        scene.http.get(streams, headers=lines) as ndjson,
        scene.http.ws_connect(f"{scene.url}/v1/ws?task={ref}") as socket,
        scene.http.get(state) as before,
        asyncio.TaskGroup() as waiting,
    ):
        assert (await socket.receive_json())["type"] == "subscribed"
        held = {"If-None-Match": before.headers["ETag"], "Prefer": "wait=30"}
        later = waiting.create_task(read(scene, state, held))
        await until_longpoll_waits(scene)
        await scene.provider.then("t", qingbo_done("t"))
        assert b"event: end" in await sse.read()
        assert b'"event":"end"' in await ndjson.read()
        while (await socket.receive_json())["type"] != "done":
            pass
    assert later.result()["status"] == "completed"


async def read(scene, url, headers):
    async with scene.http.get(url, headers=headers) as answer:
        assert answer.status == 200
        return await answer.json()


async def until_longpoll_waits(scene):
    while value(await scene.scrape(), "bridge_connections", delivery="longpoll") < 1:
        pass


def value(text, name, **labels):
    return next(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )


def series(text):
    """Every series, without its value."""
    return {
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counted(families):
    """One sample a series, under the name of the contract: a histogram's is its count."""
    for family in families:
        for sample in family.samples:
            if family.type != "histogram" or sample.name.endswith("_count"):
                yield sample.name.removesuffix("_count"), sample


def rows(labels):
    """Every combination of label values."""
    combined = [{}]
    for name, values in labels.items():
        combined = [row | {name: value} for row in combined for value in values]
    return combined


def promtool() -> str:
    found = shutil.which("promtool") or shutil.which("promtool", path=TOOLS / "prometheus")
    if found is None:
        missing("promtool")
    return found


async def test_every_promised_series_is_there_before_any_traffic(fresh):
    families = list(text_string_to_metric_families(await fresh.scrape()))
    types = {f"{one.name}_total" if one.type == "counter" else one.name: one.type for one in families}
    assert types == {name: kind for name, (kind, _) in PROMISED.items()}
    there = {
        (name, *sorted((label, text) for label, text in sample.labels.items() if label != "version"))
        for name, sample in counted(families)
    }
    promised = {
        (name, *sorted(row.items()))
        for name, (_, labels) in PROMISED.items()
        for row in rows({label: values for label, values in labels.items() if values is not None})
    }
    assert there == promised


async def test_build_info_names_the_version(scene):
    from bridge import __version__

    assert value(await scene.scrape(), "bridge_build_info", version=__version__) == 1


async def test_promtool_has_no_complaint(scene):
    tool = promtool()
    text = await scene.scrape()
    command = [tool, "check", "metrics"]
    checked = await asyncio.to_thread(subprocess.run, command, input=text, text=True, capture_output=True)
    assert set((checked.stdout + checked.stderr).splitlines()) == ALLOWED_COMPLAINTS
    assert checked.returncode == (3 if ALLOWED_COMPLAINTS else 0)


async def test_openmetrics_is_given_to_who_accepts_it_and_parses(scene):
    text = await scene.scrape(OPENMETRICS)
    samples = {
        sample.name
        for family in openmetrics.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert text.endswith("# EOF\n")
    assert {name for name, (kind, _) in PROMISED.items() if kind != "histogram"} <= samples
    assert {f"{name}_bucket" for name, (kind, _) in PROMISED.items() if kind == "histogram"} <= samples


async def test_both_formats_have_the_same_series(scene):
    plain = series(await scene.scrape())
    other = {
        (sample.name, *sorted(sample.labels.items()))
        for family in openmetrics.text_string_to_metric_families(await scene.scrape(OPENMETRICS))
        for sample in family.samples
    }
    assert plain == other


async def test_each_delivery_is_counted(fresh):
    await every_delivery(fresh)
    text = await fresh.scrape()
    for delivery in DELIVERY["delivery"]:
        assert value(text, "bridge_connections_total", delivery=delivery) == 1
        assert value(text, "bridge_events_total", delivery=delivery) >= 1
        assert value(text, "bridge_delivery_seconds_count", delivery=delivery) >= 1
    assert value(text, "bridge_task_transitions_total", upstream="qingbo", status="completed") == 1


HOSTILE_IDS = (
    'a"} 1\nbridge_evil 1',
    "x" * 1024,
    "models/veo/operations/7",
    "../../metrics",
    "{__name__=~'.+'}",
    '\\n\\"',
    "任务-🎬",
    "%00%0a",
    "-",
    " ",
)
WRONG_PATHS = (
    "/",
    "/nothing/here",
    "/v1/tasks",
    "/v1/tasks/nobody/t",
    "/v1/tasks/nobody/t/events",
    "/v1/tasks/QINGBO/t",
    "/v1/tasks/qingbo/%0A",
    "/v1/tasks/qingbo/%FF",
    f"/v1/tasks/qingbo/{'y' * 300}",
    "/v1/events?task=nobody/x",
    "/v1/events?task=not-a-ref",
    "/v1/events",
    "/v1/aliases/nobody/mine",
    "/v1/aliases/bytespike/mine-and-only-mine",
    "/metrics/more",
    "/status/x",
)


@asynccontextmanager
async def nothing_grows(scene: Scene) -> AsyncIterator[None]:
    before = series(await scene.scrape())
    yield
    grown = series(await scene.scrape()) - before
    assert not grown


async def test_many_tasks_add_no_series(scene):
    async with nothing_grows(scene):
        refs = [
            await scene.provider.script(f"many-{number}", qingbo_done(f"many-{number}"))
            for number in range(200)
        ]
        async with scene.http.post(f"{scene.url}/v1/events", json={"tasks": refs}) as answer:
            assert (await answer.read()).count(b"event: done") == len(refs)


async def test_hostile_ids_add_no_series(scene):
    async with nothing_grows(scene):
        for task_id in HOSTILE_IDS:
            where = f"{scene.url}/v1/tasks/qingbo/{quote(task_id, safe='')}"
            for path in (where, where + "/events", where + "/events?last_event_id=evil-1%0A"):
                async with scene.http.get(URL(path, encoded=True)) as answer:
                    assert answer.status in {204, 400, 404}  # 204: a cursor, and no such task


async def test_wrong_paths_and_unknown_names_add_no_series(scene):
    async with nothing_grows(scene):
        for path in WRONG_PATHS:
            for method in ("GET", "POST", "PROPFIND"):
                url = URL(scene.url + path, encoded=True)
                async with scene.http.request(method, url, json={}) as answer:
                    assert answer.status in {200, 400, 404, 405}, (method, path, await answer.text())
        for path in ("qingbo/wrong", f"qingbo/{SECRET}", f"nobody/{SECRET}"):
            body = {"task_id": "never-heard-of", "status": "evil"}
            async with scene.http.post(f"{scene.url}/v1/callbacks/{path}", json=body) as answer:
                assert answer.status < 500


async def test_hostile_sockets_add_no_series(scene):
    async with nothing_grows(scene), scene.http.ws_connect(f"{scene.url}/v1/ws") as socket:
        for text in ("", "[]", "{}", '{"type":"evil"}', '{"type":"subscribe","tasks":["nobody/x"]}'):
            await socket.send_str(text)
            assert (await socket.receive_json())["type"] == "error"


async def test_words_no_mapping_knows_add_no_series(scene):
    async with nothing_grows(scene):
        ref = await scene.provider.script("odd", qingbo("odd", "evil_status", 5))
        async with scene.http.get(f"{scene.url}/v1/tasks/{ref}") as answer:
            assert (await answer.json())["status"] == "unknown"
