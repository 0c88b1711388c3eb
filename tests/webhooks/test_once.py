"""Idempotency-Key from outside: whatever is killed, cut or full, a submit makes at most one task."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.chaos.test_disk_full import DISK, _can_mount, _fill
from tests.conftest import forbidden
from tests.harness import PATIENCE
from tests.webhooks.places import Kind, Place, place

pytestmark = pytest.mark.anyio
KINDS = [
    "one",
    pytest.param("three", marks=pytest.mark.extended),
    pytest.param("workers", marks=pytest.mark.extended),
]
DIRECT, PROXIED = "/v1/tasks/qingbo", "/proxy/qingbo/v1/tasks"
AT_ONCE = 50


class Answer:
    """One answer, read whole."""

    def __init__(self, status: int, headers: Any, body: bytes, document: Any) -> None:
        self.status, self.headers, self.body, self.document = status, headers, body, document

    @property
    def replayed(self) -> bool:
        return self.headers.get("Idempotent-Replayed") == "true"

    def __repr__(self) -> str:
        return f"{self.status} {dict(self.headers)} {self.body[:300]!r}"


async def ask(at: Place, key: str, *, site: int = 0, path: str = DIRECT, **body: Any) -> Answer:
    url = at.sites[site % len(at.sites)].url + path
    sent = {"model": "wan2.7", "prompt": "a cat"} | body
    async with at.http.post(url, json=sent, headers={"Idempotency-Key": key}) as answer:
        read = await answer.read()
        is_json = "json" in answer.headers.get("Content-Type", "")
        return Answer(
            answer.status, answer.headers, read, await answer.json(content_type=None) if is_json else None
        )


async def settled(at: Place, key: str, *, healing: bool = False, **more: Any) -> Answer:
    """Repeat until nobody carries it out any more, as a client does that obeys.

    Args:
        healing: Whether what it is kept in may be away for a while yet.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await ask(at, key, **more)
            if healing and answer.status == 503:
                await asyncio.sleep(0.2)
                continue
            if answer.status != 409:
                return answer
            assert answer.headers["Retry-After"] == "1", answer
            assert answer.headers["x-should-retry"] == "true", answer
            await asyncio.sleep(0.2)


def held(at: Place) -> asyncio.Event:
    """The provider makes the task and answers once the event is set."""
    gate = asyncio.Event()

    async def created(_: str) -> None:
        await gate.wait()

    at.provider.created = created  # type: ignore[assignment]
    return gate


@pytest.mark.parametrize("path", [DIRECT, pytest.param(PROXIED, marks=pytest.mark.extended)])
@pytest.mark.parametrize("kind", KINDS)
async def test_fifty_at_once_make_one(kind: Kind, path: str, tmp_path: Path) -> None:
    async with place(kind, tmp_path) as at:
        gate = held(at)
        asking = [
            asyncio.create_task(ask(at, "at-once", site=number, path=path)) for number in range(AT_ONCE)
        ]
        await at.provider.creates_reach(1)
        await asyncio.wait(asking, timeout=1.0)
        gate.set()
        answers = await asyncio.gather(*asking)
        again = await asyncio.gather(*(settled(at, "at-once", site=number, path=path) for number in range(6)))
        counts = Counter(one.status for one in answers)
        assert set(counts) <= {200, 201, 409}, counts
        good = [one for one in answers if one.status != 409]
        assert len(good) >= 1
        assert len([one for one in good if not one.replayed]) == 1
        assert all(one.replayed for one in again), again
        assert len({(one.status, one.body, one.headers["Content-Type"]) for one in [*good, *again]}) == 1
        assert len(at.provider.creates) == 1


@pytest.mark.parametrize("path", [DIRECT, PROXIED])
@pytest.mark.extended
async def test_another_body_a_refusal_and_another_key(path: str, tmp_path: Path) -> None:
    async with place("one", tmp_path) as at:
        first = await ask(at, "k", path=path)
        assert first.status in {200, 201}
        assert not first.replayed
        other = await ask(at, "k", path=path, prompt="a dog")
        assert (other.status, other.headers["x-should-retry"]) == (422, "false")
        refused = await ask(at, "free", path=path, prompt="refused")
        assert 400 <= refused.status < 500 or refused.status == 502, refused
        assert not refused.replayed
        assert (await ask(at, "free", path=path)).status == first.status
        assert len(at.provider.creates) == 2


@pytest.mark.parametrize("path", [DIRECT, pytest.param(PROXIED, marks=pytest.mark.extended)])
@pytest.mark.parametrize("kind", KINDS)
async def test_killed_while_the_provider_holds_the_create(kind: Kind, path: str, tmp_path: Path) -> None:
    async with place(kind, tmp_path) as at:
        gate = held(at)
        asking = asyncio.create_task(ask(at, "killed", path=path))
        await at.provider.creates_reach(1)
        if kind == "three":
            await at.kill(at.sites[0].pid)
        else:
            await at.kill_all()
        gate.set()
        with pytest.raises(aiohttp.ClientError):
            await asking
        at.provider.created = None
        for number in range(3):
            answer = await settled(at, "killed", site=1 + number % 2, path=path)
            assert answer.status == 502, answer
            assert b"may exist" in answer.body, answer
            assert answer.headers["x-should-retry"] == "false"
        other = await ask(at, "killed", site=1, path=path, prompt="a dog")
        assert other.status == 422
        assert (await ask(at, "another", site=1, path=path)).status in {200, 201}
        assert len(at.provider.creates) == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_killed_after_the_answer(kind: Kind, tmp_path: Path) -> None:
    async with place(kind, tmp_path) as at:
        first = await ask(at, "answered")
        assert first.status == 201
        await at.kill_all()
        again = await settled(at, "answered")
        assert (again.status, again.body, again.replayed) == (201, first.body, True)
        assert len(at.provider.creates) == 1


@pytest.mark.extended
async def test_the_answer_breaks_off(tmp_path: Path) -> None:
    async with place("one", tmp_path) as at:

        async def created(_: str) -> web.Response | None:
            return web.Response(status=500, text="broken behind")

        at.provider.created = created
        first = await ask(at, "uncertain")
        assert first.status in {500, 502, 503, 504}
        at.provider.created = None
        again = await settled(at, "uncertain")
        assert (again.status, len(at.provider.creates)) == (502, 1), again
        assert b"may exist" in again.body


@pytest.mark.extended
async def test_terminated_in_the_midst(tmp_path: Path) -> None:
    async with place("one", tmp_path, drain_seconds=5.0) as at:
        gate = held(at)
        asking = asyncio.create_task(ask(at, "drained"))
        await at.provider.creates_reach(1)
        at.sites[0].bridge.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        gate.set()
        first = await asking
        await at.sites[0].end(signal.SIGTERM)
        await at.sites[0].start()
        again = await settled(at, "drained")
        assert (first.status, again.status, again.replayed) == (201, 201, True)
        assert again.body == first.body
        assert len(at.provider.creates) == 1


@pytest.mark.extended
async def test_no_engine_no_task(tmp_path: Path) -> None:
    async with place("three", tmp_path) as at:
        assert (await ask(at, "before")).status == 201
        at.fleet.refuse(*at.fleet.replicas)
        for number in range(6):
            answer = await ask(at, f"away-{number}", site=number, path=(DIRECT, PROXIED)[number % 2])
            assert answer.status == 503, answer
        known = await ask(at, "before", site=1)
        assert known.status == 503
        assert len(at.provider.creates) == 1
        await at.fleet.heal(*at.fleet.replicas)
        answer = await settled(at, "away-0", site=2, healing=True)
        assert answer.status == 201
        assert (await settled(at, "before", site=1, healing=True)).replayed  # each has found it on its own
        assert len(at.provider.creates) == 2


@pytest.mark.extended
async def test_the_engine_goes_while_the_provider_holds_the_create(tmp_path: Path) -> None:
    async with place("three", tmp_path) as at:
        gate = held(at)
        asking = asyncio.create_task(ask(at, "cut"))
        await at.provider.creates_reach(1)
        at.fleet.refuse(*at.fleet.replicas)
        gate.set()
        first = await asking
        assert first.status in {201, 502, 503}
        at.provider.created = None
        await asyncio.sleep(1.0)
        await at.fleet.heal(*at.fleet.replicas)
        again = await settled(at, "cut", site=1, healing=True)
        assert again.status in {201, 502}, again
        assert len(at.provider.creates) == 1


@pytest.mark.extended
async def test_no_room_no_task(tmp_path: Path) -> None:
    if not _can_mount(tmp_path):
        forbidden("a mount namespace of our own (root on Linux)")
    script = f'mount -t tmpfs -o size={DISK} tmpfs "$0" && exec "$@"'
    under = ("unshare", "--mount", "sh", "-c", script, str(tmp_path))
    async with place("one", tmp_path, under=under) as at:
        assert (await ask(at, "before")).status == 201
        filler = _fill(at.sites[0], tmp_path)
        answers = [await ask(at, f"full-{number}", pad="x" * 20_000) for number in range(10)]
        made = [one for one in answers if one.status == 201]
        assert all(one.status in {201, 503} for one in answers), answers
        assert any(one.status == 503 for one in answers), answers
        assert len(at.provider.creates) == 1 + len(made)
        filler.unlink()
        for number in range(10):
            answer = await settled(at, f"full-{number}", pad="x" * 20_000, healing=True)
            assert answer.status == 201
        assert len(at.provider.creates) == 11
