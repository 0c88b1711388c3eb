"""The documents of the API and the page to try requests on: what is served, where, with which addresses."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest
import yaml

from tests.e2e.scene import Scene, stage
from tests.e2e.test_ops_address import apart
from tests.fakes.credentials import TOKEN_SETTINGS
from tests.tools.swagger_ui import FILES, FOLDER, LICENSES, unpacked

pytestmark = pytest.mark.anyio

DOCUMENTS = ("/openapi.yaml", "/openapi.json", "/asyncapi.yaml", "/state.schema.json")
MAX_BYTES = 1_500_000
HERE = {"/livez", "/readyz", "/status", "/metrics", *DOCUMENTS}


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(inspector=False) as made:
        yield made


def test_the_files_are_those_of_the_pinned_version() -> None:
    for name, checksum in FILES.items():
        assert sha256(unpacked(name)).hexdigest() == checksum, name
    assert "Apache License" in (FOLDER / LICENSES).read_text("utf-8")
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < MAX_BYTES


async def test_the_page_with_a_slash_behind_it_is_the_same_below_any_prefix(scene: Scene) -> None:
    answer = await scene.get("/docs/")
    assert (answer.status, answer.headers["Location"]) == (308, "../docs")


async def test_the_page_and_its_files(scene: Scene) -> None:
    page = await scene.get("/docs")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    names = re.findall(r'(?:src|href)="(docs/[^"]+)"', page.body.decode())
    assert len(names) == 5
    for path in ("/docs", *(f"/{name}" for name in names), *DOCUMENTS):
        for coding in ("gzip, br", "identity", "gzip;q=0"):
            answer = await scene.get(path, Accept_Encoding=coding)
            assert answer.status == 200, path
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-cache"
            again = await scene.get(path, Accept_Encoding=coding, If_None_Match=f"W/{answer.headers['ETag']}")
            assert (again.status, again.body) == (304, b"")
            head = await scene.call("HEAD", path, headers={"Accept-Encoding": coding})
            assert (head.body, head.headers["Content-Length"]) == (b"", str(len(answer.body)))
            assert ("Content-Encoding" in answer.headers) <= (coding == "gzip, br")


async def test_the_bundle_is_sent_as_the_client_takes_it(scene: Scene) -> None:
    packed = await scene.get("/docs/swagger-ui-bundle.js", Accept_Encoding="br, GZIP;q=0.5")
    plain = await scene.get("/docs/swagger-ui-bundle.js", Accept_Encoding="br")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body == unpacked("swagger-ui-bundle.js")
    assert packed.headers["ETag"] != plain.headers["ETag"]
    assert "Accept-Encoding" in packed.headers["Vary"]
    assert packed.headers["Content-Type"] == plain.headers["Content-Type"] == "text/javascript; charset=utf-8"


async def test_the_policy_lets_nothing_in_but_ours(scene: Scene) -> None:
    page = await scene.get("/docs")
    policy = dict(one.split(" ", 1) for one in page.headers["Content-Security-Policy"].split("; "))
    for name in ("script-src", "style-src", "connect-src"):
        assert policy[name] == "'self'"
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == "'none'"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page.body.decode())
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page.body.decode())


async def test_both_formats_of_the_document_are_the_same(scene: Scene) -> None:
    answer = await scene.get("/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == yaml.safe_load((await scene.get("/openapi.yaml")).body)
    assert {path for path, item in answer.json["paths"].items() if "servers" in item} == HERE


@pytest.mark.parametrize("path", ["/docs/index.html/..", "/docs/none.js", "/docs/..%2Fbridge.js"])
async def test_only_files_that_were_named_exist(scene: Scene, path: str) -> None:
    answer = await scene.get(path)
    assert (answer.status, answer.json["code"]) == (404, "route_not_found")


async def test_they_need_no_credential_where_they_are_and_are_nowhere_else() -> None:
    async with apart(**TOKEN_SETTINGS) as (made, operations):
        for path in ("/docs", "/docs/docs.js", *DOCUMENTS):
            async with made.http.get(operations + path) as answer:
                assert answer.status == 200, path
            assert (await made.get(path)).status == 404, path


async def _addresses(made: Scene, operations: str, host: str) -> tuple[list[str], str] | None:
    """The servers in the document on the admin address, and where its page may send requests."""
    headers = {"Host": host}
    async with made.http.get(f"{operations}/openapi.json", headers=headers) as answer:
        if answer.status in {400, 403}:
            return None
        document = await answer.json()
        servers = [one["url"] for one in document["servers"]]
        assert [one["url"] for one in document["paths"]["/status"]["servers"]] == ["/"]
    async with made.http.get(f"{operations}/openapi.yaml", headers=headers) as answer:
        assert yaml.safe_load(await answer.read()) == document
    async with made.http.get(f"{operations}/docs", headers=headers) as answer:
        policy = answer.headers["Content-Security-Policy"]
    return servers, policy.rpartition("connect-src ")[2]


async def test_on_the_admin_address_requests_go_to_the_bridge(free_tcp_port: int) -> None:
    async with apart(port=free_tcp_port) as (made, operations):
        for host in ("127.0.0.1", "localhost:99", "[::1]:99"):
            server = f"http://{host.removesuffix(':99')}:{free_tcp_port}"
            assert await _addresses(made, operations, host) == ([server], f"'self' {server}")
        for host in ("a;script-src *", "a'b", "a b", "[::1"):
            assert await _addresses(made, operations, host) in (None, (["/"], "'self'"))


async def test_on_the_admin_address_requests_go_to_the_public_url() -> None:
    async with apart(public_url="https://bridge.example/base/") as (made, operations):
        found = await _addresses(made, operations, "127.0.0.1")
        assert found == (["https://bridge.example/base"], "'self' https://bridge.example")
