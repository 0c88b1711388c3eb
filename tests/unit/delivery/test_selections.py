"""Followers of tags and groups: what they begin with, what comes, what they may see, and how a group ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from bridge.auth.caller import CallerRights
from bridge.auth.grants import Grant
from bridge.core.cursor import EventId
from bridge.core.details import TaskDetails
from bridge.core.event import Closing, Event
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.delivery import members, selected
from bridge.delivery.loading import RETRY_SECONDS
from bridge.delivery.selected import mark_of_selection
from bridge.delivery.selections import FORBIDDEN_SENTENCE
from bridge.delivery.subscriptions import SubscribeRequest
from bridge.errors import Forbidden, JournalError, TaskNotFound, Unauthenticated, UpstreamTimeout
from bridge.journal.base import Listed
from bridge.wire.formats import NdjsonFormat, WebSocketFormat
from tests.fakes.clock import settle
from tests.fakes.selections import ALL, Client, Follows, by_tags, group, key_of, tag

pytestmark = pytest.mark.anyio


@pytest.fixture
async def scene() -> Follows:
    return Follows()


# What a follower begins with, and what comes


async def test_it_begins_with_the_states_of_its_tasks_and_follows_them(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    await scene.put("b", tags="u1 u2")
    await scene.put("c", tags="u2")
    await scene.put("a", progress=50.0)
    client = await scene.follow(tag("u1"))
    assert client.told == [("b", "processing"), ("a", "processing")]
    await scene.put("b", "completed")
    await scene.put("c", "completed")
    assert client.told[2:] == [("b", "completed")]
    assert client.named == ["done"]


async def test_a_new_task_comes_with_its_first_state_once(scene: Follows) -> None:
    client = await scene.follow(tag("u1"))
    assert client.writer.sent.startswith(b": ok\n")
    await scene.put("a", "queued", tags="u1")
    await scene.put("a", "processing")
    await scene.put("b", "completed", tags="u1")
    assert client.told == [("a", "queued"), ("a", "processing"), ("b", "completed")]
    assert scene.interests.wanted[key_of("a")] == 1
    assert scene.interests.wanted[key_of("b")] == 0


async def test_an_empty_selection_opens_at_once_and_waits(scene: Follows) -> None:
    client = await scene.follow(group("none"))
    assert client.writer.sent.startswith(b": ok\n")
    assert client.blocks == []
    assert client.writer.finished is None


async def test_at_most_the_newest_thousand_come_first_and_older_ones_when_they_change(
    scene: Follows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selected, "OPENED", 3)
    for number in range(5):
        await scene.put(f"t{number}", tags="u1")
    await scene.put("t1", progress=10.0)  # newest by change, not by when it was first seen
    client = await scene.follow(tag("u1"))
    assert [name for name, _ in client.told] == ["t2", "t3", "t4"]
    await scene.put("t0", "completed")
    assert client.told[3:] == [("t0", "completed")]


async def test_a_thousand_followers_cost_one_load_and_one_read(scene: Follows) -> None:
    for number in range(5):
        await scene.put(f"t{number}", tags="u1")
    listed, read = scene.listed, len(scene.latest_of)
    clients = await asyncio.gather(*(scene.open(tag("u1")) for _ in range(1000)))
    await asyncio.gather(*(scene.begin(client) for client in clients))
    await settle()
    assert scene.listed - listed == 2  # one of each upstream
    assert len(scene.latest_of) - read == 10  # once for their statuses, once for their states
    assert all(len(client.told) == 5 for client in clients)
    assert scene.interests.total == 5
    await scene.put("t0", "completed")
    assert all(client.told[5:] == [("t0", "completed")] for client in clients)


async def test_members_are_forgotten_with_their_last_follower(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    one, two = await scene.follow(tag("u1")), await scene.follow(tag("u1"))
    scene.leave(one)
    assert scene.interests.total == 1
    scene.leave(two)
    await settle()
    assert scene.interests.total == 0
    assert scene.selections._members._lives == {}
    assert scene.selections._members._of_key == {}
    assert scene.selections._following == {}


async def test_what_is_recorded_while_members_are_read_is_sent_once(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    latest = scene.journal.latest

    async def slow(keys: list) -> list:  # type: ignore[type-arg]
        read = await latest(keys)
        scene.journal.latest = latest  # type: ignore[method-assign]
        await scene.put_soon("a", "completed")
        await scene.put_soon("b", "queued", tags="u1")
        await settle()
        return read

    scene.journal.latest = slow  # type: ignore[method-assign,assignment]
    client = await scene.follow(tag("u1"))
    assert client.told == [("a", "completed"), ("b", "queued")]


async def test_what_is_recorded_between_open_and_begin_is_sent_once(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    client = await scene.open(tag("u1"))
    await scene.put("a", progress=20.0)
    await scene.put("b", tags="u1")
    await scene.put_soon("b", progress=1.0)
    await scene.begin(client)
    await settle()
    assert client.told == [("a", "processing"), ("b", "processing")]
    progress = [data["progress"] for _, data in client.blocks]
    assert progress == [20.0, 1.0]


async def test_details_that_come_while_members_are_read_count(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    await scene.put("b", tags="u1")
    await scene.put("c")
    latest = scene.journal.latest

    async def slow(keys: list) -> list:  # type: ignore[type-arg]
        scene.journal.latest = latest  # type: ignore[method-assign]
        read = await latest(keys)
        await scene.register("a", tags="u2")
        await scene.register("c", tags="u1")
        await scene.journal.forget(key_of("b"))
        return read

    scene.journal.latest = slow  # type: ignore[method-assign,assignment]
    client = await scene.follow(tag("u1"))
    assert client.told == [("c", "processing")]


async def test_a_task_tagged_later_is_shown_to_all(scene: Follows) -> None:
    await scene.put("old", "completed")
    await scene.put("open")
    client = await scene.follow(tag("u1"))
    await scene.put("new", tags="u1")
    await scene.register("old", tags="u1")
    await scene.register("open", tags="u1")
    assert client.told == [("new", "processing"), ("old", "completed"), ("open", "processing")]
    await scene.put("open", "failed")
    assert client.told[3:] == [("open", "failed")]
    assert scene.interests.wanted[key_of("old")] == 0
    assert scene.interests.wanted[key_of("open")] == 0


async def test_a_state_recorded_while_a_late_task_is_read_is_sent_once(scene: Follows) -> None:
    await scene.put("open")
    client = await scene.follow(tag("u1"))
    await scene.journal.register(key_of("open"), TaskDetails(tags=("u1",)))
    await scene.put("open", progress=70.0)
    assert [data["progress"] for name, data in client.blocks if name is None] == [70.0]


async def test_a_task_that_leaves_says_nothing_more(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    client = await scene.follow(tag("u1"))
    await scene.register("a", tags="u2")
    await scene.put("a", "completed")
    assert client.told == [("a", "processing")]
    assert client.named == []
    assert scene.interests.total == 0


async def test_a_deleted_task_is_no_member_and_may_come_again(scene: Follows) -> None:
    await scene.put("a", "completed", tags="u1")
    client = await scene.follow(tag("u1"))
    await scene.journal.forget(key_of("a"))
    await settle()
    assert (await scene.follow(tag("u1"))).told == []
    await scene.put("a", "queued", tags="u1")
    assert client.told == [("a", "completed"), ("a", "queued")]


async def test_a_task_that_began_again_unheard_is_shown_and_followed_to_its_end(scene: Follows) -> None:
    """As on a replica that was cut off meanwhile: only that something was missed is known."""
    await scene.put("a", "completed", tags="u1")
    await scene.put("b", "completed", tags="u1")
    client = await scene.follow(tag("u1"))
    with scene.deaf():
        await scene.journal.forget(key_of("a"))
        await scene.put("a", "queued", tags="u1")
    scene.selections.reset()
    await settle()
    await scene.put("a", "completed", tags="u1")
    assert client.told[2:] == [("a", "queued"), ("a", "completed")]


async def test_a_task_that_began_again_while_members_are_read_is_followed(scene: Follows) -> None:
    await scene.put("a", "completed", tags="u1")
    client = await scene.follow(tag("u1"))
    listing = scene.journal.listing

    async def slow(*args: Any, **more: Any) -> list[Listed]:
        found = await listing(*args, **more)
        if args[0] == "qingbo":
            scene.journal.listing = listing  # type: ignore[method-assign]
            await scene.journal.forget(key_of("a"))
            await scene.put_soon("a", "queued", tags="u1")
        return found

    scene.journal.listing = slow  # type: ignore[method-assign]
    scene.selections.reset()
    await settle()
    await scene.put("a", "completed", tags="u1")
    assert client.told[1:] == [("a", "queued"), ("a", "completed")]


async def test_more_members_than_allowed_are_the_newest(
    scene: Follows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MAX_MEMBERS", 4)
    monkeypatch.setattr(members, "_SPARE", 2)
    for number in range(6):
        await scene.put(f"t{number}", "completed", tags="u1")
    client = await scene.follow(tag("u1"))
    assert [name for name, _ in client.told] == ["t2", "t3", "t4", "t5"]
    for number in range(6, 12):
        await scene.put(f"t{number}", "completed", tags="u1")
    assert len(client.pending.live.members) <= 6
    assert len(client.told) == 10


# Rights


async def test_rights_decide_task_by_task(scene: Follows) -> None:
    await scene.put("mine", group="g", tags="u1")
    await scene.put("theirs", group="g", tags="u2")
    one, two, all_of_it = (
        await scene.follow(group("g"), by_tags("u1")),
        await scene.follow(group("g"), by_tags("u2")),
        await scene.follow(group("g")),
    )
    await scene.put("mine", "completed")
    await scene.put("theirs", "completed")
    await scene.put("new", "queued", group="g", tags="u1")
    assert one.told == [("mine", "processing"), ("mine", "completed"), ("new", "queued")]
    assert two.told == [("theirs", "processing"), ("theirs", "completed")]
    assert len(all_of_it.told) == 5
    marks = {EventId.parse(client.last_id or "").mark for client in (one, two, all_of_it)}  # type: ignore[union-attr]
    assert len(marks) == 3


async def test_a_right_that_ends_is_checked_with_the_next_details(scene: Follows) -> None:
    await scene.put("a", group="g", tags="u1")
    client = await scene.follow(group("g"), by_tags("u1"))
    await scene.register("a", group="g", tags="u2")
    await scene.put("a", "completed")
    assert client.told == [("a", "processing")]
    await scene.register("a", group="g", tags="u1 u2")
    assert client.told == [("a", "processing"), ("a", "completed")]


async def test_names_of_another_account_are_others(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    client = await scene.follow(tag("u1", "k123"))
    await scene.put("b", tags="u1")
    assert client.told == []


async def test_what_the_provider_does_not_show_is_not_there(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    await scene.put("b", tags="u1")
    scene.owners.hidden[key_of("a")] = TaskNotFound("no")
    client = await scene.follow(tag("u1"))
    assert client.told == [("b", "processing")]
    await scene.put("a", progress=10.0)
    assert client.told == [("b", "processing")]
    del scene.owners.hidden[key_of("a")]
    await scene.put("a", progress=20.0)
    assert client.told == [("b", "processing"), ("a", "processing")]
    await scene.put("a", progress=30.0)
    assert len(client.told) == 3


async def test_a_new_task_is_asked_about_before_it_is_shown(scene: Follows) -> None:
    client = await scene.follow(tag("u1"))
    scene.owners.unsure |= {key_of("a"), key_of("b")}
    scene.owners.hidden[key_of("b")] = TaskNotFound("no")
    await scene.put("a", tags="u1")
    await scene.put("b", tags="u1")
    assert client.told == [("a", "processing")]
    assert set(scene.owners.asked) == {key_of("a"), key_of("b")}


async def test_while_something_may_be_shown_soon_the_client_comes_back_for_it(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    await scene.put("b", tags="u1")
    scene.owners.hidden[key_of("a")] = UpstreamTimeout("not yet")
    client = await scene.follow(tag("u1"))
    assert client.subscription.ends_at <= scene.clock.monotonic() + 30
    scene.owners.hidden.clear()
    again = await scene.follow(tag("u1"), token=client.last_id)
    assert sorted(again.told) == [("a", "processing"), ("b", "processing")]


async def test_no_id_runs_over_what_may_be_shown_later(scene: Follows) -> None:
    client = await scene.follow(tag("u1"))
    await scene.put("seen", tags="u1")
    before = client.last_id
    assert before is not None
    scene.owners.hidden[key_of("a")] = UpstreamTimeout("not yet")
    await scene.put("a", "completed", tags="u1")
    await scene.put("seen", progress=50.0)
    assert client.last_id == before
    scene.leave(client)
    # Meanwhile, somebody else's request shows it.
    scene.owners.hidden.clear()
    await scene.follow(tag("u1"))
    again = await scene.follow(tag("u1"), token=before)
    assert sorted(again.told) == [("a", "completed"), ("seen", "processing")]
    await scene.put("seen", progress=70.0)
    assert again.last_id != before


async def test_a_task_that_is_never_shown_is_in_nobodys_way_once_it_left(scene: Follows) -> None:
    scene.owners.hidden[key_of("a")] = TaskNotFound("no")
    await scene.put("a", tags="u1")
    await scene.put("b", tags="u1")
    client = await scene.follow(tag("u1"))
    assert client.last_id is None
    await scene.journal.forget(key_of("a"))
    event = await scene.put("b", progress=10.0)
    assert client.last_id == f"{event.cursor}.{mark_of_selection(tag('u1'), ALL)}"
    assert not scene.interests.wanted[key_of("a")]


# Resuming


async def test_nothing_newer_is_quiet(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    client = await scene.follow(tag("u1"))
    again = await scene.follow(tag("u1"), token=client.last_id)
    assert again.told == []
    assert scene.count("bridge_resumes_total", delivery="sse", result="current") == 1
    await scene.put("a", "completed")
    assert again.told == [("a", "completed")]


async def test_a_resume_gets_what_is_newer_also_what_was_tagged_since(scene: Follows) -> None:
    await scene.put("old", "completed")
    await scene.put("a", tags="u1")
    await scene.put("b", tags="u1")
    client = await scene.follow(tag("u1"))
    scene.leave(client)
    await scene.register("old", tags="u1")
    await scene.put("a", "completed")
    again = await scene.follow(tag("u1"), token=client.last_id)
    assert sorted(again.told) == [("a", "completed"), ("old", "completed")]
    assert scene.count("bridge_resumes_total", delivery="sse", result="newer") == 1


async def test_a_tag_never_ends(scene: Follows) -> None:
    await scene.put("a", "completed", tags="u1")
    client = await scene.follow(tag("u1"))
    assert client.writer.finished is None
    again = await scene.open(tag("u1"), token=client.last_id)
    assert not again.pending.ended


@pytest.mark.parametrize("token", ["xyz-3", "no cursor at all", "xyz-3.abcdefgh"])
async def test_an_unknown_cursor_is_a_reset(scene: Follows, token: str) -> None:
    await scene.put("a", tags="u1")
    client = await scene.follow(tag("u1"), token=token)
    assert client.blocks[0][0] == "reset"
    assert client.told == [("a", "processing")]


async def test_a_cursor_of_another_list_gets_current_states(scene: Follows) -> None:
    await scene.put("a", tags="u1 u2")
    other = await scene.follow(tag("u2"))
    for token in (other.last_id, f"{scene.journal.epoch}-{scene.journal.head}"):
        client = await scene.follow(tag("u1"), token=token)
        assert client.told == [("a", "processing")]
        assert client.named == []


async def test_no_room_closes_the_connection(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    client = await scene.follow(tag("u1"), room=False)
    assert client.told == []
    assert client.writer.finished is Closing.OVER_CAPACITY


async def test_a_journal_that_cannot_be_read_is_asked_again_by_the_next(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    listing = scene.journal.listing

    async def broken(*args: object, **more: object) -> list[object]:
        raise JournalError("disk")

    scene.journal.listing = broken  # type: ignore[method-assign,assignment]
    opened = await asyncio.gather(*(scene.open(tag("u1")) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(one, JournalError) for one in opened)
    for subscription in list(scene.hub.subscriptions):
        scene.subscriptions.leave(subscription)
    scene.journal.listing = listing  # type: ignore[method-assign]
    assert (await scene.follow(tag("u1"))).told == [("a", "processing")]


def test_the_mark_is_of_the_name_and_the_rights() -> None:
    marks = {
        mark_of_selection(tag("a"), ALL),
        mark_of_selection(group("a"), ALL),
        mark_of_selection(tag("a", "k1"), ALL),
        mark_of_selection(tag("a"), by_tags("x")),
        mark_of_selection(tag("a"), by_tags("x", "y")),
        mark_of_selection(tag("a"), by_tags("x"), end=True),
    }
    assert len(marks) == 6
    assert mark_of_selection(tag("a"), by_tags("x", "y")) == mark_of_selection(tag("a"), by_tags("y", "x"))


# Groups


def _done(client: Client) -> list[object]:
    return [data["counts"] for data in client.data_of("group_done")]


async def test_a_closed_group_is_done_when_the_last_one_ends(scene: Follows) -> None:
    await scene.put("a", group="g")
    await scene.put("b", "completed", group="g")
    client = await scene.follow(group("g"))
    await scene.put("a", "failed")
    assert _done(client) == []
    await scene.put("c", group="g")
    await scene.close("g")
    assert _done(client) == []
    await scene.put("c", "completed")
    assert client.named == ["done", "done", "done", "group_done", "end"]
    assert client.data_of("group_done") == [{"group": "g", "counts": {"completed": 2, "failed": 1}}]
    assert client.data_of("end") == [{"tasks": 3}]
    assert client.writer.finished is Closing.FINISHED


async def test_close_after_the_last_end(scene: Follows) -> None:
    await scene.put("a", "completed", group="g")
    client = await scene.follow(group("g"))
    await scene.close("g")
    assert client.named == ["done", "group_done", "end"]


async def test_close_before_the_first_task_of_an_empty_group(scene: Follows) -> None:
    client = await scene.follow(group("g"))
    await scene.close("g")
    assert client.data_of("group_done") == [{"group": "g", "counts": {}}]
    late = await scene.follow(group("g"))
    assert late.named == ["group_done", "end"]


async def test_who_comes_after_the_end_gets_states_and_the_end(scene: Follows) -> None:
    await scene.put("a", "completed", group="g")
    await scene.close("g")
    client = await scene.follow(group("g"))
    assert client.told == [("a", "completed")]
    assert client.named == ["done", "group_done", "end"]
    assert client.writer.finished is Closing.FINISHED
    assert scene.interests.total == 0


async def test_a_resume_after_the_end_is_over(scene: Follows) -> None:
    await scene.put("a", "completed", group="g")
    await scene.close("g")
    client = await scene.follow(group("g"))
    again = await scene.open(group("g"), token=client.last_id)
    assert again.pending.ended
    assert scene.count("bridge_resumes_total", delivery="sse", result="ended") == 1


async def test_who_was_cut_off_before_group_done_gets_it(scene: Follows) -> None:
    await scene.put("a", "completed", group="g")
    client = await scene.follow(group("g"))
    scene.leave(client)
    await scene.close("g")
    again = await scene.follow(group("g"), token=client.last_id)
    assert again.told == []
    assert again.named == ["group_done", "end"]
    assert (await scene.open(group("g"), token=again.last_id)).pending.ended


async def test_the_end_of_a_group_is_of_what_the_rights_show(scene: Follows) -> None:
    await scene.put("mine", "completed", group="g", tags="u1")
    await scene.put("theirs", group="g", tags="u2")
    await scene.close("g")
    mine = await scene.follow(group("g"), by_tags("u1"))
    theirs = await scene.follow(group("g"), by_tags("u2"))
    assert _done(mine) == [{"completed": 1}]
    assert _done(theirs) == []
    await scene.put("theirs", "failed")
    assert _done(theirs) == [{"failed": 1}]


async def test_who_may_read_nothing_of_a_closed_group_cannot_tell_it_from_one_that_is_not_there(
    scene: Follows,
) -> None:
    await scene.put("a", "completed", group="g", tags="theirs")
    await scene.groups.close(group("g"))
    hidden, missing = [await scene.follow(group(name), by_tags("mine")) for name in ("g", "none")]
    whole = await scene.follow(group("g"), CallerRights(OWN_ACCOUNT, Grant(groups=frozenset({"g"}))))
    await settle()
    assert hidden.blocks == missing.blocks == []
    assert (hidden.writer.finished, missing.writer.finished) == (None, None)
    assert whole.named == ["done", "group_done", "end"]
    # What was seen to end has ended, also once its tasks are gone.
    mine = by_tags("theirs")
    seen = await scene.follow(group("g"), mine)
    assert seen.named == ["done", "group_done", "end"]
    await scene.journal.forget(key_of("a"))
    assert (await scene.open(group("g"), mine, token=seen.last_id)).pending.ended


async def test_the_last_open_task_may_leave(scene: Follows) -> None:
    await scene.put("a", "completed", group="g")
    await scene.put("b", group="g")
    client = await scene.follow(group("g"))
    await scene.close("g")
    await scene.register("b")
    assert _done(client) == [{"completed": 1}]


async def test_lost_is_an_end_and_its_replacement_is_no_second_one(scene: Follows) -> None:
    await scene.put("a", group="g")
    client = await scene.follow(group("g"))
    await scene.close("g")
    await scene.put("a", "lost")
    assert _done(client) == [{"lost": 1}]
    await scene.put("a", "completed")
    assert client.named.count("group_done") == 1
    again = await scene.follow(group("g"), token=client.last_id)
    assert again.told == [("a", "completed")]
    assert _done(again) == [{"completed": 1}]


async def test_a_lost_task_is_followed_while_the_group_is_open(scene: Follows) -> None:
    await scene.put("a", "lost", group="g")
    client = await scene.follow(group("g"))
    assert scene.interests.wanted[key_of("a")] == 1
    await scene.put("a", "completed")
    assert client.told == [("a", "lost"), ("a", "completed")]
    assert scene.interests.total == 0


async def test_a_slow_follower_gets_the_states_before_the_end(scene: Follows) -> None:
    await scene.put("a", group="g")
    await scene.put("b", group="g")
    client = await scene.follow(group("g"))
    client.writer.pause()
    await scene.put("a", "completed")
    await scene.close("g")
    await scene.put("b", "completed")
    assert client.named == []
    client.writer.wake()
    await settle()
    assert client.named == ["done", "done", "group_done", "end"]


async def test_group_done_over_ndjson(scene: Follows) -> None:
    await scene.put("a", group="g")
    client = await scene.follow(group("g"), kind=NdjsonFormat)
    await scene.close("g")
    await scene.put("a", "completed")
    assert b'"group_done"' in client.writer.sent
    assert client.writer.finished is Closing.FINISHED


async def test_closing_asks_for_the_task_that_began_the_group(scene: Follows) -> None:
    await scene.put("first", group="g", tags="u1")
    await scene.put("second", group="g", tags="u2")
    check = scene.selections.check_may_close
    await check(group("g"), by_tags("u1"), unrestricted=False)
    for rights, name in ((by_tags("u2"), "g"), (by_tags("u3"), "g"), (by_tags("u1"), "empty")):
        with pytest.raises(Forbidden, match=FORBIDDEN_SENTENCE):
            await check(group(name), rights, unrestricted=False)
    await check(group("empty"), ALL, unrestricted=True)


async def test_the_summary_of_a_group(scene: Follows) -> None:
    await scene.put("a", "completed", group="g", tags="u1")
    await scene.put("b", "lost", group="g", tags="u1")
    await scene.put("c", group="g", tags="u1")
    await scene.put("d", group="g")
    summary = await scene.selections.summary(group("g"), by_tags("u1"))
    assert dict(summary.counts) == {"completed": 1, "lost": 1}
    assert summary.unfinished == 1
    assert scene.interests.total == 0


# Where things meet


def _meanwhile(scene: Follows, happens: Callable[[], Awaitable[object]]) -> None:
    """It happens after the next read of states, before its answer arrives."""
    latest = scene.journal.latest

    async def slow(keys: Sequence[TaskKey]) -> list[Event | None]:
        scene.journal.latest = latest  # type: ignore[method-assign]
        read = await latest(keys)
        await happens()
        return read

    scene.journal.latest = slow  # type: ignore[method-assign]


async def test_the_last_end_of_a_closed_group_while_its_members_are_read(scene: Follows) -> None:
    await scene.put("a", group="g")
    await scene.close("g")
    _meanwhile(scene, lambda: scene.put("a", "completed"))
    client = await scene.follow(group("g"))
    assert client.named == ["done", "group_done", "end"]
    assert scene.interests.total == 0


async def test_a_group_closed_while_its_members_are_read(scene: Follows) -> None:
    await scene.put("a", "completed", group="g")
    _meanwhile(scene, lambda: scene.close("g"))
    client = await scene.follow(group("g"))
    assert client.named == ["done", "group_done", "end"]


async def test_a_state_recorded_while_first_states_are_read_is_what_a_follower_begins_with(
    scene: Follows,
) -> None:
    await scene.put("a", tags="u1")
    client = await scene.open(tag("u1"))
    _meanwhile(scene, lambda: scene.put("a", "completed"))
    await scene.begin(client)
    await settle()
    assert client.told == [("a", "completed")]


async def test_who_leaves_while_first_states_are_read_is_sent_nothing(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    client = await scene.open(tag("u1"))

    async def leave() -> None:
        scene.selections.unfollow(client.subscription, tag("u1"))

    _meanwhile(scene, leave)
    await scene.begin(client)
    await scene.put("a", "completed")
    assert client.writer.writes == []
    assert scene.interests.total == 0


async def test_what_is_announced_late_does_not_undo_what_is_known(scene: Follows) -> None:
    old = await scene.put("a", group="g")
    await scene.put("a", "completed")
    client = await scene.follow(group("g"))
    scene.selections.recorded(old)
    await scene.close("g")
    assert _done(client) == [{"completed": 1}]


@pytest.mark.parametrize("news", ["reset", "new_epoch"])
async def test_what_was_added_while_nothing_was_heard_is_shown(scene: Follows, news: str) -> None:
    await scene.put("a", tags="u1")
    client = await scene.follow(tag("u1"))
    deaf, scene.selections.described = scene.selections.described, lambda *_: None  # type: ignore[method-assign]
    await scene.put("b", "completed", tags="u1")
    await scene.put("c", tags="u1")
    await scene.journal.forget(key_of("b"))
    await scene.put("d", "completed", tags="u1")
    scene.selections.described = deaf  # type: ignore[method-assign]
    getattr(scene.selections, news)()
    await settle()
    assert client.told == [("a", "processing"), ("c", "processing"), ("d", "completed")]
    await scene.put("c", "completed")
    assert client.told[3:] == [("c", "completed")]


async def test_what_left_while_nothing_was_heard_is_no_member(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    await scene.put("b", tags="u1")
    client = await scene.follow(tag("u1"))
    deaf, scene.selections.described = scene.selections.described, lambda *_: None  # type: ignore[method-assign]
    await scene.register("a")
    scene.selections.described = deaf  # type: ignore[method-assign]
    scene.selections.reset()
    await settle()
    await scene.put("a", "completed")
    assert client.told == [("a", "processing"), ("b", "processing")]
    assert scene.interests.wanted[key_of("a")] == 0


async def test_a_group_closed_while_the_ledger_was_away(scene: Follows) -> None:
    await scene.put("a", "completed", group="g")
    client = await scene.follow(group("g"))
    follower = await scene.follow(tag("u1"))
    listed = scene.listed
    ledger = scene.journal.ledger
    await ledger.put("group/-/g", b"closed", expect=None, seconds=60.0)
    assert _done(client) == []
    scene.selections._returned()
    await settle()
    assert _done(client) == [{"completed": 1}]
    assert scene.listed - listed == 2, "tags have no end"
    assert follower.writer.finished is None


async def test_members_that_cannot_be_read_again_are_read_later(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    client = await scene.follow(tag("u1"))
    listing = scene.journal.listing

    async def broken(*args: object, **more: object) -> list[object]:
        raise JournalError("disk")

    scene.journal.listing = broken  # type: ignore[method-assign,assignment]
    scene.selections.reset()
    await settle()
    await scene.put("b", tags="u1")
    assert client.told == [("a", "processing")]
    scene.journal.listing = listing  # type: ignore[method-assign]
    await scene.clock.advance(RETRY_SECONDS)
    assert client.told == [("a", "processing"), ("b", "processing")]


async def test_a_late_task_that_cannot_be_read_is_shown_later(scene: Follows) -> None:
    await scene.put("a", "completed")
    client = await scene.follow(tag("u1"))
    latest = scene.journal.latest

    async def broken(keys: object) -> list[object]:
        raise JournalError("disk")

    scene.journal.latest = broken  # type: ignore[method-assign,assignment]
    await scene.register("a", tags="u1")
    assert client.told == []
    scene.journal.latest = latest  # type: ignore[method-assign]
    await scene.clock.advance(RETRY_SECONDS)
    assert client.told == [("a", "completed")]


async def test_a_late_task_that_has_ended_is_the_end_of_its_group(scene: Follows) -> None:
    await scene.put("a", "completed")
    await scene.put("b", group="g")
    client = await scene.follow(group("g"))
    await scene.journal.register(key_of("a"), TaskDetails(group="g"))
    await scene.groups.close(group("g"))
    await scene.put_soon("b", "failed")
    await settle()
    assert [name for name, _ in client.told] == ["b", "b", "a"]
    assert _done(client) == [{"completed": 1, "failed": 1}]


async def test_a_late_task_that_was_deleted_before_it_was_shown(scene: Follows) -> None:
    await scene.put("a", "completed")
    await scene.put("b", "completed", group="g")
    client = await scene.follow(group("g"))
    _meanwhile(scene, lambda: scene.journal.forget(key_of("a")))
    await scene.register("a", group="g")
    await scene.close("g")
    assert _done(client) == [{"completed": 1}]


async def test_a_member_whose_watch_cannot_start_is_followed_once_it_changes(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    want = scene.interests.want

    def refuse(*args: object, **more: object) -> None:
        raise Unauthenticated("no key is held")

    scene.interests.want = refuse  # type: ignore[method-assign,assignment]
    client = await scene.follow(tag("u1"))
    scene.interests.want = want  # type: ignore[method-assign]
    assert client.told == [("a", "processing")]
    await scene.put("a", progress=50.0)
    await scene.put("a", "completed")
    assert [data["progress"] for name, data in client.blocks if name is None][1:] == [50.0, None]
    assert scene.interests.total == 0


async def test_the_end_of_a_member_whose_watch_cannot_start_is_sent(scene: Follows) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise Unauthenticated("no key is held")

    scene.interests.want = refuse  # type: ignore[method-assign,assignment]
    await scene.put("a", group="g")
    client = await scene.follow(group("g"))
    await scene.close("g")
    await scene.put("a", "completed")
    assert client.told == [("a", "processing"), ("a", "completed")]
    assert client.named == ["done", "group_done", "end"]


async def test_a_late_task_that_ends_before_it_was_shown_is_shown_before_the_end(scene: Follows) -> None:
    await scene.put("a")
    await scene.put("b", "completed", group="g")
    client = await scene.follow(group("g"))

    async def ends() -> None:
        await scene.put_soon("a", "completed")
        await scene.groups.close(group("g"))

    _meanwhile(scene, ends)
    await scene.register("a", group="g")
    assert client.told == [("b", "completed"), ("a", "completed")]
    assert _done(client) == [{"completed": 2}]


async def test_a_group_does_not_end_while_its_members_are_read_again(scene: Follows) -> None:
    await scene.put("a", "completed", group="g")
    client = await scene.follow(group("g"))
    deaf, scene.selections.described = scene.selections.described, lambda *_: None  # type: ignore[method-assign]
    await scene.put("b", group="g")
    scene.selections.described = deaf  # type: ignore[method-assign]
    scene.selections.reset()
    await scene.groups.close(group("g"))
    await settle()
    assert _done(client) == []
    await scene.put("b", "failed")
    assert _done(client) == [{"completed": 1, "failed": 1}]


async def test_an_end_of_another_history_was_not_seen(scene: Follows) -> None:
    await scene.put("a", "completed", group="g")
    await scene.close("g")
    client = await scene.follow(group("g"))
    _, _, rest = (client.last_id or "").partition("-")
    again = await scene.follow(group("g"), token=f"xyz-{rest}")
    assert again.named == ["reset", "done", "group_done", "end"]


async def test_who_resumes_after_an_end_that_was_none_gets_what_is_newer_only(scene: Follows) -> None:
    await scene.put("a", "lost", group="g")
    await scene.put("b", "completed", group="g")
    await scene.close("g")
    client = await scene.follow(group("g"))
    await scene.put("a", "completed")
    again = await scene.follow(group("g"), token=client.last_id)
    assert again.told == [("a", "completed")]


async def test_a_late_task_is_counted_once(scene: Follows) -> None:
    await scene.put("a")
    one = await scene.follow(tag("u1"))
    await scene.journal.register(key_of("a"), TaskDetails(tags=("u1",)))
    two = await scene.follow(tag("u1"))
    assert scene.interests.wanted[key_of("a")] == 1
    await scene.put("a", "completed")
    for client in (one, two):
        assert client.told == [("a", "processing"), ("a", "completed")]


async def test_a_repeated_subscribe_is_one(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    client = await scene.follow(tag("u1"), kind=WebSocketFormat)
    request = client.pending.request
    await scene.selections.begin(await scene.selections.open(client.subscription, request))
    await scene.put("a", "completed")
    assert client.writer.sent.count(b'"type":"done"') == 1
    assert scene.selections.followed_by(client.subscription) == 1
    scene.leave(client)
    assert scene.selections._members._lives == {}


async def test_members_are_kept_for_who_comes_back_soon() -> None:
    scene = Follows(linger_seconds=0.01)
    await scene.put("a", tags="u1")
    scene.leave(await scene.follow(tag("u1")))
    listed = scene.listed
    client = await scene.follow(tag("u1"))
    assert scene.listed == listed
    live = client.pending.live
    scene.selections._members.drop(live)
    await scene.put("a", "completed")
    assert client.told == [("a", "processing"), ("a", "completed")]
    await scene.selections.close()


async def test_beyond_the_first_thousand_nothing_is_shown_unasked(
    scene: Follows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selected, "OPENED", 2)
    for number in range(3):
        await scene.put(f"t{number}", tags="u1")
        scene.owners.unsure.add(key_of(f"t{number}"))
    client = await scene.open(tag("u1"))
    assert len(scene.owners.asked) >= 2
    assert client.pending.partial or set(scene.owners.asked) == {key_of(f"t{number}") for number in range(3)}
    await scene.begin(client)
    await settle()
    assert {key_of(name) for name, _ in client.told} <= set(scene.owners.asked)


async def test_room_is_made_of_what_has_ended(scene: Follows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MAX_MEMBERS", 3)
    monkeypatch.setattr(members, "_SPARE", 2)
    client = await scene.follow(tag("u1"))
    await scene.put("open", tags="u1")
    for number in range(6):
        await scene.put(f"t{number}", "completed", tags="u1")
    await scene.put("open", "completed")
    assert client.told[-1] == ("open", "completed")


async def test_what_was_tagged_later_is_among_the_newest(
    scene: Follows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selected, "OPENED", 2)
    await scene.put("old", "completed")
    for name in ("b", "c", "d"):
        await scene.put(name, tags="u1")
    first = await scene.follow(tag("u1"))
    await scene.register("old", tags="u1")
    assert [name for name, _ in (await scene.follow(tag("u1"))).told] == ["old", "d"]
    scene.leave(first)
    for subscription in list(scene.hub.subscriptions):
        scene.subscriptions.leave(subscription)
    assert [name for name, _ in (await scene.follow(tag("u1"))).told] == ["old", "d"]
    await scene.register("b", tags="u1 u2")
    assert [name for name, _ in (await scene.follow(tag("u1"))).told] == ["old", "b"]


async def test_a_refusal_to_close_that_may_pass_is_told_as_such(scene: Follows) -> None:
    await scene.journal.register(key_of("x"), TaskDetails())
    await scene.put("first", group="g")
    check = scene.selections.check_may_close
    scene.owners.hidden[key_of("first")] = UpstreamTimeout("later")
    with pytest.raises(UpstreamTimeout):
        await check(group("g"), ALL, unrestricted=True)
    scene.owners.hidden[key_of("first")] = TaskNotFound("no")
    with pytest.raises(Forbidden):
        await check(group("g"), ALL, unrestricted=True)


async def test_a_group_stays_closed_as_long_as_its_longest_task_may_run(scene: Follows) -> None:
    for name, seconds in (("a", 50.0), ("b", 900_000.0), ("c", 10.0)):
        key = key_of(name)
        scene.journal.describe(key, TaskDetails(group="g", deadline_seconds=seconds))
        await scene.put(name)
    seconds = await scene.selections.check_may_close(group("g"), ALL, unrestricted=True)
    assert seconds == 900_000.0
    await scene.groups.close(group("g"), seconds=seconds)
    scene.clock.skip(900_000.0)
    assert await scene.groups.is_closed(group("g"))


async def test_closing_is_of_one_account(scene: Follows) -> None:
    await scene.put("a", "completed", group="g")
    client = await scene.follow(group("g"))
    await scene.groups.close(group("g", "k123"))
    await settle()
    assert _done(client) == []


async def test_members_are_read_again_before_a_follower_begins(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    client = await scene.open(tag("u1"))
    deaf, scene.selections.described = scene.selections.described, lambda *_: None  # type: ignore[method-assign]
    await scene.put("b", tags="u1")
    scene.selections.described = deaf  # type: ignore[method-assign]
    scene.selections.new_epoch()
    await scene.begin(client)
    assert client.told == [("a", "processing"), ("b", "processing")]


async def test_states_that_were_kept_are_read_again_too(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    await scene.follow(tag("u1"))
    heard, scene.selections.recorded = scene.selections.recorded, lambda _: None  # type: ignore[method-assign]
    await scene.put("a", progress=50.0)
    scene.selections.recorded = heard  # type: ignore[method-assign]
    scene.selections.new_epoch()
    client = await scene.follow(tag("u1"))
    assert [data["progress"] for _, data in client.blocks] == [50.0]


async def test_of_a_late_task_the_newest_state_is_shown_whichever_way_it_came(scene: Follows) -> None:
    old = await scene.put("a", progress=1.0)
    await scene.put("a", progress=2.0)
    client = await scene.follow(tag("u1"))
    await scene.journal.register(key_of("a"), TaskDetails(tags=("u1",)))
    scene.selections.recorded(old)
    await settle()
    await scene.put("b", progress=3.0)
    _meanwhile(scene, lambda: scene.put_soon("b", progress=4.0))
    await scene.register("b", tags="u1")
    assert [data["progress"] for _, data in client.blocks] == [2.0, 4.0]


# WebSocket: one cursor for all that a connection follows


async def test_a_websocket_resumes_with_the_cursor_of_a_state(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    client = await scene.follow(tag("u1"), kind=WebSocketFormat)
    event = await scene.put("b", tags="u1")
    assert client.cursors[-1] == f"{event.cursor}.{mark_of_selection(tag('u1'), ALL)}"
    scene.leave(client)
    await scene.put("b", "completed")
    again = await scene.follow(tag("u1"), kind=WebSocketFormat, token=client.cursors[-1])
    assert [one["type"] for one in again.messages] == ["state", "done"]
    assert again.messages[0]["state"]["task_id"] == "b"
    assert again.messages[1]["cursor"] == again.cursors[0]
    quiet = await scene.follow(tag("u1"), kind=WebSocketFormat, token=again.cursors[-1])
    assert quiet.messages == []


async def test_one_cursor_resumes_all_that_a_websocket_follows(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    await scene.put("b", tags="u2")
    client = await scene.follow(tag("u1"), kind=WebSocketFormat)
    before = client.cursors[-1]
    await scene.follow_too(client, tag("u2"))
    await scene.put("a", progress=50.0)
    both = client.cursors[-1]
    scene.leave(client)
    await scene.put("b", "completed")
    for token in (both, before):
        again = await scene.follow(tag("u2"), kind=WebSocketFormat, token=token)
        assert [one["state"]["task_id"] for one in again.messages if one["type"] == "state"] == ["b"]
    again = await scene.follow(tag("u1"), kind=WebSocketFormat, token=both)
    assert again.messages == []
    fresh = await scene.follow(tag("u3"), kind=WebSocketFormat, token=both)
    assert fresh.messages == []


async def test_no_cursor_runs_over_a_late_task_by_any_way(scene: Follows) -> None:
    await scene.put("late", "completed")
    await scene.put("own")
    await scene.put("other", tags="u2")
    client = await scene.follow(tag("u1"), kind=WebSocketFormat)
    await scene.follow_too(client, tag("u2"))
    request = SubscribeRequest([key_of("own")])
    pending = await scene.subscriptions.open(client.subscription, request, wait_for_state=False)
    await scene.subscriptions.begin(pending)
    latest = scene.journal.latest

    async def broken(keys: object) -> list[object]:
        raise JournalError("disk")

    scene.journal.latest = broken  # type: ignore[method-assign,assignment]
    await scene.register("late", tags="u1")
    await scene.put("own", progress=10.0)
    await scene.put("other", progress=10.0)
    assert "." not in "".join(client.cursors[-2:])
    scene.journal.latest = latest  # type: ignore[method-assign]
    await scene.clock.advance(RETRY_SECONDS)
    assert "." not in client.cursors[-1], "it is older than what was sent"
    await scene.put("own", progress=20.0)
    assert client.cursors[-1].count(".") == 2
    assert len(client.cursors) == 6


async def test_a_cursor_of_a_websocket_hides_nothing_either(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    scene.owners.hidden[key_of("b")] = UpstreamTimeout("not yet")
    await scene.put("b", tags="u1")
    client = await scene.follow(tag("u1"), kind=WebSocketFormat)
    await scene.put("a", progress=10.0)
    assert "." not in "".join(client.cursors)


async def test_a_websocket_that_resumes_after_another_history_gets_a_reset(scene: Follows) -> None:
    await scene.put("a", tags="u1")
    client = await scene.follow(tag("u1"), kind=WebSocketFormat)
    _, _, rest = client.cursors[-1].partition("-")
    again = await scene.follow(tag("u1"), kind=WebSocketFormat, token=f"xyz-{rest}")
    assert [one["type"] for one in again.messages] == ["reset", "state"]
