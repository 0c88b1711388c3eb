"""Many tasks by one name: a tag or group is followed, tasks are listed, registered and forgotten."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.client import (
    ClosedGroup,
    Conflict,
    Forbidden,
    InvalidRequest,
    ResultTimeout,
    Status,
    SyncBridge,
    TaskNotice,
    UnknownTask,
    UnreadablePayload,
)
from bridge.client.watch_state import _MAX_FINAL, WatchState
from bridge.wire.sse import ServerSentEvent

pytestmark = pytest.mark.anyio


def group_done(**counts: int) -> bytes:
    return b"event: group_done\ndata: %b\nid: e-9.abcdefgh\n\n" % orjson.dumps(
        {"group": "g", "counts": counts}
    )


def page(fake: Any, *refs: str, next: str | None = None, status: str = "completed") -> Any:  # noqa: A002
    tasks = [fake.document(ref, status, f"e-{number}") for number, ref in enumerate(refs)]
    return fake.answer(200, {"tasks": tasks, "next": next})


# -- following


async def test_a_group_is_followed_to_its_end_and_not_to_that_of_its_tasks(fake):
    fake.plays(
        [fake.state("e-1", "completed", task="q/1"), fake.done("e-1", task="q/1"), fake.CUT],
        [
            fake.state("e-1", task="q/1"),  # repeated, and older: a final state is a latch
            fake.state("e-2", "failed", task="q/2"),
            fake.done("e-2", "failed", task="q/2"),
            group_done(completed=1, failed=1),
            fake.HANG,  # a missing `end` must not hold the caller up
        ],
        fake.answer(204),
    )
    notices: list[TaskNotice] = []
    async with fake() as bridge:
        states = [state async for state in bridge.group("g").watch(on_notice=notices.append)]
    assert [(state.task, state.status) for state in states] == [("q/1", "completed"), ("q/2", "failed")]
    assert [seen.path for seen in fake.seen[:2]] == ["/v1/events?group=g"] * 2
    assert fake.seen[1].headers["Last-Event-ID"] == "e-1"
    done = next(notice for notice in notices if notice.code == "group_done")
    assert (done.group, done.counts) == ("g", {"completed": 1, "failed": 1})


async def test_a_tag_does_not_end_with_its_tasks(fake):
    fake.plays(
        [fake.state("e-1", "completed"), fake.done("e-1"), fake.notice("closing", reason="age"), fake.end()],
        [fake.state("e-2", task="q/2"), fake.HANG],
    )
    async with fake() as bridge, aclosing(bridge.watch(tag="user:7")) as states:
        assert [(await anext(states)).task, (await anext(states)).task] == ["q/1", "q/2"]
    assert fake.seen[0].path == "/v1/events?tag=user%3A7"


async def test_a_group_that_is_over_ends_with_204(fake):
    fake.plays([fake.state("e-1", "completed"), fake.CUT], fake.answer(204))
    async with fake() as bridge:
        assert [state.status async for state in bridge.watch(group="g")] == ["completed"]


@pytest.mark.parametrize(
    ("refs", "names"),
    [
        ((), {}),
        (("q/1",), {"tag": "t"}),
        (("q/1",), {"group": "g"}),
        ((), {"tag": "t", "group": "g"}),
        ((), {"tag": "ü"}),
        ((), {"group": ""}),
        ((), {"tag": "a" * 65}),
    ],
)
async def test_what_is_followed_is_tasks_or_one_name(fake, refs, names):
    async with fake() as bridge:
        with pytest.raises(InvalidRequest):
            bridge.watch(*refs, **names)
    assert not fake.seen


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["processing", "completed", "lost"]))))
def test_a_selection_yields_what_its_tasks_would_yield_by_name(steps):
    refs = [f"q/{number}" for number in range(6)]
    named, selected = WatchState(refs), WatchState(selection=True)
    for place, (number, status) in enumerate(steps):
        document = {"task": refs[number], "status": status, "cursor": f"e-{place}"}
        event = ServerSentEvent(name=None, data=orjson.dumps(document).decode(), id=f"e-{place}.abcdefgh")
        assert named.accept(event) == selected.accept(event)
        assert not selected.settled
    assert not selected.open_refs


def test_what_is_remembered_of_a_tag_is_bounded():
    watch = WatchState(selection=True)
    for place in range(_MAX_FINAL + 100):
        document = {"task": f"q/{place}", "status": "completed", "cursor": f"e-{place}"}
        watch.accept(ServerSentEvent(name=None, data=orjson.dumps(document).decode(), id=None))
    assert len(watch._final) == len(watch._cursors) == _MAX_FINAL


@pytest.mark.parametrize("data", ["{}", '{"counts": 5}', '{"group": 1, "counts": {"failed": true}}'])
def test_a_malformed_group_done_ends_the_watch_too(data):
    watch = WatchState(selection=True)
    notice = watch.accept(ServerSentEvent(name="group_done", data=data, id=None))
    assert watch.settled
    assert isinstance(notice, TaskNotice)
    assert (notice.group, notice.counts) == (None, {})


# -- groups


async def test_a_group_is_closed(fake):
    fake.plays(
        fake.answer(200, {"group": "g", "closed": True, "counts": {"completed": 2}, "open": 1}),
        fake.problem(403, "forbidden"),
        fake.answer(200, []),
    )
    async with fake("t") as bridge:
        group = bridge.group("g")
        assert await group.close() == ClosedGroup(group="g", counts={"completed": 2}, open=1)
        with pytest.raises(Forbidden):
            await group.close()
        with pytest.raises(UnreadablePayload):
            await group.close()
    assert (fake.seen[0].method, fake.seen[0].path) == ("POST", "/v1/groups/g/close")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "é", "a" * 65])
async def test_a_name_that_is_no_group_is_never_an_address(fake, name):
    async with fake() as bridge:
        with pytest.raises(InvalidRequest):
            bridge.group(name)


async def test_the_results_of_a_group_are_all_of_its_final_states(fake):
    fake.plays(
        [
            fake.state("e-1", task="q/1"),
            fake.state("e-2", "failed", task="q/2"),
            fake.state("e-3", "completed", task="q/1"),
            group_done(completed=3, failed=1),
            fake.end(4),
        ],
        # a watch begins with the newest only
        page(fake, "q/1", "q/3", next="p2"),
        page(fake, "q/4"),
    )
    seen: list[str] = []
    async with fake() as bridge:
        results = await bridge.group("g").results(on_state=lambda state: seen.append(state.task))
    assert {ref: state.status for ref, state in results.items()} == {
        "q/1": "completed",
        "q/2": "failed",
        "q/3": "completed",
        "q/4": "completed",
    }
    assert seen == ["q/1", "q/2", "q/1", "q/3", "q/4"]
    assert [seen.path for seen in fake.seen[1:]] == [
        "/v1/tasks?group=g&limit=200",
        "/v1/tasks?group=g&limit=200&before=p2",
    ]


async def test_results_that_all_arrived_need_no_list(fake):
    fake.plays([fake.state("e-1", "completed"), group_done(completed=1), fake.end()])
    async with fake() as bridge:
        assert list(await bridge.group("g").results()) == ["q/1"]
    assert len(fake.seen) == 1


async def test_the_results_of_a_group_that_ended_meanwhile_are_listed(fake):
    fake.plays([fake.state("e-1", "completed"), fake.CUT], fake.answer(204), page(fake, "q/2", "q/1"))
    async with fake() as bridge:
        assert sorted(await bridge.group("g").results()) == ["q/1", "q/2"]


async def test_results_have_a_time_limit_and_errors_of_callbacks_are_raised(fake):
    fake.plays([fake.state("e-1"), fake.HANG])

    async def clumsy(_state: Any) -> None:
        raise TimeoutError("mine")

    async with fake() as bridge:
        with pytest.raises(ResultTimeout, match=r"group g is not done within 0.05 s"):
            await bridge.group("g").results(timeout=0.05)
        with pytest.raises(TimeoutError, match="mine"):
            await bridge.group("g").results(timeout=60, on_state=clumsy)


# -- submit, register, forget


async def test_a_submit_names_its_tags_and_its_group(fake):
    fake.plays(fake.answer(201, {"state": fake.document("q/1", "queued", "e-1"), "links": {}}))
    async with fake() as bridge:
        await bridge.submit("q", {}, tags=["user:7", "a", "a"], group="batch-1")
        await bridge.submit("q", {})
    assert fake.seen[0].headers["X-Task-Tags"] == "user:7,a"
    assert fake.seen[0].headers["X-Task-Group"] == "batch-1"
    assert not {"X-Task-Tags", "X-Task-Group"} & fake.seen[1].headers.keys()


@pytest.mark.parametrize(
    "words", [{"tags": "user:7"}, {"tags": ["a b"]}, {"tags": map(str, range(17))}, {"group": "x\r\nY: z"}]
)
async def test_words_that_are_none_are_not_sent(fake, words):
    async with fake() as bridge:
        with pytest.raises(InvalidRequest):
            await bridge.submit("q", {}, **words)
    assert not fake.seen


async def test_a_closed_group_is_an_error_that_is_not_retried(fake):
    fake.plays(fake.problem(409, "conflict", x_should_retry="false"))
    async with fake() as bridge:
        with pytest.raises(Conflict):
            await bridge.submit("q", {}, group="g", retry_seconds=60)
    assert len(fake.seen) == 1


async def test_a_task_is_registered(fake):
    fake.plays(fake.answer(201, {"state": fake.document("q/a/b", "unknown", "e-1"), "links": {}}))
    async with fake() as bridge:
        state = await bridge.register(
            "q/a/b", tags=["t"], group="g", deadline_seconds=60, webhook="https://a.example/ü"
        )
        assert state.status is Status.UNKNOWN
        await bridge.register(state)
    first, second = fake.seen
    assert (first.method, first.path) == ("PUT", "/v1/tasks/q/a%2Fb")
    assert orjson.loads(first.body) == {
        "tags": ["t"],
        "group": "g",
        "deadline_seconds": 60,
        "webhook": "https://a.example/%C3%BC",
    }
    assert orjson.loads(second.body) == {"tags": []}


async def test_a_task_is_forgotten(fake):
    fake.plays(fake.answer(204), fake.problem(409, "conflict"), fake.problem(404, "task_not_found"))
    async with fake() as bridge:
        await bridge.forget(("q", "a/b"))
        with pytest.raises(Conflict):
            await bridge.forget("q/1")
        with pytest.raises(UnknownTask):
            await bridge.forget("q/1")
    assert (fake.seen[0].method, fake.seen[0].path) == ("DELETE", "/v1/tasks/q/a%2Fb")


async def test_a_ticket_is_for_a_tag(fake):
    links = {"events": "/v1/events?tag=user:7&ticket=tt", "ws": "/v1/ws?ticket=tt"}
    made = {"ticket": "tt", "expires_at": "2026-11-20T10:00:00.000Z", "tags": ["user:7"], "links": links}
    fake.plays(
        fake.answer(201, made), fake.answer(201, made | {"links": {"events": None}}), fake.answer(201, {})
    )
    async with fake() as bridge:
        ticket = await bridge.ticket(tags=["user:7"], seconds=60)
        assert (ticket.ticket, ticket.events, ticket.ws) == ("tt", links["events"], links["ws"])
        assert "tt" not in repr(ticket)
        assert (await bridge.ticket("q/1", ("q", "2"), groups=["g"])).events is None
        with pytest.raises(UnreadablePayload):
            await bridge.ticket("q/1")
    assert [orjson.loads(seen.body) for seen in fake.seen[:2]] == [
        {"seconds": 60, "tags": ["user:7"]},
        {"seconds": 300, "tasks": ["q/1", "q/2"], "groups": ["g"]},
    ]


# -- the list


async def test_the_list_asks_for_a_page_when_the_loop_comes_to_it(fake):
    fake.plays(page(fake, "q/3", "q/2", next="p/2&"), page(fake, "q/1"))
    async with (
        fake() as bridge,
        aclosing(bridge.list(upstream="q", status=Status.COMPLETED, tag="user:7", group="g")) as listed,
    ):
        assert [(await anext(listed)).task, (await anext(listed)).task] == ["q/3", "q/2"]
        assert len(fake.seen) == 1
        assert [state.task async for state in listed] == ["q/1"]
    query = "upstream=q&status=completed&tag=user%3A7&group=g&limit=200"
    assert [seen.path for seen in fake.seen] == [f"/v1/tasks?{query}", f"/v1/tasks?{query}&before=p%2F2%26"]


@pytest.mark.parametrize(("limit", "asked"), [(3, [3, 1]), (2, [2]), (450, [200, 200]), (0, [])])
async def test_a_limit_is_that_of_the_whole_list(fake, limit, asked):
    fake.plays(page(fake, "q/4", "q/3", next="x"), page(fake, "q/2"))
    async with fake() as bridge:
        listed = [state.task async for state in bridge.list(limit=limit)]
    assert len(listed) == min(limit, 3)
    assert [seen.path.partition("limit=")[2].partition("&")[0] for seen in fake.seen] == [
        str(one) for one in asked
    ]


async def test_a_page_is_one_answer(fake):
    fake.plays(
        page(fake, "q/1", next="n"), fake.answer(200, {"tasks": 1}), fake.problem(400, "invalid_request")
    )
    async with fake() as bridge:
        first = await bridge.list_page(limit=1)
        assert ([state.task for state in first.tasks], first.next) == (["q/1"], "n")
        with pytest.raises(UnreadablePayload):
            await bridge.list_page()
        with pytest.raises(InvalidRequest):
            await bridge.list_page(before="x")
        with pytest.raises(InvalidRequest):
            await bridge.list_page(limit=0)


async def test_the_client_without_await_has_the_same(fake):
    fake.plays(
        page(fake, "q/3", "q/2", next="n"),
        page(fake, "q/1"),
        fake.answer(200, {"group": "g", "closed": True, "counts": {}, "open": 1}),
        [fake.state("e-1", "completed"), group_done(completed=1), fake.end()],
    )
    seen: list[str] = []

    def program() -> None:
        with SyncBridge(fake.url, timeouts=fake.QUICK) as bridge:
            assert [state.task for state in bridge.list()] == ["q/3", "q/2", "q/1"]
            group = bridge.group("g")
            assert group.close().open == 1
            assert [state.status for state in group.watch()] == ["completed"]
            results = group.results(
                on_state=lambda state: seen.append(state.task),
                on_notice=lambda notice: seen.append(notice.code),
            )
            assert list(results) == ["q/1"]
            fake.plays(fake.answer(200, fake.document("q/1", "queued", "e-1")))
            assert bridge.register("q/1", tags=["t"]).task == "q/1"
            fake.plays(fake.answer(204))
            bridge.forget("q/1")
            with pytest.raises(InvalidRequest):
                bridge.group("a/b")

    await asyncio.to_thread(program)
    assert seen == ["q/1", "group_done"]
