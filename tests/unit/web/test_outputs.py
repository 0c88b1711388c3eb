"""Where a file is looked for, in which order, and what the client is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.auth.caller import ANONYMOUS
from bridge.core.task import TaskKey
from bridge.delivery.handoff import ConnectionHandoff
from bridge.errors import UpstreamRefused, UpstreamTimeout
from bridge.outputs.source import OutputFile
from bridge.outputs.store import StoreError
from bridge.outputs.stored import open_stored
from bridge.telemetry.metrics import FILE_ORIGINS, FILE_RESULTS, Metrics
from bridge.web.outputs import FileOrigin, OutputResponses, RequestedFile, safe_filename
from bridge.web.problems import HANDLERS
from tests.fakes.origin import MP4
from tests.fakes.stores import MemoryStore

pytestmark = pytest.mark.anyio

KEY = TaskKey("videos", "video_1")
NAME = "videos/video-1/0"


@asynccontextmanager
async def expired(*, headers: Mapping[str, str]) -> AsyncIterator[OutputFile]:
    del headers
    raise UpstreamRefused("the link has expired", provider_status=403)
    yield


@asynccontextmanager
async def silent(*, headers: Mapping[str, str]) -> AsyncIterator[OutputFile]:
    del headers
    raise UpstreamTimeout
    yield


class Scene:
    """An app with one file, in the places that a test says."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry(), ["videos"])
        self.store = MemoryStore()
        self.calls = 0
        limits = SimpleNamespace(open_file=lambda *_: None, check_provider_call=self._count)
        settings = SimpleNamespace(write_timeout_seconds=5.0)
        services = SimpleNamespace(limits=limits, metrics=self.metrics, settings=settings)
        self.responses = OutputResponses(cast(Any, services))

    def _count(self, *_: object) -> None:
        self.calls += 1

    @property
    def stored(self) -> FileOrigin:
        return FileOrigin("store", partial(open_stored, self.store, NAME))

    async def get(self, *origins: FileOrigin, **headers: str) -> httpx.Response:
        async def endpoint(request: Request) -> Response:
            wanted = RequestedFile(KEY, "the file", "videos-video_1-0", "video", origins)
            return await self.responses.respond(request, ANONYMOUS, wanted)

        app = Starlette(routes=[Route("/", endpoint)], exception_handlers=HANDLERS)
        transport = httpx.ASGITransport(cast(Any, ConnectionHandoff(app)))
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(transport=transport, base_url="http://bridge.example") as http:
            return await http.get("/", headers=sent)

    def counted(self) -> dict[str, float]:
        results = {name: self.metrics.files.labels("videos", name).value for name in FILE_RESULTS}
        sent = {name: self.metrics.file_bytes.labels("videos", name).value for name in FILE_ORIGINS}
        return {name: value for name, value in (results | sent).items() if value}


async def put(store: MemoryStore, content: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield content

    await store.put(NAME, chunks(), media_type="video/mp4", max_bytes=10**9)


async def test_the_copy_of_an_expired_link_is_served_with_ranges() -> None:
    scene = Scene()
    await put(scene.store, MP4)
    answer = await scene.get(FileOrigin("provider", expired), scene.stored, Range="bytes=1000-1999")
    assert (answer.status_code, answer.content) == (206, MP4[1000:2000])
    assert answer.headers["Content-Type"] == "video/mp4"
    assert scene.counted() == {"sent": 1, "store": 1000}


async def test_a_copy_first_costs_no_call_to_the_provider() -> None:
    scene = Scene()
    await put(scene.store, MP4)
    answer = await scene.get(scene.stored, FileOrigin("provider", expired))
    assert (answer.status_code, answer.content) == (200, MP4)
    assert scene.calls == 0
    again = await scene.get(scene.stored, If_None_Match=answer.headers["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == answer.headers["ETag"]


async def test_without_a_copy_the_providers_error_is_told() -> None:
    scene = Scene()
    for origin, status, result in ((expired, 502, "refused"), (silent, 504, "timeout")):
        before = scene.counted().get(result, 0)
        answer = await scene.get(FileOrigin("provider", origin), scene.stored)
        assert answer.status_code == status
        assert scene.counted()[result] == before + 1


async def test_a_store_that_fails_hides_no_error_of_the_provider() -> None:
    scene = Scene()
    scene.store.failure = StoreError("the bucket is away")
    answer = await scene.get(scene.stored, FileOrigin("provider", expired))
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream_refused")


async def test_a_page_that_others_put_into_the_bucket_is_not_shown() -> None:
    scene = Scene()
    await put(scene.store, b"<html><script>alert(1)</script>" * 9)
    answer = await scene.get(scene.stored)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="videos-video_1-0"'


@pytest.mark.parametrize(
    "task_id",
    ["a/b", "../../etc/passwd", 'a"; filename="x.exe', "a\u202eb", "ä", "...", "x" * 1000, "a b\\c"],
)
def test_a_file_name_has_nothing_that_a_system_or_a_header_reads(task_id: str) -> None:
    name = safe_filename(TaskKey("videos", task_id), 0)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert name.startswith("videos-")
    assert ".." not in name
    assert len(name) < 200
