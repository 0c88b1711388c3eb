"""Third-party clients against the running bridge: every state once, in order, and nothing else.

How each of them stops, which is what their users are to be told:

- `eventsource`, `eventsource-client`, `aiohttp-sse-client2` and `requests-sse` come back a day after the end
  (here at once), are answered 204 and stop for good (the Python ones by an exception that their own examples
  catch);
- `@microsoft/fetch-event-source` and `launchdarkly-eventsource` retry a 204 for ever: leave on `end`;
- `httpx-sse`, `curl` and the `openai` client end with the stream; a WebSocket stays open: leave on `done`.

All clients run their story at the same time, because most of it is waiting for `retry:`.
Each is judged alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import openai
import pytest

from tests.conftest import missing
from tests.contract.clients.driven import CLIENTS, Client, Driven, Heard, driven
from tests.contract.clients.tap import CLOSED_BY_AGE, KEEPALIVE_CHUNK, Tap, tapped
from tests.harness import (
    PATIENCE,
    Provider,
    qingbo,
    qingbo_done,
    running_bridge,
    running_simulator,
    upstreams_of,
)

pytestmark = pytest.mark.anyio

STATES = [("queued", 0), ("processing", 10), ("processing", 55), ("processing", 90), ("completed", 100)]
WEATHER = {"stale", "fresh"}  # a machine that is busy may confirm late; that is told, and is no state
COMING_BACK = [client for client in CLIENTS if client.comes_back]


@dataclass(frozen=True)
class Story:
    """What a client told, and what went over its wire."""

    heard: list[Heard]
    last_ids: list[str | None]
    statuses: list[int]

    @property
    def states(self) -> list[Heard]:
        return [one for one in self.heard if one.is_state]

    @property
    def others(self) -> list[Heard]:
        """What was no state, without the weather."""
        return [one for one in self.heard if not one.is_state and one.fields.get("code") not in WEATHER]


@dataclass(frozen=True)
class Stage:
    """One bridge, one provider, and many clients that do not know of each other."""

    bridge: str
    provider: Provider

    async def run(self, client: Client, scene: Callable[..., Awaitable[None]], until: str) -> Story:
        """Play one scene with one client."""
        task_id = f"for-{client.name}"
        await self.provider.script(task_id, qingbo(task_id, *STATES[0]))
        async with tapped(self.bridge) as tap:
            url = f"{tap.url}/v1/tasks/qingbo/{task_id}/events"
            async with driven(client, url, until) as told:
                await scene(self, client, task_id, told, tap)
                await told.until_it_stops()
            return Story(told.heard, tap.last_ids, tap.statuses)

    async def release(self, task_id: str, number: int) -> None:
        """Let the provider say state `number` (from 0)."""
        status, progress = STATES[number]
        last = number == len(STATES) - 1
        answer = qingbo_done(task_id) if last else qingbo(task_id, status, progress)
        await self.provider.then(task_id, answer)

    async def until_bridge_shows(self, task_id: str, number: int) -> None:
        """Wait until anybody who asks the bridge is told state `number`."""
        url, have = f"{self.bridge}/v1/tasks/qingbo/{task_id}", '""'
        async with asyncio.timeout(PATIENCE):
            while True:
                asking = {"If-None-Match": have, "Prefer": "wait=30"}
                async with self.provider.http.get(url, headers=asking) as answer:
                    state = await answer.json()
                    have = answer.headers["ETag"]
                if (state["status"], state["progress"]) == STATES[number]:
                    return


async def step_by_step(stage: Stage, client: Client, task_id: str, told: Driven, tap: Tap) -> None:
    """Each state is released once the client told of the one before and a keepalive broke the silence."""
    for number in range(1, len(STATES)):
        await told.until_states(number)
        if client.quiet:
            before = tap.heard_times(KEEPALIVE_CHUNK)
            await tap.until(lambda before=before: tap.heard_times(KEEPALIVE_CHUNK) > before)
        await stage.release(task_id, number)


async def cut_off(stage: Stage, client: Client, task_id: str, told: Driven, tap: Tap) -> None:
    """The bridge ends each connection by age: once with news meanwhile, once without."""
    await told.until_states(1)
    tap.shut()
    await tap.until(lambda: tap.heard_times(CLOSED_BY_AGE) == len(tap.last_ids))  # each that came is gone
    await stage.release(task_id, 1)
    await stage.until_bridge_shows(task_id, 1)
    tap.open()
    await told.until_states(2)
    answered = len(tap.statuses)
    await tap.until(lambda: len(tap.statuses) > answered)
    for number in range(2, len(STATES)):
        await stage.release(task_id, number)
        await told.until_states(number + 1)


@asynccontextmanager
async def staged(**settings: float) -> AsyncIterator[Stage]:
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with running_simulator() as simulator, aiohttp.ClientSession(timeout=timeout) as http:
        upstreams = upstreams_of(simulator, poll_min_seconds=0.05, poll_max_seconds=0.05)
        async with running_bridge(upstreams, **settings) as bridge:
            yield Stage(bridge.url, Provider(simulator, "qingbo", http))


@asynccontextmanager
async def told_at_once(
    stories: dict[Client, Awaitable[Story]],
) -> AsyncIterator[dict[Client, Awaitable[Story]]]:
    """Every story as a task; those nobody waits for any more are stopped."""
    tasks = {client: asyncio.ensure_future(story) for client, story in stories.items()}
    try:
        yield tasks
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The stories outlive one test."""
    return "asyncio"


def wanted(request: pytest.FixtureRequest, clients: Sequence[Client]) -> list[Client]:
    """Those a selected test asks for, where they can be had."""
    asked = {
        getattr(item, "callspec", None) and item.callspec.params.get("client")
        for item in request.session.items
    }
    return [client for client in clients if client in asked and not client.missing]


@pytest.fixture(scope="module")
async def undisturbed(request: pytest.FixtureRequest) -> AsyncIterator[dict[Client, Awaitable[Story]]]:
    """Each client's story of a connection that stays."""
    async with staged(keepalive_seconds=0.2) as stage:
        stories = {
            client: stage.run(client, step_by_step, "204" if client.stops_on_204 else "end")
            for client in wanted(request, CLIENTS)
        }
        async with told_at_once(stories) as tasks:
            yield tasks


@pytest.fixture(scope="module")
async def interrupted(request: pytest.FixtureRequest) -> AsyncIterator[dict[Client, Awaitable[Story]]]:
    """Each client's story of connections that the bridge ends by age."""
    async with staged(keepalive_seconds=0.2, max_connection_age_seconds=0.5) as stage:
        stories = {client: stage.run(client, cut_off, "end") for client in wanted(request, COMING_BACK)}
        async with told_at_once(stories) as tasks:
            yield tasks


async def of(client: Client, stories: dict[Client, Awaitable[Story]]) -> Story:
    if client.missing:
        missing(client.missing)
    return await stories[client]


def named(clients):
    return pytest.mark.parametrize(
        "client",
        [
            pytest.param(client, id=client.name, marks=[pytest.mark.extended] if client.runs_on_node else [])
            for client in clients
        ],
    )


def shown(states):
    return [(one.fields["status"], one.fields["progress"]) for one in states]


@named(CLIENTS)
async def test_every_state_is_seen_once_and_in_order(client, undisturbed):
    story = await of(client, undisturbed)
    assert shown(story.states) == STATES
    assert {one.name for one in story.states} == {"message"}
    if client.tells_names:
        assert [one.id for one in story.states] == [one.fields["cursor"] for one in story.states]


@named(CLIENTS)
async def test_nothing_is_seen_that_nobody_said(client, undisturbed):
    story = await of(client, undisturbed)
    assert all(one.data for one in story.heard)
    said = [one.name for one in story.others]
    if client.tells_names:
        first = ["subscribed"] if client.name == "websockets" else []
        assert said == [*first, *client.end]
    else:
        assert len(said) == len(client.end)


@named(CLIENTS)
async def test_the_last_words_are_done_and_end(client, undisturbed):
    story = await of(client, undisturbed)
    last = [one.fields for one in story.others if "status" in one.fields or "tasks" in one.fields]
    if "done" in client.end:
        done = next(fields for fields in last if "status" in fields)
        assert (done["task"], done["status"]) == (f"qingbo/for-{client.name}", "completed")
    if "end" in client.end:
        assert last[-1] == {"tasks": 1}


@named([client for client in CLIENTS if client.end])
async def test_it_stops(client, undisturbed):
    story = await of(client, undisturbed)
    once = [101] if client.name == "websockets" else [200]
    assert story.statuses == ([200, 204] if client.stops_on_204 else once)
    if client.stops_on_204:
        assert story.last_ids == [None, story.states[-1].id]


@named(COMING_BACK)
async def test_whoever_comes_back_sees_every_state_exactly_once(client, interrupted):
    story = await of(client, interrupted)
    assert shown(story.states) == STATES
    told = {one.name for one in story.others if one.fields.get("reason") != "age"}
    assert told == set(client.end) | ({"subscribed"} if client.name == "websockets" else set())


@named([client for client in COMING_BACK if client.sends_last_id])
async def test_whoever_comes_back_says_what_it_saw_last(client, interrupted):
    story = await of(client, interrupted)
    first, *later = story.last_ids
    seen = [one.id for one in story.states]
    assert first is None
    assert {*seen[:2]} <= {*later} <= {*seen}
    assert later == sorted(later, key=seen.index)


async def test_the_openai_client_does_not_ask_twice_for_what_is_not_there():
    async with staged() as stage, tapped(stage.bridge) as tap:
        direct = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(base_url=f"{tap.url}/v1", api_key="any", http_client=direct) as client:
            with pytest.raises(openai.NotFoundError) as refused:
                await client.get("/tasks/qingbo/nowhere", cast_to=dict[str, object])
    assert refused.value.code == "task_not_found"
    assert tap.statuses == [404]
