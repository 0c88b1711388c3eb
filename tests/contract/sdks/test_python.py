"""The providers' own Python libraries, with the bridge as their base URL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import fal_client
import httpx
import openai
import pytest
import replicate
import runwayml
from fal_client.client import FalClientHTTPError, SyncClient
from replicate.exceptions import ModelError, ReplicateError
from runwayml import TaskFailedError

from tests.contract.sdks.stage import LIFE, beside, recorded_stage
from tests.e2e.scene import QUICK, Scene
from tests.e2e.test_presets import Stub, stub
from tests.fakes.origin import MP4, serving_origin
from tests.harness import answer, running_bridge

pytestmark = [
    pytest.mark.anyio,
    # The library's word about the API of OpenAI's own host; gateways still have it.
    pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning"),
    # Replicate's client cannot be closed.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

MODEL = "black-forest-labs/flux-schnell"
PREDICTION: dict[str, Any] = {
    "id": "p1",
    "model": MODEL,
    "version": "hidden",
    "status": "processing",
    "input": {},
    "output": None,
    "created_at": "2026-01-01T00:00:00Z",
    "urls": {},
}
FAILING = {"sim": LIFE | {"outcome": "failed"}}
LIVING = {"sim": LIFE}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One bridge for all."""
    return "asyncio"


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with recorded_stage() as made:
        yield made


def openai_at(scene: Scene, upstream: str, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{scene.bridge.url}/proxy/{upstream}/v1", api_key="any", **more)


async def through(scene: Scene, provider: str, task: str, work: Any, *, seconds: float = 60) -> Any:
    """Run what waits for a task, which ends once it was polled."""
    running = asyncio.create_task(beside(work))
    await scene.ledger.reach(provider, task, 1)
    scene.advance(seconds)
    return await running


# OpenAI: videos


async def test_attempts_of_one_create_with_a_key_are_one_video(scene: Scene) -> None:
    """Their bodies differ: the library chooses another boundary for each."""
    key = {"Idempotency-Key": "one-video"}
    with openai_at(scene, "openai-videos") as client:

        def create() -> Any:
            made = client.videos.with_raw_response.create(
                model="sora-2", prompt="a cat", extra_body=LIVING, extra_headers=key
            )
            return made.parse().id, made.headers.get("idempotent-replayed"), made.http_request.headers

        first, again = await beside(create), await beside(create)
    assert first[2]["content-type"] != again[2]["content-type"]
    assert (first[0], first[1], again[1]) == (again[0], None, "true")
    assert scene.ledger.of("openai-videos", first[0], "submit") == 1


async def test_openai_videos_are_created_and_followed_to_their_end(scene: Scene) -> None:
    with openai_at(scene, "openai-videos") as client:
        video = await beside(lambda: client.videos.create(model="sora-2", prompt="a cat", extra_body=LIVING))
        assert (video.status, video.object) == ("queued", "video")
        assert (await beside(lambda: client.videos.retrieve(video.id))).id == video.id
        done = await through(
            scene, "openai-videos", video.id, lambda: client.videos.poll(video.id, poll_interval_ms=20)
        )
        assert (done.status, done.progress) == ("completed", 100)
        assert scene.ledger.of("openai-videos", video.id, "submit") == 1


async def test_openai_create_and_poll_is_one_create(scene: Scene) -> None:
    before = {task for name, call, task in scene.ledger.times if (name, call) == ("openai-videos", "submit")}

    def work() -> Any:
        with openai_at(scene, "openai-videos") as client:
            return client.videos.create_and_poll(
                model="sora-2", prompt="a cat", poll_interval_ms=20, extra_body=LIVING
            )

    running = asyncio.create_task(beside(work))
    made: set[str] = set()
    while not made and not running.done():
        await asyncio.sleep(0.01)
        times = scene.ledger.times
        made = {task for name, call, task in times if (name, call) == ("openai-videos", "submit")} - before
    (task,) = made
    await scene.ledger.reach("openai-videos", task, 1)
    scene.advance(60)
    assert (await running).status == "completed"


async def test_an_openai_video_that_fails_says_why(scene: Scene) -> None:
    with openai_at(scene, "openai-videos") as client:
        video = await beside(lambda: client.videos.create(model="sora-2", prompt="x"))
        error = {"code": "moderation_blocked", "message": "blocked by our moderation system"}
        failed = video.model_dump() | {"status": "failed", "error": error}
        await scene.script("openai-videos", video.id, answer(failed))
        done = await beside(lambda: client.videos.poll(video.id, poll_interval_ms=20))
        assert done.status == "failed"
        assert done.error is not None
        assert done.error.message == error["message"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda client: client.videos.delete("video_1"), "deletes nothing"),
        (lambda client: client.videos.list(), "lists nothing"),
        (lambda client: client.videos.remix("video_1", prompt="a dog"), "POST /v1/videos only"),
    ],
)
async def test_what_of_openai_videos_is_not_carried_is_refused_with_a_sentence(
    scene: Scene, call: Any, words: str
) -> None:
    with openai_at(scene, "openai-videos") as client, pytest.raises(openai.NotFoundError) as refused:
        await beside(lambda: call(client))
    assert refused.value.code == "route_not_found"
    assert words in refused.value.message
    assert refused.value.response.headers["x-should-retry"] == "false"


async def test_openais_download_comes_through_the_bridge() -> None:
    async with serving_origin() as provider:
        provider.links["video_1"] = None
        provider.serve("/v1/videos/video_1/content", MP4)
        upstream = {"preset": "openai-videos", "base_url": provider.url("/v1"), "api_key": "sk-0123456789"}
        async with running_bridge({"videos": upstream}) as bridge:
            with openai.OpenAI(base_url=f"{bridge.url}/proxy/videos/v1", api_key="of-the-caller") as client:
                content = await beside(lambda: client.videos.download_content("video_1").read())
                assert content == MP4
                await beside(lambda: client.videos.download_content("video_1", variant="thumbnail").read())
        assert provider.asked[-1].target.endswith("/content?variant=thumbnail")
        assert {head.headers["authorization"] for head in provider.asked} == {"Bearer sk-0123456789"}


# OpenAI: responses in background


async def test_openai_responses_in_background(scene: Scene) -> None:
    with openai_at(scene, "openai") as client:
        made = await beside(
            lambda: client.responses.create(model="o3", input="hi", background=True, extra_body=LIVING)
        )
        assert made.status == "queued"

        def wait() -> Any:
            response = client.responses.retrieve(made.id)
            while response.status in {"queued", "in_progress"}:
                time.sleep(0.01)
                response = client.responses.retrieve(made.id)
            return response

        done = await through(scene, "openai", made.id, wait)
        assert done.status == "completed"
        other = await beside(
            lambda: client.responses.create(model="o3", input="hi", background=True, extra_body=LIVING)
        )
        cancelled = await beside(lambda: client.responses.cancel(other.id))
        assert cancelled.status == "cancelled"
        assert (await beside(lambda: client.responses.retrieve(other.id))).status == "cancelled"


async def test_an_openai_response_is_streamed_from_the_bridges_polls(scene: Scene) -> None:
    with openai_at(scene, "openai") as client:
        made = await beside(
            lambda: client.responses.create(model="o3", input="hi", background=True, extra_body=LIVING)
        )

        def follow(**after: int) -> list[Any]:
            with client.responses.retrieve(made.id, stream=True, **after) as events:
                return list(events)

        running = asyncio.create_task(beside(follow))
        await scene.reaches('bridge_interests{upstream="openai"}', 1)
        scene.advance(60)
        seen = await running
        assert (seen[0].type, seen[-1].type) == ("response.queued", "response.completed")
        assert seen[-1].response.status == "completed"
        numbers = [event.sequence_number for event in seen]
        assert numbers == sorted(numbers)
        again = await beside(lambda: follow(starting_after=numbers[0]))
        assert [event.type for event in again] == ["response.completed"]
        assert await beside(lambda: follow(starting_after=numbers[-1])) == []


async def test_an_openai_stream_of_a_create_is_refused_before_anything_is_paid(scene: Scene) -> None:
    before = sum(len(times) for (name, call, _), times in scene.ledger.times.items() if call == "submit")
    with openai_at(scene, "openai") as client, pytest.raises(openai.NotFoundError, match="retrieve the"):
        await beside(lambda: client.responses.create(model="o3", input="hi", background=True, stream=True))
    with openai_at(scene, "openai") as client, pytest.raises(openai.NotFoundError, match="deletes nothing"):
        await beside(lambda: client.responses.delete("resp_1"))
    after = sum(len(times) for (name, call, _), times in scene.ledger.times.items() if call == "submit")
    assert after == before


async def test_errors_are_the_exceptions_of_the_openai_library(scene: Scene) -> None:
    with openai_at(scene, "openai", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError):
            await beside(lambda: client.responses.retrieve("resp_nowhere"))
        busy = answer({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, status=429)
        await scene.script("openai", "resp_busy", busy | {"headers": {"Retry-After": "7"}})
        with pytest.raises(openai.RateLimitError) as raised:
            await beside(lambda: client.responses.retrieve("resp_busy"))
        assert 1 <= int(raised.value.response.headers["Retry-After"]) <= 9


# Replicate


def replicate_at(scene: Scene) -> replicate.Client:
    return replicate.Client(api_token="any", base_url=f"{scene.bridge.url}/proxy/replicate")


async def test_a_replicate_prediction_from_create_to_its_output(scene: Scene) -> None:
    client = replicate_at(scene)
    client.poll_interval = 0.02
    made = await beside(lambda: client.predictions.create(version="a" * 64, input={"prompt": "a cat"}))
    assert made.status == "starting"
    assert (await beside(lambda: client.predictions.get(made.id))).id == made.id
    await through(scene, "replicate", made.id, made.wait, seconds=600)
    assert made.status == "succeeded"
    assert made.output
    assert scene.ledger.of("replicate", made.id, "submit") == 1


async def test_a_replicate_prediction_is_cancelled_and_one_fails(scene: Scene) -> None:
    client = replicate_at(scene)
    client.poll_interval = 0.02
    made = await beside(lambda: client.models.predictions.create(model=MODEL, input={"prompt": "a cat"}))
    await beside(made.cancel)
    await beside(made.reload)
    assert made.status == "canceled"
    other = await beside(lambda: client.predictions.create(version="a" * 64, input={}))
    failed = PREDICTION | {"id": other.id, "status": "failed", "error": "no"}
    await scene.script("replicate", other.id, answer(failed))
    await beside(other.wait)
    assert (other.status, other.error) == ("failed", "no")


async def test_replicate_run_waits_for_the_end_at_the_bridge() -> None:
    prediction = PREDICTION
    done = prediction | {"status": "succeeded", "output": ["https://replicate.delivery/a.webp"]}
    async with stub() as provider:
        # A warm model is `processing` at once, which the library takes for the end of what it waited for.
        provider.answers[f"POST /v1/models/{MODEL}/predictions"] = (201, prediction)
        provider.answers["GET /v1/predictions/p1"] = prediction
        async with running_bridge(
            {"replicate": {"base_url": provider.url, "api_key": "k", **QUICK}}
        ) as bridge:
            client = replicate.Client(api_token="any", base_url=f"{bridge.url}/proxy/replicate")
            hook = "https://app.example/hook"
            running = asyncio.create_task(
                beside(
                    lambda: client.run(
                        MODEL,
                        input={},
                        webhook=hook,
                        webhook_events_filter=["completed"],
                        use_file_output=False,
                    )
                )
            )
            await _asked(provider, "GET /v1/predictions/p1", 2)
            provider.answers["GET /v1/predictions/p1"] = done
            assert await running == ["https://replicate.delivery/a.webp"]
            failed = prediction | {"status": "failed", "error": "out of memory"}
            provider.answers["GET /v1/predictions/p2"] = failed | {"id": "p2"}
            provider.answers[f"POST /v1/models/{MODEL}/predictions"] = (201, prediction | {"id": "p2"})
            with pytest.raises(ModelError, match="out of memory"):
                await beside(lambda: client.run(MODEL, input={}))
        body = next(text for call, text in provider.asked if call.startswith("POST "))
        assert f'"webhook":"{hook}"' in body.replace(" ", "")
        assert "webhook_events_filter" in body


async def test_replicate_run_that_outlasts_its_wait_polls_on() -> None:
    prediction = PREDICTION
    async with stub() as provider:
        provider.answers["POST /v1/predictions"] = (201, prediction)
        provider.answers["GET /v1/predictions/p1"] = prediction
        provider.answers[f"GET /v1/models/{MODEL}/versions/{'a' * 64}"] = {
            "id": "a" * 64,
            "created_at": "2026-01-01T00:00:00Z",
            "cog_version": "0.9",
            "openapi_schema": {"components": {"schemas": {"Output": {"type": "string"}}}},
        }
        upstream = {"base_url": provider.url, "api_key": "k", **QUICK}
        async with running_bridge({"replicate": upstream}, sync_wait_seconds=0.1) as bridge:
            client = replicate.Client(api_token="any", base_url=f"{bridge.url}/proxy/replicate")
            client.poll_interval = 0.02
            running = asyncio.create_task(
                beside(lambda: client.run(f"{MODEL}:{'a' * 64}", input={}, use_file_output=False))
            )
            await _asked(provider, "GET /v1/predictions/p1", 6)
            provider.answers["GET /v1/predictions/p1"] = prediction | {"status": "succeeded", "output": "yes"}
            assert await running == "yes"


async def _asked(provider: Stub, call: str, times: int) -> None:
    async with asyncio.timeout(30):
        while sum(one == call for one, _ in provider.asked) < times:  # noqa: ASYNC110 - a plain server
            await asyncio.sleep(0.01)


async def test_errors_are_the_exceptions_of_the_replicate_library(scene: Scene) -> None:
    client = replicate_at(scene)
    with pytest.raises(ReplicateError) as missing:
        await beside(lambda: client.predictions.get("nowhere"))
    assert (missing.value.status, bool(missing.value.detail)) == (404, True)
    with pytest.raises(ReplicateError) as refused:
        await beside(client.predictions.list)
    assert "lists nothing" in (refused.value.detail or "")
    with pytest.raises(ReplicateError, match="carries no uploads"):
        await beside(lambda: client.files.create(__file__))


# Runway


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library asks every six seconds."""
    monkeypatch.setattr("runwayml.lib.polling.POLL_TIME", 0.05)
    monkeypatch.setattr("runwayml.lib.polling.POLL_JITTER", 0)


def runway_at(scene: Scene) -> runwayml.RunwayML:
    return runwayml.RunwayML(api_key="any", base_url=f"{scene.bridge.url}/proxy/runway")


async def test_a_runway_task_is_waited_for(scene: Scene, hurried: None) -> None:
    with runway_at(scene) as client:
        made = await beside(
            lambda: client.text_to_video.create(
                model="veo3.1", prompt_text="a cat", ratio="1280:720", duration=4, extra_body=LIVING
            )
        )
        assert (await beside(lambda: client.tasks.retrieve(made.id))).status == "PENDING"
        done = await through(scene, "runway", made.id, made.wait_for_task_output)
        assert (done.status, bool(done.output)) == ("SUCCEEDED", True)


async def test_a_runway_task_fails_and_one_is_cancelled(scene: Scene, hurried: None) -> None:
    with runway_at(scene) as client:

        def create(**more: Any) -> Any:
            return client.image_to_video.create(
                model="gen4_turbo", prompt_image="https://x.example/a.png", ratio="1280:720", extra_body=more
            )

        made = await beside(lambda: create(**FAILING))
        with pytest.raises(TaskFailedError) as failed:
            await through(scene, "runway", made.id, made.wait_for_task_output)
        assert failed.value.task_details.failure
        other = await beside(lambda: create(**LIVING))
        await beside(lambda: client.tasks.delete(other.id))
        assert (await beside(lambda: client.tasks.retrieve(other.id))).status == "CANCELLED"
        assert scene.ledger.of("runway", other.id, "cancel") == 1


async def test_errors_are_the_exceptions_of_the_runway_library(scene: Scene) -> None:
    with runway_at(scene) as client:
        with pytest.raises(runwayml.NotFoundError):
            await beside(lambda: client.tasks.retrieve("17f20503-6c24-4c16-946b-35dbbce2af2f"))
        with pytest.raises(runwayml.NotFoundError, match="carries no uploads"):
            await beside(lambda: client.uploads.create_ephemeral(file=("a.png", b"x")))
        with pytest.raises(runwayml.NotFoundError, match="carries Runway's tasks only"):
            await beside(client.organization.retrieve)


# fal


@pytest.fixture
def fal(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> SyncClient:
    """As `FAL_QUEUE_RUN_HOST` sets it, but for its https, which this bridge has not."""
    monkeypatch.setattr("fal_client.client.QUEUE_URL_FORMAT", f"{scene.bridge.url}/proxy/fal/")
    return SyncClient(key="any")


async def test_fals_python_client_subscribes(scene: Scene, fal: SyncClient) -> None:
    handle = await beside(
        lambda: fal.submit("fal-ai/flux/dev", {"prompt": "a cat", **LIVING}, priority="low")
    )
    assert handle.status_url.startswith(scene.bridge.url)
    status = await beside(lambda: handle.status(with_logs=True))
    assert isinstance(status, fal_client.Queued)
    result = await through(scene, "fal", handle.request_id, handle.get)
    assert result["images"]
    other = await beside(lambda: fal.submit("fal-ai/flux/dev", {"prompt": "a cat", **LIVING}))
    await beside(other.cancel)
    assert scene.ledger.of("fal", other.request_id, "cancel") == 1
    with pytest.raises(FalClientHTTPError) as missing:
        await beside(lambda: fal.status("fal-ai/flux/dev", "nowhere"))
    assert missing.value.status_code == 404
    assert isinstance(missing.value.message, str)
    assert "{" not in missing.value.message


# One poller


async def test_twenty_clients_of_one_task_cost_one_call_an_interval(scene: Scene) -> None:
    url = f"{scene.bridge.url}/proxy/replicate"
    task = await scene.script(
        "replicate", "shared", answer({"id": "shared", "status": "processing", "input": {}, "urls": {}})
    )
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with httpx.AsyncClient(trust_env=False) as http:
        for _ in range(5):
            answers = await asyncio.gather(*(http.get(f"{url}/v1/predictions/shared") for _ in range(20)))
            assert {one.status_code for one in answers} == {200}
    intervals = (loop.time() - began) / QUICK["poll_min_seconds"]
    assert task == "replicate/shared"
    assert scene.ledger.of("replicate", "shared") < 3 + intervals
    assert min(scene.ledger.gaps("replicate", "shared"), default=1) > 0.03
