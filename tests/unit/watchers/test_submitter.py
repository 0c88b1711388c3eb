"""Creating and cancelling: asked once, seen through, recorded, watched to the end."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import orjson
import pytest

from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.event import Event
from bridge.core.task import Source, State, Status, TaskKey
from bridge.dialects.base import HttpResponse, Request, Submission
from bridge.engine.base import Job
from bridge.errors import (
    Conflict,
    InvalidRequest,
    JournalError,
    TaskNotFound,
    UnknownUpstream,
    UnreadablePayload,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from bridge.watchers.submitter import MAY_EXIST, Submitter, may_exist
from tests.fakes.clock import settle
from tests.fakes.provider import FakeProvider
from tests.fakes.tasks import TASK, seen
from tests.unit.watchers.conftest import LINGER, House

pytestmark = pytest.mark.anyio

ID = TASK.task_id
PLAIN = Submission(body=b'{"model": "m"}', content_type="application/json")
NAMED = replace(PLAIN, body=b'{"own_id": "mine"}')


class Shop(FakeProvider):
    """A provider that creates and cancels; `fails` holds what happens to the next call of a kind."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.calls: Counter[str] = Counter()
        self.received: list[Request] = []
        self.within: list[float | None] = []
        self.fails: dict[str, list[UpstreamError | None]] = {}
        self.answers: dict[str, tuple[int, Any]] = {}
        self.known_as_mine: str | None = None
        self.creates_anyway = False
        self.gate: asyncio.Event | None = None
        self.can_cancel = self.can_create = True

    async def ask(
        self, request: Request, timeout_seconds: float | None = None, *, known: bytes | None = None
    ) -> HttpResponse:
        call = request.path.split("/")[1]
        if call == "tasks":
            return await super().ask(request, timeout_seconds)
        self.calls[call] += 1
        self.received.append(request)
        self.within.append(timeout_seconds)
        if self.gate is not None:
            await self.gate.wait()
        if call == "create" and self.creates_anyway:
            self.known_as_mine = ID
        failing = self.fails.get(call)
        error = failing.pop(0) if failing else None
        if error is not None:
            raise error
        if call == "alias":
            status, shown = (200, {"id": self.known_as_mine}) if self.known_as_mine else (404, {})
        else:
            status, shown = self.answers.get(call, (200, {"id": ID}))
        return HttpResponse(status, {}, orjson.dumps(shown))

    def submit_request(self, submission: Submission) -> Request | None:
        if "wrong" in submission.options:
            raise InvalidRequest("no such option")
        headers = {"content-type": submission.content_type or ""}
        return (
            Request(method="POST", path="/create", headers=headers, body=submission.body)
            if self.can_create
            else None
        )

    def read_submitted(self, answer: HttpResponse, submission: Submission) -> Any:
        return self._task(answer)

    def client_id(self, submission: Submission) -> str | None:
        return "mine" if b"own_id" in submission.body else None

    def alias_request(self, alias: str) -> Request | None:
        return Request(method="GET", path=f"/alias/{alias}")

    def callback_in(self, submission: Submission) -> str | None:
        return "https://own.example/cb" if b"callback" in submission.body else None

    def with_callback(self, submission: Submission, url: str, *, instead: bool = False) -> Submission:
        if b"callback" in submission.body and not instead:
            return submission
        return replace(submission, body=submission.body + url.encode())

    def cancel_request(self, task_id: str) -> Request | None:
        return Request(method="POST", path=f"/cancel/{task_id}") if self.can_cancel else None

    def read_status(self, answer: HttpResponse, task_id: str | None = None) -> Any:
        from bridge.dialects.base import StatusReading

        shown = orjson.loads(answer.body)
        if "id" in shown or answer.status >= 400 or "status" not in shown:
            return StatusReading(self._task(answer), None)
        return super().read_status(answer, task_id)

    @staticmethod
    def _task(answer: HttpResponse) -> Any:
        shown = orjson.loads(answer.body)
        said: dict[str, Any] = {"provider_status": answer.status, "provider_code": shown.get("code")}
        if answer.status == 404:
            raise TaskNotFound("no such task", **said)
        if 400 <= answer.status < 500:
            raise UpstreamRefused("the provider says no", **said)
        if answer.status >= 500:
            raise UpstreamUnavailable("the provider is broken", **said)
        if "id" not in shown:
            raise UnreadablePayload("names no task", **said)
        return seen(shown.get("status", "queued"), task_id=shown["id"], upstream_status=shown.get("word"))


class Place:
    """A house with a shop, and a submitter before it."""

    def __init__(self, callback_url: str | None = None) -> None:
        self.house = House()
        self.shop = Shop(self.house.clock)
        self.house.upstream.dialect = self.house.upstream.session = self.shop  # type: ignore[assignment]
        self.submitter = Submitter(self.house.pool, self.house.journal, callback_url=callback_url)

    def outcomes(self, call: str) -> dict[str, float]:
        wanted = ("ok", "refused", "timeout", "error", "unreadable", "not_found")
        counted = {
            one: self.house.count("bridge_upstream_requests_total", call=call, outcome=one) for one in wanted
        }
        return {one: number for one, number in counted.items() if number}


@pytest.fixture
def place() -> Place:
    return Place()


async def test_a_task_is_created_once_recorded_and_watched_without_viewers_to_its_end(place: Place) -> None:
    place.shop.shows(ID, "processing", 10)
    async with place.house.running():
        key, event = await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
        assert (key, event.key, event.state.status, event.state.source) == (
            TASK,
            TASK,
            Status.QUEUED,
            Source.SUBMIT,
        )
        await place.house.clock.advance(3 * LINGER)
        place.shop.shows(ID, "completed", 100)
        await place.house.clock.advance(30)
        assert place.house.told(TASK) == [("queued", None), ("processing", 10), ("completed", 100)]
        await place.house.clock.advance(2 * LINGER)
        assert place.house.pool.watcher(TASK) is None
    assert place.shop.calls == {"create": 1}
    assert place.outcomes("submit") == {"ok": 1}
    assert place.shop.within == [60.0]


@pytest.mark.parametrize("answered", ["unknown", "completed"])
async def test_a_paid_task_that_the_provider_lists_late_is_never_forgotten(
    place: Place, answered: str
) -> None:
    """The answer to its submit says nothing but its id; two 404s are for what was registered only."""
    place.shop.answers["create"] = (200, {"id": ID, "status": answered})
    async with place.house.running():
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
    again = House(provider=place.shop, journal=place.house.journal)
    assert await again.pool.restore() == 1
    async with again.running():
        await again.clock.advance(30)
        assert len(place.shop.polls(ID)) >= 2
        assert await again.journal.latest([TASK]) != [None]
        place.shop.shows(ID, "processing", 10)
        await again.clock.advance(15)
        assert again.told(TASK) == [("processing", 10)]


@pytest.mark.parametrize("restarted", [False, True])
async def test_nor_is_one_of_three_bridges_on_one_engine(restarted: bool, build_street: Any) -> None:
    street = build_street(3)
    shop = Shop(street.clock)
    shop.answers["create"] = (200, {"id": ID, "status": "unknown"})
    for house in street.houses:
        house.upstream.dialect = house.upstream.session = shop
    async with street.running():
        submitting = street.houses[0]
        submitter = Submitter(submitting.pool, submitting.journal)
        await submitter.submit(submitting.pool.upstream("qingbo"), PLAIN)
        await street.clock.advance(3)
        if restarted:
            owner = street.owner(TASK)
            assert owner is not None
            owner.journal.lose_lease()
            street.engine.sweep()
        await street.clock.advance(30)
        assert len(shop.polls(ID)) >= 2
        shop.shows(ID, "processing", 10)
        await street.clock.advance(15)
        assert street.owner(TASK) is not None
        assert street.houses[2].told(TASK)[-1] == ("processing", 10)


async def test_the_body_goes_as_it_is(place: Place) -> None:
    wanted = Submission(body=b"\x00\xff--x\r\n", content_type="multipart/form-data; boundary=x")
    async with place.house.running():
        await place.submitter.submit(place.house.pool.upstream("qingbo"), wanted)
    (request,) = place.shop.received
    assert (request.body, request.headers) == (wanted.body, {"content-type": wanted.content_type})


async def test_what_the_answer_shows_needs_no_look_beside_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.shop.shows(ID, "processing", 10)
    latest = place.house.journal.latest

    async def slow(keys: Any) -> Any:
        for _ in range(10):
            await asyncio.sleep(0)
        return await latest(keys)

    monkeypatch.setattr(place.house.journal, "latest", slow)
    async with place.house.running():
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
        await settle()
        assert place.shop.polls(ID) == []
        await place.house.clock.advance(place.house.upstream.pace.min_seconds * 1.2)
        assert len(place.shop.polls(ID)) == 1


async def test_a_submit_that_cannot_be_is_refused_before_anybody_is_asked(place: Place) -> None:
    with pytest.raises(UnknownUpstream):
        await place.submitter.submit(place.house.pool.upstream("nobody"), PLAIN)
    with pytest.raises(InvalidRequest):
        await place.submitter.submit(
            place.house.pool.upstream("qingbo"), replace(PLAIN, options={"wrong": "1"})
        )
    place.shop.can_create = False
    with pytest.raises(Conflict, match="no submit call"):
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
    assert place.shop.calls == {}


async def test_what_the_provider_says_instead_of_a_task_is_raised_and_nothing_is_watched(
    place: Place,
) -> None:
    place.shop.answers["create"] = (422, {"code": "bad_prompt"})
    with pytest.raises(UpstreamRefused) as caught:
        await place.submitter.submit(place.house.pool.upstream("qingbo"), NAMED)
    assert (caught.value.provider_status, caught.value.provider_code) == (422, "bad_prompt")
    assert place.shop.calls == {"create": 1}
    assert place.outcomes("submit") == {"refused": 1}
    assert place.house.pool.statistics("qingbo")["watches"] == 0


@pytest.mark.parametrize("error", [UpstreamTimeout("late"), UpstreamUnavailable("cut")])
async def test_without_an_own_id_an_unknown_outcome_is_told_at_once(place: Place, error: Any) -> None:
    place.shop.fails["create"] = [error]
    with pytest.raises(type(error)) as caught:
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
    assert MAY_EXIST in str(caught.value)
    assert not caught.value.retryable
    assert place.shop.calls == {"create": 1}
    assert place.outcomes("submit") == {error.outcome: 1}


async def test_an_answer_that_cannot_be_read_may_be_of_a_task(place: Place) -> None:
    place.shop.answers["create"] = (200, {})
    with pytest.raises(UnreadablePayload, match=MAY_EXIST):
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
    place.shop.answers["create"] = (500, {})
    with pytest.raises(UpstreamUnavailable) as caught:
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
    assert MAY_EXIST not in str(caught.value)  # it said that it failed
    assert place.shop.calls == {"create": 2}


@pytest.mark.parametrize("submission", [PLAIN, NAMED])
async def test_where_no_connection_came_about_there_is_no_task(place: Place, submission: Submission) -> None:
    place.shop.fails["create"] = [UpstreamUnreachable("nobody there")]
    with pytest.raises(UpstreamUnreachable) as caught:
        await place.submitter.submit(place.house.pool.upstream("qingbo"), submission)
    assert str(caught.value) == "nobody there"
    assert caught.value.retryable
    assert place.shop.calls == {"create": 1}


@pytest.mark.parametrize("error", [UpstreamTimeout("late"), UpstreamUnavailable("cut")])
async def test_a_task_that_was_created_all_the_same_is_found_by_its_own_id(place: Place, error: Any) -> None:
    place.shop.fails["create"] = [error]
    place.shop.creates_anyway = True
    place.shop.shows(ID, "completed", 100)
    async with place.house.running():
        key, event = await place.submitter.submit(place.house.pool.upstream("qingbo"), NAMED)
        assert (key, event.state.status) == (TASK, Status.QUEUED)
        await place.house.clock.advance(30)
        assert place.house.told(TASK)[-1] == ("completed", 100)
    assert place.shop.calls == {"create": 1, "alias": 1}
    assert place.outcomes("submit") == {error.outcome: 1}


async def test_a_task_that_is_not_there_is_created_once_more_and_never_again(place: Place) -> None:
    place.shop.fails["create"] = [UpstreamTimeout("late")]
    async with place.house.running():
        key, _ = await place.submitter.submit(place.house.pool.upstream("qingbo"), NAMED)
    assert key == TASK
    assert place.shop.calls == {"create": 2, "alias": 1}
    assert place.shop.received[0].body == place.shop.received[2].body == NAMED.body
    place.shop.fails["create"] = [UpstreamTimeout("late"), UpstreamTimeout("late again")]
    with pytest.raises(UpstreamTimeout, match="late again"):
        await place.submitter.submit(place.house.pool.upstream("qingbo"), NAMED)
    assert place.shop.calls == {"create": 4, "alias": 2}


async def test_where_nobody_can_look_for_it_the_first_error_stands(place: Place) -> None:
    place.shop.fails = {"create": [UpstreamTimeout("late")], "alias": [UpstreamUnavailable("down")]}
    with pytest.raises(UpstreamTimeout, match="late"):
        await place.submitter.submit(place.house.pool.upstream("qingbo"), NAMED)
    assert place.shop.calls == {"create": 1, "alias": 1}


async def test_a_failure_the_provider_answers_with_is_not_repeated(place: Place) -> None:
    place.shop.answers["create"] = (500, {})
    with pytest.raises(UpstreamUnavailable):
        await place.submitter.submit(place.house.pool.upstream("qingbo"), NAMED)
    assert place.shop.calls == {"create": 1, "alias": 1}


@pytest.mark.parametrize("second", [UpstreamUnreachable("gone"), UpstreamRefused("no", provider_status=400)])
async def test_what_was_sent_first_leaves_a_doubt_however_the_second_ends(place: Place, second: Any) -> None:
    place.shop.fails = {"create": [UpstreamTimeout("late"), second]}
    with pytest.raises(type(second)) as raised:
        await place.submitter.submit(place.house.pool.upstream("qingbo"), NAMED)
    assert may_exist(raised.value)


async def test_a_task_whose_outcome_is_unknown_is_found_later_by_its_own_id_and_watched(place: Place) -> None:
    upstream = place.house.pool.upstream("qingbo")
    async with place.house.running():
        assert await place.submitter.find_submitted(upstream, PLAIN, NO_DETAILS) is None
        assert place.shop.calls["alias"] == 0
        place.shop.fails["alias"] = [UpstreamUnavailable("down")]
        for _ in range(2):  # then it is not there
            assert await place.submitter.find_submitted(upstream, NAMED, NO_DETAILS) is None
        place.shop.known_as_mine = ID
        assert await place.submitter.find_submitted(upstream, NAMED, NO_DETAILS) == TASK
        assert place.house.pool.watcher(TASK) is not None
    assert place.shop.calls["create"] == 0


async def test_a_caller_who_leaves_loses_nothing(place: Place) -> None:
    place.shop.gate = asyncio.Event()
    async with place.house.running():
        asking = asyncio.ensure_future(place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN))
        await settle()
        assert place.shop.calls == {"create": 1}
        asking.cancel()
        await settle()
        assert asking.cancelled()
        ending = asyncio.ensure_future(place.submitter.close())
        await settle()
        assert not ending.done()
        place.shop.gate.set()
        await ending
        assert place.house.told(TASK) == [("queued", None)]
        watcher = place.house.pool.watcher(TASK)
        assert watcher is not None
        assert watcher.persistent


async def test_a_task_the_journal_cannot_take_in_exists_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.shop.shows(ID, "processing", 10)
    append = place.house.journal.append

    async def broken(*args: Any, **more: Any) -> Any:
        raise JournalError("disk full")

    monkeypatch.setattr(place.house.journal, "append", broken)
    async with place.house.running():
        key, event = await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
        assert (key, event.state.status, event.cursor.offset) == (TASK, Status.UNKNOWN, 0)
        monkeypatch.setattr(place.house.journal, "append", append)
        await place.house.clock.advance(3 * LINGER)
        assert place.house.told(TASK)[-1] == ("processing", 10)


async def test_an_end_without_its_result_is_not_believed(place: Place) -> None:
    place.shop.answers["create"] = (200, {"id": ID, "status": "completed", "word": "DONE"})
    async with place.house.running():
        _, event = await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
    assert event.state.status is Status.UNKNOWN


# Callbacks


async def test_a_callback_url_adds_the_callback_address_where_the_caller_gave_none() -> None:
    place = Place(callback_url="https://bridge.example/base")
    async with place.house.running():
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
        assert place.shop.received[0].body == PLAIN.body  # without a secret nobody could call
        place.house.upstream.callback_secret = "s/1"
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
        await place.submitter.submit(place.house.pool.upstream("qingbo"), replace(PLAIN, body=b"my callback"))
    address = b"https://bridge.example/base/v1/callbacks/qingbo/s%2F1"
    assert [one.body for one in place.shop.received[1:]] == [PLAIN.body + address, b"my callback"]


OWN = TaskDetails(webhook="https://own.example/cb")


class Planner:
    """Keeps what each recorded state was planned with."""

    def __init__(self) -> None:
        self.planned: list[tuple[Status, TaskDetails]] = []

    def plan(self, key: TaskKey, previous: State | None, state: State, details: TaskDetails) -> list[Job]:
        self.planned.append((state.status, details))
        return []

    def written(self, key: TaskKey, jobs: Any, dropped: int) -> None:
        pass


@pytest.mark.parametrize("forwarded", [True, False])
async def test_what_the_caller_said_of_the_task_is_known_before_its_first_state(
    place: Place, *, forwarded: bool
) -> None:
    planner = Planner()
    place.house.journal.planner = planner
    place.shop.answers["create"] = (200, {"id": ID, "status": "failed"})  # it ends in the answer itself
    send = place.submitter.forward_submit if forwarded else place.submitter.submit
    async with place.house.running():
        await send(place.house.pool.upstream("qingbo"), PLAIN, OWN)
    assert planner.planned == [(Status.FAILED, OWN)]


async def test_an_end_that_was_recorded_before_its_details_were_known_is_reported(place: Place) -> None:
    late: list[tuple[str, TaskDetails]] = []

    async def ended_before(event: Event, details: TaskDetails) -> None:
        late.append((event.state.status.value, details))

    place.submitter.ended_before = ended_before
    async with place.house.running():
        upstream = place.house.pool.upstream("qingbo")
        await place.house.pool.show(TASK, seen("failed", task_id=ID), Source.POLL)  # a callback was faster
        await place.submitter.submit(upstream, PLAIN)
        assert late == []
        await place.submitter.submit(upstream, PLAIN, OWN)
        assert late == [("failed", OWN)]
        assert place.house.journal.details(TASK) == TaskDetails()
        other = "task-2"
        place.shop.answers["create"] = (200, {"id": other})
        place.shop.shows(other, "processing")
        await place.submitter.submit(upstream, PLAIN, OWN)
        place.shop.answers["create"] = (200, {"id": "task-3", "status": "failed"})
        await place.submitter.submit(upstream, PLAIN, OWN)
        assert len(late) == 1, "these were recorded with them"


async def test_an_end_that_another_bridge_recorded_in_between_is_reported(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[str] = []

    async def ended_before(event: Event, details: TaskDetails) -> None:
        late.append(event.state.source.value)

    async def none_yet(keys: Any) -> Any:
        monkeypatch.undo()
        return [None]

    place.submitter.ended_before = ended_before
    place.shop.answers["create"] = (200, {"id": ID, "status": "failed"})
    async with place.house.running():
        await place.house.pool.show(TASK, seen("failed", task_id=ID), Source.POLL)
        monkeypatch.setattr(place.house.journal, "latest", none_yet)
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN, OWN)
    assert late == ["poll"]


@pytest.mark.parametrize("forwarded", [True, False])
async def test_of_submits_that_the_provider_answers_with_one_task_each_gets_its_end(
    place: Place, *, forwarded: bool
) -> None:
    planner = Planner()
    place.house.journal.planner = planner
    place.shop.shows(ID, "processing")
    second = TaskDetails(webhook="https://second.example/cb")
    send = place.submitter.forward_submit if forwarded else place.submitter.submit
    async with place.house.running():
        upstream = place.house.pool.upstream("qingbo")
        for details in (OWN, second, TaskDetails(), OWN):
            await send(upstream, PLAIN, details)
        await place.house.pool.show(TASK, seen("failed", task_id=ID), Source.POLL)
    status, details = planner.planned[-1]
    assert status is Status.FAILED
    assert details.webhooks == ("https://own.example/cb", "https://second.example/cb")


async def test_what_the_caller_said_outlives_a_journal_that_cannot_be_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = place.house.journal

    async def fail(keys: Any) -> Any:
        raise JournalError("away")

    async with place.house.running():
        monkeypatch.setattr(journal, "latest", fail)
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN, OWN)
        assert journal.details(TASK) == OWN
        monkeypatch.undo()


async def test_the_callers_own_callback_address_is_replaced_where_we_deliver_to_it() -> None:
    place = Place(callback_url="https://bridge.example")
    wanted = replace(PLAIN, body=b"my callback ")
    other = TaskDetails(webhook="https://other.example")
    async with place.house.running():
        upstream = place.house.pool.upstream("qingbo")
        await place.submitter.submit(upstream, wanted, OWN)
        assert (place.submitter.has_callback(upstream), place.shop.received.pop().body) == (
            False,
            wanted.body,
        )
        upstream.callback_secret = "s"
        assert place.submitter.has_callback(upstream)
        await place.submitter.submit(upstream, wanted, OWN)
        address = b"https://bridge.example/v1/callbacks/qingbo/s"
        assert place.shop.received.pop().body == wanted.body + address
        await place.submitter.submit(upstream, wanted, other)
        assert place.shop.received.pop().body == wanted.body, "its receiver gets nothing from us"


@pytest.mark.parametrize("called_back", [True, False])
async def test_polls_are_a_safety_net_until_a_callback_proves_missing(*, called_back: bool) -> None:
    place = Place(callback_url="https://bridge.example" if called_back else None)
    house, pace = place.house, place.house.upstream.pace
    house.upstream.callback_secret = "s"
    place.shop.shows(ID, "processing")
    async with house.running():
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
        house.pool.want(TASK)
        await house.clock.advance(2 * pace.max_seconds)
        looks = len(place.shop.polls(ID))
        assert looks <= 3 if called_back else looks > 4
        assert house.upstream.callbacks.come
        place.shop.shows(ID, "completed", 100)
        await house.clock.advance(pace.max_seconds + 1)
        assert house.told(TASK)[-1] == ("completed", 100)
        assert house.upstream.callbacks.come is not called_back
        house.pool.unwant(TASK)
        other = TaskKey("qingbo", "task-2")
        place.shop.answers["create"] = (200, {"id": other.task_id})
        place.shop.shows(other.task_id, "processing")
        await place.submitter.submit(place.house.pool.upstream("qingbo"), PLAIN)
        await house.clock.advance(2 * pace.max_seconds)
        assert len(place.shop.polls(other.task_id)) > 4


async def test_a_callback_that_names_the_last_part_of_an_id_finds_its_task(place: Place) -> None:
    whole, other = TaskKey("qingbo", "fal-ai/flux/r-1"), TaskKey("qingbo", "fal-ai/flux/xr-1")
    async with place.house.running():
        for key in (whole, other):
            place.shop.shows(key.task_id.rpartition("/")[2], "processing", 10)
            place.house.pool.want(key)
            await place.house.pool.wait_polled(key)
        assert place.house.pool.poll_now(TaskKey("qingbo", "r-1"))
        assert not place.house.pool.poll_now(TaskKey("qingbo", "1"))
        assert not place.house.pool.poll_now(TaskKey("qingbo", "r-1", "somebody"))
        await settle()
        assert (len(place.shop.polls("r-1")), len(place.shop.polls("xr-1"))) == (2, 1)


# Cancelling


async def _watched(place: Place, status: str = "processing") -> None:
    place.shop.shows(ID, status, 10)
    place.house.pool.want(TASK)
    await place.house.pool.wait_polled(TASK)


async def test_what_the_cancel_answers_is_recorded_and_ends_the_watch(place: Place) -> None:
    async with place.house.running():
        await _watched(place, "queued")
        place.shop.answers["cancel"] = (200, {"id": ID, "status": "cancelled"})
        event = await place.submitter.cancel(TASK)
        assert event.state.status is Status.CANCELLED
        assert place.house.told(TASK)[-1][0] == "cancelled"
        again = await place.submitter.cancel(TASK)
        assert again == event
    assert place.shop.calls == {"cancel": 1}
    assert place.outcomes("cancel") == {"ok": 1}


@pytest.mark.parametrize("answer", [(200, {}), (200, {"id": ID, "status": "processing"})])
async def test_where_the_answer_shows_no_end_a_look_tells_and_another_comes_soon(
    place: Place, answer: tuple[int, Any]
) -> None:
    async with place.house.running():
        await _watched(place)
        place.shop.answers["cancel"] = answer
        event = await place.submitter.cancel(TASK)
        assert event.state.status is Status.PROCESSING
        place.shop.shows(ID, "cancelled")
        await place.house.clock.advance(place.house.upstream.pace.min_seconds)
        assert place.house.told(TASK)[-1][0] == "cancelled"


async def test_a_task_nobody_watches_is_cancelled_too(place: Place) -> None:
    place.shop.shows(ID, "cancelled")
    place.shop.answers["cancel"] = (204, {})
    async with place.house.running():
        assert (await place.submitter.cancel(TASK)).state.status is Status.CANCELLED


@pytest.mark.parametrize(
    ("status", "code", "raised"),
    [
        ("processing", 400, Conflict),
        ("processing", 422, Conflict),
        ("queued", 400, UpstreamRefused),
        ("queued", 409, Conflict),
        ("completed", 400, Conflict),
    ],
)
@pytest.mark.parametrize("watched", [True, False])
async def test_a_refusal_is_a_conflict_when_the_task_is_past_being_cancelled(
    place: Place, status: str, code: int, raised: type[Exception], *, watched: bool
) -> None:
    async with place.house.running():
        if watched:
            await _watched(place, "queued")
        place.shop.shows(ID, status, 20)
        place.shop.answers["cancel"] = (code, {"code": "too_late"})
        with pytest.raises(raised) as caught:
            await place.submitter.cancel(TASK)
        assert str(caught.value) == "the provider says no"
        assert (caught.value.provider_status, caught.value.provider_code) == (code, "too_late")
        assert place.house.told(TASK)[-1][0] == status
    assert place.outcomes("cancel") == {"refused": 1}


async def test_who_cannot_cancel_says_so(place: Place) -> None:
    place.shop.can_cancel = False
    with pytest.raises(Conflict, match="cannot cancel"):
        await place.submitter.cancel(TASK)


async def test_a_cancel_of_what_is_not_there_is_not_found(place: Place) -> None:
    place.shop.answers["cancel"] = (404, {})
    with pytest.raises(TaskNotFound):
        await place.submitter.cancel(TASK)
    assert place.outcomes("cancel") == {"not_found": 1}


async def test_after_a_cancel_without_an_answer_the_watch_looks_at_once(place: Place) -> None:
    async with place.house.running():
        await _watched(place)
        place.shop.fails["cancel"] = [UpstreamTimeout("late")]
        place.shop.shows(ID, "cancelled")
        with pytest.raises(UpstreamTimeout):
            await place.submitter.cancel(TASK)
        await settle()
        assert place.house.told(TASK)[-1][0] == "cancelled"
