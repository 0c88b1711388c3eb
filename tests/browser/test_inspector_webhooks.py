"""The inspector's list of webhooks: what an operator does there, and what hostile receivers cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.browser.inspecting import GONE, inspecting, shared_browser, shared_loop
from tests.e2e.scene import Scene, path_of, stage
from tests.fakes.credentials import TOKEN_SETTINGS, token
from tests.harness import qingbo_done
from tests.webhooks.receiver import BROKEN, OK, Receiver, receiver

pytestmark = pytest.mark.anyio

anyio_backend, browser = shared_loop, shared_browser

HOSTILE = "/x?a=<img src=x onerror=pwned('url')>&b=\u202egnp.exe"


@pytest.fixture(scope="module")
async def hook(anyio_backend: str) -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(private_hosts=["127.0.0.1"]) as made:
        yield made


async def created(scene: Scene, url: str, **more: Any) -> str:
    reply = await scene.call("POST", "/v1/webhooks", json={"url": url, **more})
    assert reply.status == 201, reply.body
    return str(reply.json["id"])


async def test_an_operator_tests_disables_and_delivers_again(
    browser: Browser, scene: Scene, hook: Receiver
) -> None:
    name = await created(scene, f"{hook.url}/mine", upstreams=["qingbo"])
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    assert (await scene.get(path_of(ref))).status == 200
    first = await hook.next_of(ref)
    async with inspecting(browser) as seen:
        await seen.open(scene.bridge.url)
        await seen.tab("Webhooks")
        row = seen.page.locator(f"tr[data-webhook={name}]")
        await expect(row).to_contain_text("task.final; of qingbo")
        await expect(row.locator(".status")).to_have_text("enabled")
        result = seen.page.locator("#webhooks-result")
        hook.answer = lambda _: BROKEN
        await row.get_by_role("button", name=f"Test {name}").click()
        await expect(result).to_contain_text("HTTP 500")
        hook.answer = lambda _: OK
        await row.get_by_role("button", name=f"Deliveries {name}").click()
        delivery = seen.page.locator(f"tr[data-delivery={first.id}]")
        await expect(delivery).to_contain_text(ref)
        await expect(delivery.locator(".status")).to_have_text("delivered")
        await delivery.get_by_role("button", name="Redeliver").click()
        await expect(result).to_contain_text("HTTP 204")
        assert [one.id for one in hook.of(ref)] == [first.id] * 2
        assert await seen.findings() == []
        await row.get_by_role("button", name=f"Disable {name}").click()
        await expect(row.locator(".status")).to_have_text("disabled")
        await expect(row).to_contain_text("disabled by an operator")
        await row.get_by_role("button", name=f"Enable {name}").click()
        await expect(row.locator(".status")).to_have_text("enabled")
        await scene.call("DELETE", f"/v1/webhooks/{name}")
        await expect(row).to_have_count(0)
        await expect(seen.page.locator("#attempts-section")).to_be_hidden()


async def test_what_a_receiver_or_its_url_contains_is_text(browser: Browser, scene: Scene) -> None:
    name = await created(scene, "https://a.example" + HOSTILE.replace(" ", "%20"))
    hostile = "<img src=x onerror=pwned('error')>"

    async def serve(route: Any) -> None:
        attempt = {"at": "2026-11-30T00:00:00.000Z", "status": None, "seconds": 1, "error": hostile}
        shown = {"id": hostile, "type": hostile, "task": hostile, "state": hostile}
        rest = {"next_attempt_at": None, "redeliverable": True, "attempts": [attempt]}
        await route.fulfill(json={"deliveries": [shown | rest]})

    async with inspecting(browser) as seen:
        await seen.page.route("**/v1/webhooks/*/deliveries", serve)
        await seen.open(scene.bridge.url)
        await seen.tab("Webhooks")
        row = seen.page.locator(f"tr[data-webhook={name}]")
        await expect(row).to_contain_text("<img")
        await expect(row).to_contain_text("\\u202e")
        await row.get_by_role("button", name=f"Deliveries {name}").click()
        await expect(seen.page.locator("#attempts .reason")).to_have_text(hostile)
        assert await seen.page.locator("#panel-webhooks :is(img, a)").count() == 0
    await scene.call("DELETE", f"/v1/webhooks/{name}")


@pytest.mark.parametrize("scope", ["read submit cancel", "read admin"])
async def test_only_operators_have_the_panel(browser: Browser, scope: str) -> None:
    async with stage(**TOKEN_SETTINGS) as made, inspecting(browser, expected=[GONE]) as seen:
        await seen.open(made.bridge.url)
        await seen.page.get_by_label("Token", exact=True).fill(token("*", scope=scope))
        await seen.page.get_by_role("button", name="Sign in").click()
        await expect(seen.page.locator("#workspace")).to_be_visible()
        tab = seen.page.get_by_role("tab", name="Webhooks", exact=True)
        if "admin" not in scope:
            await expect(tab).to_be_hidden()
            await seen.page.get_by_role("tab", name="Self-test").focus()
            await seen.page.keyboard.press("ArrowRight")
            await expect(seen.page.locator("#panel-bridge")).to_be_visible()
            return
        await tab.click()
        await expect(seen.page.locator("#webhooks-none")).to_be_visible()
        await expect(seen.page.locator("#webhooks-problem")).to_be_hidden()
