"""Origins: what operators may write, what browsers send, who is let in, and what is said about the others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import websockets
from starlette.datastructures import Headers

from bridge.auth.origins import MAX_LOGGED, Origins
from bridge.config.checks import check_origin
from bridge.net import as_browsers_send
from tests.e2e.scene import Scene, stage, until

pytestmark = pytest.mark.anyio

SENT = [
    "https://app.example.com",
    "https://app.example.com:8443",
    "http://localhost:3000",
    "http://127.0.0.1:8080",
    "http://[::1]:3000",
    "http://[2001:db8::1]",
    "https://xn--bcher-kva.example",
    "https://a_b.example",
    "http://app.example.com:443",
    "chrome-extension://abcdefghijklmnop",
    "moz-extension://0f0e-11",
    "capacitor://localhost",
    "*",
]
MISSPELLED = {
    "https://app.example.com/": "https://app.example.com",
    "https://app.example.com//": "https://app.example.com",
    "https://app.example.com/a?b#c": "https://app.example.com",
    "https://app.example.com?": "https://app.example.com",
    " https://app.example.com": "https://app.example.com",
    "app.example.com": "https://app.example.com",
    "//app.example.com": "https://app.example.com",
    "https:app.example.com": "https://app.example.com",
    "app.example.com:8443": "https://app.example.com:8443",
    "localhost:3000": "http://localhost:3000",
    "127.0.0.1": "http://127.0.0.1",
    "https://app.example.com:443": "https://app.example.com",
    "https://app.example.com:": "https://app.example.com",
    "http://app.example.com:080": "http://app.example.com",
    "https://App.Example.com": "https://app.example.com",
    "HTTPS://app.example.com": "https://app.example.com",
    "https://app.example.com.": "https://app.example.com",
    "wss://app.example.com": "https://app.example.com",
    "https://bücher.example": "https://xn--bcher-kva.example",
    "https://BÜCHER.example": "https://xn--bcher-kva.example",
    "http://[0:0::1]:3000": "http://[::1]:3000",
    "http://[2001:DB8::1]": "http://[2001:db8::1]",
    "http://127.1": "http://127.0.0.1",
    "http://0x7f000001:3000": "http://127.0.0.1:3000",
}
NONE = [
    *(
        "",
        " ",
        "/",
        "null",
        "NULL",
        "https://",
        "https:///x",
        "https://*.example.com",
        "*.example.com",
        "https://*",
    ),
    *(
        "https://a.example, https://b.example",
        "https://a b.example",
        "https://a.example:99999",
        "https://[::1",
    ),
    *(
        "https://a.example:x",
        "https://a..example",
        "https://300.1.1.1",
        "https://%61.example",
        "é://a.example",
    ),
]


@pytest.mark.parametrize("origin", SENT)
def test_what_browsers_send_may_be_listed(origin: str) -> None:
    assert check_origin(origin) is None


@pytest.mark.parametrize(("origin", "right"), MISSPELLED.items())
def test_what_they_never_send_is_a_mistake_that_names_the_right_spelling(origin: str, right: str) -> None:
    error = check_origin(origin)
    assert error is not None
    assert error.endswith(f"write {right}")
    assert as_browsers_send(right) == right


@pytest.mark.parametrize("origin", NONE)
def test_what_is_no_origin_is_a_mistake(origin: str) -> None:
    assert check_origin(origin) is not None


def test_a_password_is_not_repeated() -> None:
    assert "hunter2" not in str(check_origin("https://me:hunter2@app.example.com"))


def _headers(origin: str, host: str = "other.example") -> Headers:
    return Headers({"origin": origin, "host": host})


@pytest.mark.parametrize(
    ("listed", "sent"),
    [
        ("https://app.example.com", "https://app.example.com:443"),
        ("https://app.example.com", "HTTPS://App.Example.com"),
        ("http://localhost:3000", "http://LOCALHOST:3000"),
        ("chrome-extension://abc", "chrome-extension://abc"),
    ],
)
def test_case_and_default_port_do_not_matter(listed: str, sent: str) -> None:
    assert Origins([listed]).is_allowed(_headers(sent))
    assert Origins([listed]).passes_csrf_check(_headers(sent))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://bridge.example", "bridge.example"),
        ("https://bridge.example", "bridge.example:443"),
        ("https://bridge.example:443", "Bridge.Example"),
        ("http://BRIDGE.example", "bridge.example:80"),
        ("http://bridge.example:8080", "bridge.EXAMPLE:8080"),
        ("http://[::1]", "[::1]:80"),
    ],
)
def test_the_bridges_own_host_is_known_without_case_and_default_port(origin: str, host: str) -> None:
    assert Origins([]).is_allowed(_headers(origin, host))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://bridge.example:80", "bridge.example"),
        ("http://bridge.example", "bridge.example:443"),
        ("https://bridge.example.evil.example", "bridge.example"),
        ("https://bridge.example@evil.example", "bridge.example"),
        ("https://evil.example", "bridge.example"),
        ("null", "null"),
        ("bridge.example", "bridge.example"),
        ("", ""),
        ("https://", ""),
        ("https://[", "["),
    ],
)
def test_another_host_is_another(origin: str, host: str) -> None:
    if (origin, host) != ("https://[", "["):
        assert not Origins(["https://app.example.com"]).is_allowed(_headers(origin, host))
    assert not Origins(["*"]).lists(origin)


def test_a_refused_origin_is_logged_once_and_not_without_end(caplog: pytest.LogCaptureFixture) -> None:
    origins = Origins(["https://app.example.com"])
    for number in range(MAX_LOGGED * 2):
        for _ in range(3):
            origins.is_allowed(_headers(f"https://{number}.example"))
            origins.passes_csrf_check(_headers(f"HTTPS://{number}.example"))
    assert len(caplog.records) == MAX_LOGGED


def test_the_advice_for_a_refused_origin_is_one_that_the_settings_take(
    caplog: pytest.LogCaptureFixture,
) -> None:
    origins = Origins(["https://app.example.com"])
    assert not origins.is_allowed(_headers("null"))
    assert not origins.is_allowed(_headers("https://third.example"))
    nowhere, other = (vars(record)["advice"] for record in caplog.records)
    assert "'*'" in nowhere
    assert "add it to allowed_origins" in other


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(allowed_origins=["https://app.example.com"]) as made:
        yield made


async def _preflight(scene: Scene, origin: str, headers: str) -> tuple[int, str | None, set[str]]:
    ask = {
        "Origin": origin,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": headers,
    }
    reply = await scene.call("OPTIONS", "/v1/tasks/qingbo/a", headers=ask)
    allowed = reply.headers.get("Access-Control-Allow-Headers", "").lower()
    return (
        reply.status,
        reply.headers.get("Access-Control-Allow-Origin"),
        {name.strip() for name in allowed.split(",")},
    )


async def test_a_page_may_send_whatever_its_tracing_and_its_sdks_add(scene: Scene) -> None:
    added = "traceparent,tracestate,baggage,x-request-id,last-event-id,if-none-match,prefer,sentry-trace"
    added += ",x-stainless-retry-count,idempotency-key,x-datadog-trace-id,b3"
    status, origin, allowed = await _preflight(scene, "https://app.example.com", added)
    assert (status, origin) == (200, "https://app.example.com")
    assert allowed >= set(added.split(","))
    assert "*" not in allowed
    assert (await _preflight(scene, "https://app.example.com", "a(b"))[0] == 400
    assert (await _preflight(scene, "https://evil.example", "traceparent"))[:2] == (400, None)


async def test_a_page_reads_what_it_needs_and_a_strangers_is_logged_once(scene: Scene) -> None:
    reply = await scene.get("/v1/tasks/qingbo/a", Origin="https://APP.example.com:443")
    assert reply.headers["Access-Control-Allow-Origin"] == "https://APP.example.com:443"
    exposed = {name.strip().lower() for name in reply.headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed >= {
        "etag",
        "preference-applied",
        "retry-after",
        "x-request-id",
        "location",
        "x-should-retry",
    }
    for _ in range(3):
        strange = await scene.get("/v1/tasks/qingbo/a", Origin="https://strange.example")
        assert "Access-Control-Allow-Origin" not in strange.headers
    with pytest.raises(websockets.InvalidStatus):
        async with websockets.connect(
            scene.bridge.url.replace("http", "ws") + "/v1/ws",
            origin=websockets.Origin("https://strange.example"),
        ):
            pass
    own = scene.bridge.url.replace("http", "ws") + "/v1/ws"
    async with websockets.connect(own, origin=websockets.Origin(scene.bridge.url.upper())):
        pass

    async def logged() -> list[bool]:
        return ["allowed_origins" in line for line in scene.bridge.log if "https://strange.example" in line]

    await until(logged, [True])
