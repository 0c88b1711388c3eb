"""Endpoints that are made, rotated, disabled and deleted while deliveries wait, with restarts in between."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.webhooks.judge import verdict
from tests.webhooks.places import SECRET, Kind, Place, place
from tests.webhooks.receiver import BROKEN, HANG, OK, Receiver, Request, ids, receiver

pytestmark = pytest.mark.anyio
KINDS = [
    "one",
    pytest.param("three", marks=pytest.mark.extended),
    pytest.param("workers", marks=pytest.mark.extended),
]
LATE = 40.0
NONE: dict[str, Any] = {"webhooks": {}}


async def made(at: Place, path: str = "/made", **body: Any) -> dict[str, Any]:
    """A new endpoint of the receiver, whose secret it knows from now on."""
    status, said = await at.api("POST", "/v1/webhooks", json={"url": at.receiver.url + path, **body})
    assert status == 201, said
    at.receiver.secrets.append(said["secret"])
    return dict(said)


async def ended(at: Place, **body: Any) -> str:
    ref = await at.task(**body)
    at.move(ref, "completed")
    return ref


def arrived(sink: Receiver, ref: str) -> bool:
    return any(one.arrived for one in sink.of(ref, "task.final"))


async def known_everywhere(at: Place, number: int) -> None:
    """Every process knows so many endpoints; of workers, as far as asking often shows."""
    async with asyncio.timeout(LATE):
        for site in at.sites:
            for _ in range(6 if at.kind == "workers" else 1):
                while True:
                    _, said = await at.api("GET", "/v1/webhooks", site.url)
                    if len(said["webhooks"]) == number:
                        break
                    await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.extended
async def test_made_at_one_it_is_told_by_all(kind: Kind, tmp_path: Path) -> None:
    async with place(kind, tmp_path, **NONE) as at:
        hook = await made(at)
        assert hook["secret"].startswith("whsec_")
        await known_everywhere(at, 1)
        refs = []
        for number in range(12):
            site = at.sites[number % len(at.sites)].url
            status, said = await at.submit(site, id=f"told-{number}")
            assert status == 201, said
            refs.append(said["state"]["task"])
            at.move(refs[-1], "completed")
        for ref in refs:
            await at.receiver.until(lambda ref=ref: arrived(at.receiver, ref), LATE)
        assert verdict(at.receiver.requests, ended=refs) == []
        assert len(at.receiver.requests) == 12
        _, listed = await at.api("GET", "/v1/webhooks")
        assert "whsec_" not in str(listed)
        await at.kill_all()
        await known_everywhere(at, 1)
        later = await ended(at, id="told-later")
        await at.receiver.until(lambda: arrived(at.receiver, later), LATE)
        assert at.receiver.of(later)[-1].verified == (hook["secret"],)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.extended
async def test_each_delivery_verifies_while_secrets_rotate(kind: Kind, tmp_path: Path) -> None:
    async with place(kind, tmp_path, **NONE) as at:
        hook = await made(at)
        await known_everywhere(at, 1)
        refs, secrets = [], [hook["secret"]]
        for number in range(40):
            refs.append(await ended(at, id=f"rotated-{number}"))
            if number == 20:
                status, said = await at.api("POST", f"/v1/webhooks/{hook['id']}/rotate-secret")
                assert status == 200, said
                secrets.append(said["secret"])
                at.receiver.secrets.append(said["secret"])
        for ref in refs:
            await at.receiver.until(lambda ref=ref: arrived(at.receiver, ref), LATE)
        assert verdict(at.receiver.requests, ended=refs) == []
        # Who knows only the old secret, and who already knows only the new one, both can verify at the end.
        assert all(secrets[0] in one.verified for one in at.receiver.requests)
        assert set(at.receiver.requests[-1].verified) == set(secrets)
        await at.kill_all()
        last = await ended(at, id="rotated-last")
        await at.receiver.until(lambda: arrived(at.receiver, last), LATE)
        assert set(at.receiver.of(last)[-1].verified) == set(secrets)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.extended
async def test_disabled_enabled_and_deleted_while_deliveries_wait(kind: Kind, tmp_path: Path) -> None:
    async with place(kind, tmp_path, **NONE) as at:
        at.receiver.answer = lambda request: BROKEN
        hook, other = await made(at, "/one"), await made(at, "/other")
        await known_everywhere(at, 2)
        refs = [await ended(at, id=f"waits-{number}") for number in range(10)]
        for ref in refs:
            await at.receiver.until(lambda ref=ref: len(at.receiver.of(ref)) >= 2, LATE)
        status, said = await at.api("PATCH", f"/v1/webhooks/{hook['id']}", json={"enabled": False})
        assert (status, said["enabled"]) == (200, False)
        status, said = await at.api("DELETE", f"/v1/webhooks/{other['id']}")
        assert status in {200, 204}, said
        await known_everywhere(at, 1)
        await asyncio.sleep(1.5)  # what is in flight, and the other processes
        at.receiver.answer = lambda request: OK
        count = len(at.receiver.requests)
        await at.kill_all()
        missed = await ended(at, id="missed")
        await at.shows(missed, "completed")
        await asyncio.sleep(6.0)  # the second attempts were due
        assert len(at.receiver.requests) == count, at.receiver.requests[count:]
        status, said = await at.api("PATCH", f"/v1/webhooks/{hook['id']}", json={"enabled": True})
        assert (status, said["enabled"]) == (200, True)
        later = await ended(at, id="later")
        await at.receiver.until(lambda: arrived(at.receiver, later), LATE)
        for ref in refs:
            await at.receiver.until(lambda ref=ref: arrived(at.receiver, ref), LATE)
        assert not at.receiver.of(missed)
        assert verdict(at.receiver.requests, ended=[]) == []
        came = at.receiver.requests[count:]
        assert {one.target for one in came} == {"/one"}
        assert len(ids(came)) == len({one.id for one in came if one.arrived})


@pytest.mark.extended
async def test_a_test_and_a_redelivery_are_sent_at_once(tmp_path: Path) -> None:
    async with place("one", tmp_path, **NONE) as at:
        hook = await made(at)
        status, said = await at.api("POST", f"/v1/webhooks/{hook['id']}/test")
        assert (status, said["status"]) == (200, 204), said
        assert at.receiver.requests[-1].document["type"] == "webhook.test"
        ref = await ended(at)
        await at.receiver.until(lambda: arrived(at.receiver, ref))
        first = at.receiver.of(ref)[0]
        async with asyncio.timeout(LATE):
            while True:
                _, said = await at.api("GET", f"/v1/webhooks/{hook['id']}/deliveries")
                known = [one for one in said["deliveries"] if one["task"] == ref]
                if known:
                    break
                await asyncio.sleep(0.1)
        assert known[0]["id"] == first.id
        path = f"/v1/webhooks/{hook['id']}/deliveries/{first.id}/redeliver"
        status, said = await at.api("POST", path)
        assert (status, said["status"]) == (200, 204), said
        again = at.receiver.of(ref)[-1]
        assert (again.id, again.body, len(at.receiver.of(ref))) == (first.id, first.body, 2)
        at.receiver.answer = lambda _: BROKEN
        status, said = await at.api("POST", path)
        assert (status, said["status"]) == (200, 500), said
        at.receiver.answer = lambda _: HANG
        status, said = await at.api("POST", path)
        assert (status, said["status"]) == (200, None), said
        assert verdict(at.receiver.requests) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_an_address_for_one_submit(kind: Kind, tmp_path: Path) -> None:
    settings = {"webhook_hosts": ["127.0.0.1"], "webhook_secret": SECRET} | NONE
    async with place(kind, tmp_path, **settings) as at, receiver(SECRET) as other:
        turns = iter([BROKEN])
        at.receiver.answer = lambda _: next(turns, OK)
        url = at.receiver.url + "/mine?x=1"
        status, said = await at.submit(headers={"X-Webhook-URL": url}, id="mine-1")
        assert status == 201, said
        status, _ = await at.submit(query=f"?webhook={other.url}/yours", id="mine-2")
        assert status == 201
        for ref in ("qingbo/mine-1", "qingbo/mine-2"):
            at.move(ref, "completed")
            await at.shows(ref, "completed")
        await other.until(lambda: arrived(other, "qingbo/mine-2"), LATE)
        await at.receiver.until(lambda: at.receiver.requests)
        await at.kill_all()
        await at.receiver.until(lambda: arrived(at.receiver, "qingbo/mine-1"), LATE)
        assert {one.target for one in at.receiver.requests} == {"/mine?x=1"}
        assert verdict(at.receiver.requests, ended=["qingbo/mine-1"]) == []
        assert verdict(other.requests, ended=["qingbo/mine-2"]) == []
        creates = len(at.provider.creates)
        for bad in ("http://localhost:1/x", "https://example.com/x", "nonsense"):
            status, said = await at.submit(headers={"X-Webhook-URL": bad})
            assert status in {400, 403}, (bad, said)
        assert len(at.provider.creates) == creates
        assert not any(one.data.get("webhook") for one in at.receiver.requests)
        assert not any("webhook" in one or "callback_url" in one for one in at.provider.creates)


@pytest.mark.extended
async def test_a_callers_own_callback_url_is_honoured(tmp_path: Path) -> None:
    settings = {
        "webhook_hosts": ["127.0.0.1"],
        "webhook_secret": SECRET,
        "public_url": "https://bridge.example.com",
        "upstream": {"callback_secret": "called-back"},
    } | NONE
    async with place("one", tmp_path, **settings) as at:
        url = at.receiver.url + "/back"
        ref = await ended(at, id="back", callback_url=url)
        await at.receiver.until(lambda: arrived(at.receiver, ref))
        assert at.receiver.requests[0].target == "/back"
        assert verdict(at.receiver.requests, ended=[ref]) == []
        assert at.provider.creates[0]["callback_url"].startswith("https://bridge.example.com/")


async def test_with_upstream_keys_as_long_as_a_key_is_known(tmp_path: Path) -> None:
    settings = {
        "auth": "upstream-key",
        "account_secret": "what accounts are named with, a secret",
        "ticket_secret": "what tickets are signed with, a secret",
        "webhook_hosts": ["127.0.0.1"],
        "webhook_secret": SECRET,
        "upstream": {"api_key": None},
    } | NONE
    async with place("one", tmp_path, **settings) as at:
        headers = {"Authorization": "Bearer callers-key", "X-Webhook-URL": at.receiver.url + "/mine"}
        status, said = await at.submit(headers=headers, id="theirs")
        assert status == 201, said
        assert "while_key_known" in str(said), said
        at.move("qingbo/theirs", "completed")
        await at.receiver.until(lambda: arrived(at.receiver, "qingbo/theirs"), LATE)
        assert verdict(at.receiver.requests, ended=["qingbo/theirs"]) == []
        assert b"callers-key" not in at.receiver.requests[0].body
        assert not any("callers-key" in value for one in at.receiver.requests for _, value in one.headers)


@pytest.mark.extended
async def test_endpoints_and_tasks_are_chosen_by_upstream(tmp_path: Path) -> None:
    async with place("one", tmp_path, **NONE) as at:
        await made(at, "/all")
        await made(at, "/this", upstreams=["qingbo"], events=["task.status", "task.final"])
        await made(at, "/tagged", tags=["nobody"])
        status, said = await at.api(
            "POST", "/v1/webhooks", json={"url": at.receiver.url, "upstreams": ["none-such"]}
        )
        assert 400 <= status < 500, said
        ref = await ended(at)
        await at.receiver.until(lambda: len({one.target for one in at.receiver.of(ref, "task.final")}) == 2)
        assert {one.target for one in at.receiver.requests} == {"/all", "/this"}
        assert_all_verified(at.receiver.requests)


def assert_all_verified(requests: list[Request]) -> None:
    faults = verdict(requests)
    assert faults == [], faults
