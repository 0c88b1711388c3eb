"""The providers' own JavaScript libraries in Node, with the bridge as their base URL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.contract.sdks.stage import recorded_stage, run_node
from tests.e2e.scene import Scene

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One bridge for all."""
    return "asyncio"


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with recorded_stage() as made:
        yield made


async def drive(scene: Scene, program: str) -> dict[str, Any]:
    return await run_node(program, BRIDGE=scene.bridge.url, SIMULATOR=scene.simulator.url)


def is_refused(told: dict[str, Any], words: str) -> bool:
    """Whether a call failed as not carried, with a sentence that its developer sees."""
    return told["status"] == 404 and words in told["message"] and told.get("retry", "false") == "false"


async def test_openais_library(scene: Scene) -> None:
    told = await drive(scene, "drive_openai.mjs")
    first, last, has_result, missing = told["qingbo"]
    assert (first, last, has_result) == ("queued", "completed", True)
    assert (missing["kind"], missing["code"], missing["retry"]) == (
        "NotFoundError",
        "task_not_found",
        "false",
    )
    assert told["videos"] == ["queued", "completed", "failed", "blocked", 0]
    words = {
        "delete": "deletes nothing",
        "list": "lists nothing",
        "remix": "POST /v1/videos only",
    }
    for call, refused in told["refused"].items():
        assert is_refused(refused, words[call]), refused
        assert (refused["kind"], refused["code"]) == ("NotFoundError", "route_not_found")
    responses = told["responses"]
    assert responses["made"] == "queued"
    assert responses["seen"][0] == [0, "response.queued", "queued"]
    assert responses["seen"][-1] == [2, "response.completed", "completed"]
    assert responses["rest"] == ["response.completed"]
    assert (responses["cancelled"], responses["end"], responses["why"]) == ("cancelled", "failed", True)
    assert is_refused(responses["streamed"], "retrieve the")


async def test_replicates_library(scene: Scene) -> None:
    told = await drive(scene, "drive_replicate.mjs")
    assert (told["made"], told["shown"], told["stream"]) == ("starting", True, None)
    assert told["done"] == ["succeeded", True]
    assert told["output"] == [True, True]
    assert told["progress"][-1] == "succeeded"
    assert told["cancelled"] == ["canceled", "canceled"]
    assert told["failed"]["message"] == "Prediction failed: out of memory"
    assert (told["missing"]["kind"], told["missing"]["status"]) == ("ApiError", 404)
    assert is_refused(told["list"], "lists nothing")
    assert is_refused(told["upload"], "carries no uploads")


async def test_runways_library(scene: Scene) -> None:
    told = await drive(scene, "drive_runway.mjs")
    assert (told["shown"], told["done"]) == ("PENDING", ["SUCCEEDED", True])
    assert told["failed"]["name"] == "TaskFailedError"
    assert told["gone"] == "CANCELLED"
    assert told["cancelled"]["name"] == "TaskFailedError"
    assert (told["missing"]["kind"], told["missing"]["retry"]) == ("NotFoundError", "false")
    assert is_refused(told["upload"], "404 the bridge carries no uploads")


async def test_fals_library_in_node(scene: Scene) -> None:
    told = await drive(scene, "drive_fal.mjs")
    assert told["images"]
    assert told["id"]
    assert all(has_logs for _, has_logs in told["seen"])
    assert told["seen"][-1][0] == "COMPLETED"
    assert is_refused(told["upload"], "carries no uploads")
