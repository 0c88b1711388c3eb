"""A watch over an unreliable network and bridge."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import Any

import aiohttp
import orjson
import pytest

from bridge.client.backoff import Timeouts
from bridge.client.bridge import Bridge
from bridge.client.errors import BridgeUnreachable
from bridge.client.state import TaskNotice
from bridge.core.task import Status
from bridge.errors import (
    Forbidden,
    InvalidRequest,
    Unauthenticated,
    UnknownRoute,
    UnknownTask,
    UnreadablePayload,
    UpstreamRefused,
)

pytestmark = pytest.mark.anyio


async def cursors(bridge: Bridge, *refs: str, **kwargs: Any) -> list[str | None]:
    async with bridge:
        return [state.cursor async for state in bridge.watch(*(refs or ("q/1",)), **kwargs)]


async def test_states_come_until_the_task_is_final(fake):
    fake.plays(
        [fake.state("e-1", progress=42, eta_seconds=8.5), b":\n", fake.finish("e-2", outputs=[{"url": "u"}])]
    )
    async with fake() as bridge:
        first, last = [state async for state in bridge.watch("q/1")]
    assert (first.task, first.status, first.progress, first.eta_seconds) == (
        "q/1",
        Status.PROCESSING,
        42,
        8.5,
    )
    assert not first.final
    assert last.final
    assert last.outputs == ({"url": "u"},)
    assert last.document["upstream"] == "q"
    [seen] = fake.seen
    assert seen.path == "/v1/tasks/q/1/events"
    assert seen.headers["Accept"] == "text/event-stream"
    assert "Last-Event-ID" not in seen.headers
    assert "Authorization" not in seen.headers


async def test_a_cut_within_a_frame_resumes_with_the_cursor_and_each_state_comes_once(fake):
    fake.plays(
        [fake.state("e-1"), fake.state("e-2", progress=9), fake.state("e-3")[:40], fake.CUT],
        [fake.state("e-2", progress=9), fake.state("e-3"), fake.finish("e-4")],
    )
    assert await cursors(fake()) == ["e-1", "e-2", "e-3", "e-4"]
    assert fake.seen[1].headers["Last-Event-ID"] == "e-2"


async def test_an_older_state_after_a_resume_is_not_news(fake):
    fake.plays([fake.state("e-9"), fake.CUT], [fake.state("e-8"), fake.state("e-10"), fake.finish("e-11")])
    assert await cursors(fake()) == ["e-9", "e-10", "e-11"]


async def test_no_content_ends_the_watch(fake):
    fake.plays([fake.state("e-1"), fake.CUT], fake.answer(204))
    assert await cursors(fake()) == ["e-1"]
    assert await cursors(fake(), last_event_id="e-7", history=True) == []
    assert fake.seen[-1].headers["Last-Event-ID"] == "e-7"
    assert fake.seen[-1].path == "/v1/tasks/q/1/events?history=1"


async def test_a_final_state_needs_no_goodbye(fake):
    fake.plays([fake.state("e-1", "failed"), fake.CUT])
    assert await cursors(fake()) == ["e-1"]
    fake.plays([fake.state("e-1", "failed"), fake.HANG])
    assert await cursors(fake()) == ["e-1"]
    assert len(fake.seen) == 2


async def test_after_a_reset_the_new_epoch_is_accepted(fake):
    notices: list[TaskNotice] = []
    fake.plays(
        [fake.state("a-5"), fake.state("a-6"), fake.CUT],
        [fake.reset("epoch"), fake.state("b-1"), fake.CUT],
        [fake.state("b-1"), fake.finish("b-2")],
    )
    assert await cursors(fake(), on_notice=notices.append) == ["a-5", "a-6", "b-1", "b-2"]
    assert [seen.headers.get("Last-Event-ID") for seen in fake.seen] == [None, "a-6", "b-1"]
    assert TaskNotice(code="reset", reason="epoch") in notices


async def test_a_final_state_is_a_latch_even_over_a_reset(fake):
    a, b = {"task": "q/a"}, {"task": "q/b"}
    fake.plays(
        [fake.state("a-1", "completed", **a), fake.done("a-1", task="q/a"), fake.state("a-2", **b), fake.CUT],
        [fake.reset(), fake.state("b-1", "completed", **a), fake.state("b-2", "failed", **b), fake.end(2)],
    )
    assert await cursors(fake(), "q/a", "q/b") == ["a-1", "a-2", "b-2"]
    assert fake.seen[1].path == "/v1/tasks/q/b/events"


async def test_a_real_final_state_may_follow_lost(fake):
    fake.plays([fake.state("e-1", "lost"), fake.state("e-2"), fake.state("e-3", "completed"), fake.end()])
    assert await cursors(fake()) == ["e-1", "e-3"]


async def test_a_drain_is_survived_and_its_retry_honoured(fake):
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    closing = fake.notice("closing", reason="drain", retry=7000)
    fake.plays(
        [fake.state("e-1", retry=2000), closing],
        [fake.state("e-2"), closing, fake.end()],
        [fake.finish("e-3")],
    )
    notices: list[TaskNotice] = []
    assert await cursors(fake(sleep=sleep), on_notice=notices.append) == ["e-1", "e-2", "e-3"]
    assert [7 <= wait <= 10.5 for wait in waits] == [True, True]
    assert [(n.code, n.reason) for n in notices if n.code == "closing"] == [("closing", "drain")] * 2


async def test_refusals_that_pass_are_waited_out(fake):
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    fake.plays(
        fake.problem(503, "over_capacity"),
        fake.problem(429, "too_many_requests", Retry_After="20"),
        fake.answer(502),
        fake.problem(504, "upstream_timeout"),
        fake.answer(500),
        [fake.finish("e-1")],
    )
    assert await cursors(fake(sleep=sleep, rng=random.Random(7))) == ["e-1"]
    assert len(waits) == 5
    assert waits[1] >= 20
    assert max(waits[:1] + waits[2:]) <= fake.QUICK.max_delay


@pytest.mark.parametrize(
    ("part", "error", "code"),
    [
        ((400, "invalid_request"), InvalidRequest, "invalid_request"),
        ((401, "unauthenticated"), Unauthenticated, "unauthenticated"),
        ((403, "forbidden"), Forbidden, "forbidden"),
        ((404, "task_not_found"), UnknownTask, "task_not_found"),
        ((422, "of_a_later_version"), InvalidRequest, "of_a_later_version"),
    ],
)
async def test_refusals_that_stay_are_raised_with_their_code_and_sentence(fake, part, error, code):
    fake.plays(fake.problem(*part, "the very sentence"))
    with pytest.raises(error, match="the very sentence") as caught:
        await cursors(fake())
    assert (caught.value.code, caught.value.status) == (code, part[0])
    assert len(fake.seen) == 1


async def test_a_bad_gateway_that_says_not_to_retry_is_raised(fake):
    fake.plays(fake.problem(502, "upstream_refused", x_should_retry="false"))
    with pytest.raises(UpstreamRefused):
        await cursors(fake())
    fake.plays(fake.answer(404))
    with pytest.raises(UnknownRoute):
        await cursors(fake())


async def test_what_is_no_bridge_is_told_so(fake):
    fake.plays(fake.answer(200, {"hello": "world"}))
    with pytest.raises(UnreadablePayload, match="event stream"):
        await cursors(fake())
    for nonsense in (b"data: {\n\n", b"data: []\n\n", b"data: {}\n\n", b"event: reset\ndata: 1\n\n"):
        fake.plays([nonsense])
        with pytest.raises(UnreadablePayload):
            await cursors(fake())


async def test_many_tasks_share_a_connection_and_only_open_ones_are_asked_for_again(fake):
    refs = ("q/a/b", "q/ü&?", "v/c")
    states = [
        fake.state(f"e-{n}", "completed" if n == 1 else "queued", task=ref) for n, ref in enumerate(refs, 1)
    ]
    ends = [fake.state(f"e-{n}", "cancelled", task=ref) for n, ref in enumerate(refs[1:], 5)]
    fake.plays([*states, fake.CUT], [*states, *ends, fake.end(3)])
    assert await cursors(fake(), *refs, refs[0]) == ["e-1", "e-2", "e-3", "e-5", "e-6"]
    assert fake.seen[0].path == "/v1/events?task=q/a/b&task=q/%C3%BC%26%3F&task=v/c"
    assert fake.seen[1].path == "/v1/events?task=q/%C3%BC%26%3F&task=v/c"
    assert fake.seen[1].headers["Last-Event-ID"] == "e-3"


@pytest.mark.parametrize("refs", [[f"q/{n}" for n in range(30)], [f"q/{n}{'x' * 200}" for n in range(10)]])
async def test_a_long_list_goes_into_a_body(fake, refs):
    fake.plays([fake.end(len(refs))])
    assert await cursors(fake(), *refs, history=True) == []
    [seen] = fake.seen
    assert (seen.method, seen.path) == ("POST", "/v1/events?history=1")
    assert orjson.loads(seen.body) == {"tasks": refs}


async def test_ids_are_percent_encoded_and_a_path_prefix_is_kept(fake):
    fake.plays([fake.end()])
    fake.url += "/bridge/"
    assert await cursors(fake(), "veo/models/x y/operations/é?#%2F") == []
    assert fake.seen[0].path == "/bridge/v1/tasks/veo/models%2Fx%20y%2Foperations%2F%C3%A9%3F%23%2F/events"


async def test_a_task_that_does_not_exist_is_over_for_the_others(fake):
    notices: list[TaskNotice] = []
    gone = fake.notice("task_not_found", task="q/b", retriable=False)
    fake.plays([gone, fake.state("e-1", "completed", task="q/a"), fake.CUT])
    assert await cursors(fake(), "q/a", "q/b", on_notice=notices.append) == ["e-1"]
    assert [(n.code, n.task) for n in notices] == [("task_not_found", "q/b")]


async def test_silence_is_noticed_and_comments_break_it(fake):
    notices: list[TaskNotice] = []
    patience = Timeouts(silence=1.0, first_delay=0.001, min_delay=0.001, end_timeout=0.05)

    async def keepalives() -> None:
        await asyncio.sleep(0.6)  # far enough from a silence for a machine that is held up

    fake.plays(
        [fake.state("e-1"), keepalives, b":\n", keepalives, b":\n", fake.state("e-2"), fake.HANG],
        [fake.finish("e-3")],
    )
    assert await cursors(fake(timeouts=patience), on_notice=notices.append) == ["e-1", "e-2", "e-3"]
    assert fake.seen[1].headers["Last-Event-ID"] == "e-2"
    [notice] = notices
    assert notice.code == "reconnecting"
    assert "silent" in notice.message


async def test_the_token_is_asked_for_before_each_connection(fake):
    count = 0

    async def token() -> str:
        nonlocal count
        count += 1
        return f"t{count}"

    expired = fake.notice("closing", reason="expired", retry=1)
    fake.plays([fake.state("e-1"), expired], [fake.finish("e-2")])
    assert await cursors(fake(token)) == ["e-1", "e-2"]
    assert [seen.headers["Authorization"] for seen in fake.seen] == ["Bearer t1", "Bearer t2"]
    fake.plays([fake.finish("e-2")])
    await cursors(fake(lambda: "plain"))
    await cursors(fake("text"))
    assert [seen.headers["Authorization"] for seen in fake.seen[2:]] == ["Bearer plain", "Bearer text"]


async def test_no_error_tells_the_token(fake):
    fake.plays(fake.problem(401, "unauthenticated", "you sent Bearer s3cr3t-token"))
    with pytest.raises(Unauthenticated) as refused:
        await cursors(fake("s3cr3t-token"))
    with pytest.raises(InvalidRequest) as malformed:
        await cursors(fake("s3cr3t-token\r\nX: y"))
    with pytest.raises(BridgeUnreachable) as unreachable:
        await cursors(Bridge("http://127.0.0.1:1", "s3cr3t-token", timeouts=fake.QUICK), unreachable_after=0)
    for caught in (refused, malformed, unreachable):
        assert "s3cr3t" not in repr(caught.value) + str(caught.value)


async def test_a_bridge_that_stays_away_is_given_up(fake):
    fake.plays([fake.state("e-1"), fake.CUT], fake.answer(503))
    with pytest.raises(BridgeUnreachable, match="503"):
        await cursors(fake(), unreachable_after=0.5)
    assert len(fake.seen) > 3


async def test_a_slow_reader_of_ours_is_no_absent_bridge(fake):
    fake.plays([fake.state("e-1"), fake.CUT], [fake.finish("e-2")])
    async with fake() as bridge:
        seen = []
        async for state in bridge.watch("q/1", unreachable_after=0.1):
            seen.append(state.cursor)
            await asyncio.sleep(0.15)
    assert seen == ["e-1", "e-2"]


async def test_more_watches_than_a_pool_of_aiohttp_run_at_once(fake):
    open_streams = 0
    all_open = asyncio.Event()

    async def opened() -> None:
        nonlocal open_streams
        open_streams += 1
        if open_streams == 120:
            all_open.set()
        await all_open.wait()

    fake.plays([fake.state("e-1"), opened, fake.finish("e-2")])
    async with fake() as bridge:

        async def one() -> int:
            return len([state async for state in bridge.watch("q/1")])

        assert await asyncio.gather(*(one() for _ in range(120))) == [2] * 120
    assert len(fake.seen) == 120  # nobody had to wait until another was given up


async def test_names_of_a_later_contract_are_passed_over(fake):
    odd = b"event: fanfare\ndata: not even json\n\n"
    odd_id = fake.state("e-2", "queued").replace(b"id: e-2", b"id: not a cursor")
    fake.plays([odd, fake.state("e-1", "pondering"), odd_id, fake.CUT], [fake.finish("e-3")])
    async with fake() as bridge:
        states = [state async for state in bridge.watch("q/1")]
    assert [state.status for state in states] == [Status.UNKNOWN, Status.QUEUED, Status.COMPLETED]
    assert "Last-Event-ID" not in fake.seen[1].headers


async def test_leaving_early_closes_the_connection(fake):
    fake.plays([fake.state("e-1"), fake.HANG])
    async with fake() as bridge, aclosing(bridge.watch("q/1")) as states:
        async for state in states:
            assert state.cursor == "e-1"
            break


async def test_cancelling_a_watch_leaves_nothing(fake):
    fake.plays([fake.state("e-1"), fake.HANG])
    seen = asyncio.Event()

    async def reader() -> None:
        async with fake() as bridge:
            async for _ in bridge.watch("q/1"):
                seen.set()

    task = asyncio.create_task(reader())
    await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_session_of_the_caller_stays_open(fake):
    fake.plays([fake.finish("e-1")])
    async with aiohttp.ClientSession() as session:
        assert await cursors(fake(session=session)) == ["e-1"]
        assert not session.closed


@pytest.mark.parametrize("refs", [(), ("no-slash",), ("Q/1",), ("q/",), ("q/a\nb",)])
def test_bad_refs_are_refused_before_anything_is_sent(refs):
    with pytest.raises(InvalidRequest):
        Bridge("http://127.0.0.1:1").watch(*refs)


@pytest.mark.parametrize("cursor", ["", "a b", "a\r\nX: y", "x" * 129])
def test_bad_cursors_are_refused_before_anything_is_sent(cursor):
    with pytest.raises(InvalidRequest):
        Bridge("http://127.0.0.1:1").watch("q/1", last_event_id=cursor)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080", "ftp://x", "http://", "http://[", "http://x:99999"])
def test_bad_addresses_are_refused(url):
    with pytest.raises(InvalidRequest):
        Bridge(url)
