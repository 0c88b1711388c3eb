"""`bridge submit` and the Python client, against a bridge that serves them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from bridge.client.bridge import Bridge
from bridge.errors import Conflict, UpstreamRefused
from tests.commands import Ended, run
from tests.e2e.scene import Scene, stage

pytestmark = pytest.mark.anyio

QUICK_LIFE = {"queue_seconds": 0, "run_seconds": 0, "outcome": "completed"}
SLOW_LIFE = {"queue_seconds": 1000, "run_seconds": 1000}


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage() as made:
        yield made


async def submit(scene: Scene, *arguments: str, stdin: bytes = b"") -> Ended:
    return await run("submit", *arguments, stdin=stdin, BRIDGE_URL=scene.bridge.url)


def order(**sim: object) -> str:
    return orjson.dumps({"model": "wan2.7", "prompt": "x", "sim": sim}).decode()


async def test_submit_prints_the_ref_of_the_new_task(scene: Scene) -> None:
    ended = await submit(scene, "qingbo", order(**SLOW_LIFE))
    assert (ended.code, ended.err) == (0, "")
    ref = ended.out.strip()
    assert scene.ledger.of("qingbo", ref.removeprefix("qingbo/"), "submit") == 1


async def test_submit_watches_from_standard_input_to_the_end(scene: Scene) -> None:
    ended = await submit(scene, "qingbo", "--watch", "--json", stdin=order(**QUICK_LIFE).encode())
    assert (ended.code, ended.err) == (0, "")
    first, *_, last = map(orjson.loads, ended.out.splitlines())
    assert (first["status"], first["source"]) == ("queued", "submit")
    assert (last["status"], last["task"]) == ("completed", first["task"])


async def test_options_go_to_the_provider(scene: Scene) -> None:
    ended = await submit(
        scene, "vapi", order(**SLOW_LIFE), "--option", "endpoint=minimax/v1/video_generation"
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("vapi/")
    for wrong in ("endpoint", "=x"):
        assert (await submit(scene, "vapi", "{}", "--option", wrong)).code == 2


async def test_refusals_are_told_in_a_sentence_and_exit_2(scene: Scene) -> None:
    cases = [
        ("qingbo", "{}", "model is required"),
        ("nobody", "{}", "no upstream"),
        ("vapi", "{}", "endpoint"),
    ]
    for upstream, body, sentence in cases:
        ended = await submit(scene, upstream, body)
        assert (ended.code, ended.out) == (2, "")
        assert sentence in ended.err
        assert "Traceback" not in ended.err


async def test_the_client_submits_watches_and_cancels(scene: Scene) -> None:
    async with Bridge(scene.bridge.url) as bridge:
        made = await bridge.submit("qingbo", {"model": "m", "sim": SLOW_LIFE})
        assert (made.status, made.document["source"]) == ("queued", "submit")
        watching = asyncio.ensure_future(_statuses(bridge, made.task))
        ended = await bridge.cancel(made.task)
        assert ended.status == "cancelled"
        assert (await watching)[-1] == "cancelled"
        assert (await bridge.cancel(made.task)).cursor == ended.cursor
        with pytest.raises(Conflict, match="cannot cancel"):
            await bridge.cancel("vapi/314052875571396")
        with pytest.raises(UpstreamRefused, match="model is required"):
            await bridge.submit("qingbo", {})
        other = {"model": "hailuo-02", "prompt": "x", "sim": SLOW_LIFE}
        options = {"endpoint": "minimax/v1/video_generation"}
        assert (await bridge.submit("vapi", other, options=options)).task.startswith("vapi/")


async def _statuses(bridge: Bridge, ref: str) -> list[str]:
    return [state.status async for state in bridge.watch(ref)]
