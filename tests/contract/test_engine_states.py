"""What every engine promises of states, their log, and what is written with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import orjson
import pytest

from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import (
    ENTRY_BYTES,
    FORGOTTEN_SECONDS,
    KEPT_SECONDS,
    MAX_STATES,
    ApplyOutcome,
    Called,
    ConfirmEntry,
    DetailsEntry,
    End,
    ForgetEntry,
    Listing,
    Mode,
    NoticeEntry,
    Record,
    Stamp,
    StateEntry,
    Want,
)
from tests.fakes.engines import ENGINES, EngineMaker, EngineUse, VirtualTime, require, state_of

pytestmark = pytest.mark.anyio

TASK = TaskKey("video", "one")
OTHER = TaskKey("video", "two")
SECOND = 1_000_000


@pytest.fixture(params=ENGINES, ids=lambda maker: maker.name)
def maker(request: pytest.FixtureRequest) -> EngineMaker:
    require(request.param)
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def use(maker: EngineMaker) -> AsyncIterator[EngineUse]:
    """An engine with two sessions, of which `a` owns `TASK`."""
    time = VirtualTime()
    async with maker.open(time) as engine:
        use = EngineUse(engine, time)
        await use.session("a", ttl=60)
        await use.session("b", ttl=60)
        await use.want("a", TASK)
        yield use


async def verdict(use: EngineUse, session: str, *args: object, **options: object) -> ApplyOutcome:
    (applied,) = await use.apply(session, state_of(*args, **options))  # type: ignore[arg-type]
    return applied.outcome


def details(tags: list[str], group: str = "") -> bytes:
    return orjson.dumps({"tags": tags, "group": group})


# Verdicts, in their order


async def test_a_recorded_state_is_in_record_history_and_log(use: EngineUse) -> None:
    before = await use.head()
    (applied,) = await use.apply("a", state_of(TASK, 1, raw=b"theirs"))
    assert (applied.outcome, applied.version, applied.record, applied.dropped) == (
        ApplyOutcome.RECORDED,
        1,
        None,
        0,
    )
    record = await use.record(TASK)
    assert (record.offset, record.first_seen, record.stamp) == (applied.offset, applied.offset, Stamp(1, "a"))
    assert await use.engine.history(TASK, 0) == [(applied.offset, b"a-1", b"theirs")]
    assert await use.log(before) == [
        StateEntry(applied.offset, before, TASK, Stamp(1, "a"), End.OPEN, record.digest, b"a-1", b"theirs")
    ]


async def test_the_same_stamp_again_is_a_duplicate_for_anybody(use: EngineUse) -> None:
    (first,) = await use.apply("a", state_of(TASK, 1))
    log = await use.log()
    for session in ("a", "b", "dead"):
        (again,) = await use.apply(session, state_of(TASK, 1, content="other words"))
        assert (again.outcome, again.offset, again.version) == (ApplyOutcome.DUPLICATE, first.offset, 1)
    assert await use.log() == log


async def test_the_same_content_again_is_a_duplicate(use: EngineUse) -> None:
    (first,) = await use.apply("a", state_of(TASK, 1, content="same"))
    (again,) = await use.apply("a", state_of(TASK, 2, content="same"))
    assert (again.outcome, again.offset, again.version) == (ApplyOutcome.DUPLICATE, first.offset, 1)
    assert len(await use.engine.history(TASK, 0)) == 1


async def test_content_that_was_there_before_the_newest_is_news(use: EngineUse) -> None:
    for version, content in enumerate(("x", "y", "x"), start=1):
        assert await verdict(use, "a", TASK, version, content=content) is ApplyOutcome.RECORDED


async def test_only_the_owner_records_in_mode_owner(use: EngineUse) -> None:
    (applied,) = await use.apply("b", state_of(TASK, 1, "b"))
    assert applied.outcome is ApplyOutcome.FENCED
    assert applied.record == await use.record(TASK)
    (applied,) = await use.apply("b", state_of(OTHER, 1, "b"))
    assert (applied.outcome, applied.record, applied.offset) == (ApplyOutcome.FENCED, Record(OTHER), 0)
    assert await use.engine.history(TASK, 0) == []


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_dead_session_records_nothing(use: EngineUse, mode: Mode) -> None:
    use.time.advance(61)
    assert await verdict(use, "a", TASK, 1, mode=mode) is ApplyOutcome.FENCED
    assert await verdict(use, "never", TASK, 1, mode=mode) is ApplyOutcome.FENCED
    assert (await use.record(TASK)).version == 0


async def test_an_owner_that_was_stopped_is_fenced_after_another_has_taken_over(use: EngineUse) -> None:
    await use.session("slow", ttl=3)
    await use.want("slow", OTHER)
    await use.apply("slow", state_of(OTHER, 1, "slow"))
    use.time.advance(4)
    await use.want("b", OTHER)
    await use.apply("b", state_of(OTHER, 2, "b"))
    (late,) = await use.apply("slow", state_of(OTHER, 3, "slow"))
    assert late.outcome is ApplyOutcome.FENCED
    assert late.record is not None
    assert late.record.stamp == (2, "b")


async def test_nothing_follows_an_end(use: EngineUse) -> None:
    (end,) = await use.apply("a", state_of(TASK, 1, end=End.ENDED))
    (late,) = await use.apply("b", state_of(TASK, 2, "b", mode=Mode.FREE, end=End.ENDED))
    assert (late.outcome, late.offset, late.version) == (ApplyOutcome.FINAL, end.offset, 1)
    assert late.record == await use.record(TASK)
    # Checked before the version, and after the owner.
    assert await verdict(use, "b", TASK, 5, mode=Mode.FREE) is ApplyOutcome.FINAL
    assert await verdict(use, "b", TASK, 2, "b") is ApplyOutcome.FENCED


async def test_a_real_end_replaces_lost_and_nothing_else_does(use: EngineUse) -> None:
    await use.apply("a", state_of(TASK, 1, end=End.LOST))
    assert await verdict(use, "a", TASK, 2, content="open") is ApplyOutcome.FINAL
    assert await verdict(use, "a", TASK, 2, content="lost again", end=End.LOST) is ApplyOutcome.FINAL
    assert await verdict(use, "a", TASK, 3, content="end", end=End.ENDED) is ApplyOutcome.STALE
    assert await verdict(use, "a", TASK, 2, content="end", end=End.ENDED) is ApplyOutcome.RECORDED
    assert (await use.record(TASK)).owner == ""


async def test_a_state_that_builds_on_another_version_is_stale(use: EngineUse) -> None:
    (first,) = await use.apply("a", state_of(TASK, 1))
    (ahead,) = await use.apply("a", state_of(TASK, 3))
    assert (ahead.outcome, ahead.offset, ahead.version) == (ApplyOutcome.STALE, first.offset, 1)
    assert ahead.record == await use.record(TASK)
    assert await verdict(use, "b", TASK, 1, "b", mode=Mode.FREE) is ApplyOutcome.STALE


async def test_an_engine_that_lost_a_task_takes_its_state_as_it_was(use: EngineUse) -> None:
    assert await verdict(use, "a", TASK, 14, "long-gone") is ApplyOutcome.RECORDED
    assert (await use.record(TASK)).stamp == (14, "long-gone")
    assert await verdict(use, "a", TASK, 15) is ApplyOutcome.RECORDED


async def test_any_live_session_records_freely_on_the_newest_version(use: EngineUse) -> None:
    assert await verdict(use, "b", TASK, 1, "b", mode=Mode.FREE) is ApplyOutcome.RECORDED
    assert await verdict(use, "a", TASK, 2) is ApplyOutcome.RECORDED
    assert (await use.record(TASK)).owner == "a"


async def test_many_states_in_one_call_are_each_judged_by_themselves(use: EngineUse) -> None:
    states = [state_of(TASK, version) for version in range(1, MAX_STATES - 1)]
    applied = await use.apply("a", *states, state_of(OTHER, 1), state_of(TASK, 1, content="stale"))
    verdicts = [one.outcome for one in applied]
    assert verdicts == [ApplyOutcome.RECORDED] * (MAX_STATES - 2) + [ApplyOutcome.FENCED, ApplyOutcome.STALE]
    offsets = [one.offset for one in applied[:-2]]
    assert all(later > earlier for earlier, later in pairwise(offsets))


# Amendments


async def test_an_amendment_after_the_end_has_a_log_entry_and_changes_no_end(use: EngineUse) -> None:
    await use.apply("a", state_of(TASK, 1, end=End.ENDED))
    before = await use.head()
    (applied,) = await use.apply("b", state_of(TASK, 2, "b", mode=Mode.AMEND, content="with links"))
    assert (applied.outcome, applied.version) == (ApplyOutcome.RECORDED, 2)
    (entry,) = await use.log(before)
    assert isinstance(entry, StateEntry)
    assert (entry.amended, entry.end, entry.document) == (True, End.ENDED, b"with links")
    record = await use.record(TASK)
    assert (record.end, record.owner, record.document) == (End.ENDED, "", b"with links")
    assert await verdict(use, "b", TASK, 2, "a", mode=Mode.AMEND, content="other") is ApplyOutcome.STALE


async def test_an_amendment_before_the_end_is_a_state_like_any(use: EngineUse) -> None:
    await use.apply("a", state_of(TASK, 1))
    assert await verdict(use, "b", TASK, 2, "b", mode=Mode.AMEND, end=End.ENDED) is ApplyOutcome.RECORDED
    (entry,) = (await use.log())[-1:]
    assert isinstance(entry, StateEntry)
    assert (entry.amended, entry.end) == (False, End.ENDED)
    assert (await use.record(TASK)).owner == ""


# What is kept


async def test_offsets_grow_with_the_engines_time_and_when_it_goes_back(use: EngineUse) -> None:
    offsets = []
    for version, seconds in enumerate((0, 1, -30, 0, 60), start=1):
        use.time.advance(seconds)
        (applied,) = await use.apply("a", state_of(TASK, version))
        offsets.append(applied.offset)
    assert offsets == sorted(set(offsets))
    assert offsets[1] == offsets[0] + SECOND or offsets[1] - offsets[0] == pytest.approx(SECOND, abs=10)
    assert offsets[-1] == use.time.now < 2**53


async def test_states_of_one_call_count_in_their_order(use: EngineUse) -> None:
    await use.want("a", OTHER)
    applied = await use.apply(
        "a",
        state_of(OTHER, 1),
        state_of(TASK, 1),
        state_of(OTHER, 2),
        state_of(TASK, 2, end=End.ENDED),
        state_of(TASK, 3, mode=Mode.FREE),
    )
    assert [one.outcome.value for one in applied] == [*["recorded"] * 4, "final"]
    assert await use.engine.newest("video", TASK.account, final=False, limit=9) == [OTHER]
    assert await use.engine.newest("video", TASK.account, final=True, limit=9) == [TASK]
    entries = [entry for entry in await use.log() if entry.offset >= applied[0].offset]
    assert [entry.offset for entry in entries] == [one.offset for one in applied[:4]]
    assert [entry.previous for entry in entries[1:]] == [entry.offset for entry in entries[:-1]]


async def test_history_keeps_the_newest(maker: EngineMaker) -> None:
    time = VirtualTime()
    async with maker.open(time, history=4) as engine:
        use = EngineUse(engine, time)
        await use.session("a")
        await use.want("a", TASK)
        applied = await use.apply("a", *[state_of(TASK, version) for version in range(1, 8)])
        past = await engine.history(TASK, 0)
        assert [one.document for one in past] == [b"a-4", b"a-5", b"a-6", b"a-7"]
        assert await engine.history(TASK, applied[5].offset) == past[-1:]
        assert await engine.history(TASK, applied[6].offset) == []
        assert await engine.history(OTHER, 0) == []


async def test_a_large_document_is_in_the_record_only(use: EngineUse) -> None:
    large = b"x" * ENTRY_BYTES
    before = await use.head()
    await use.apply("a", state_of(TASK, 1, document=large), state_of(TASK, 2, document=large, raw=b"r"))
    fits, too_large = await use.log(before)
    assert isinstance(fits, StateEntry)
    assert isinstance(too_large, StateEntry)
    assert (fits.document, fits.raw, fits.whole) == (large, None, True)
    assert (too_large.document, too_large.raw, too_large.whole) == (None, None, False)
    record = await use.record(TASK)
    assert (record.document, record.raw) == (large, b"r")
    assert [one.raw for one in await use.engine.history(TASK, 0)] == [None, None]


async def test_a_raw_document_that_is_too_large_is_not_kept(maker: EngineMaker) -> None:
    time = VirtualTime()
    async with maker.open(time, raw_bytes=100) as engine:
        use = EngineUse(engine, time)
        await use.session("a")
        await use.want("a", TASK)
        await use.apply("a", state_of(TASK, 1, raw=b"x" * 100), state_of(TASK, 2, raw=b"x" * 101))
        assert [past.raw for past in await engine.history(TASK, 0)] == [b"x" * 100, None]
        assert (await use.record(TASK)).raw is None
        (entry,) = (await use.log())[-1:]
        assert isinstance(entry, StateEntry)
        assert (entry.raw, entry.whole) == (None, True)


async def test_bytes_and_ids_of_any_kind_are_kept_as_they_are(use: EngineUse) -> None:
    key = TaskKey("video", "a/b:{x}\x7f é\U0001f600*?[", "acc:ount/{y}")
    everything = bytes(range(256))
    await use.want("a", key)
    await use.apply("a", state_of(key, 1, document=everything, raw=everything[::-1], details=everything))
    record = await use.record(key)
    assert (record.key, record.document, record.raw) == (key, everything, everything[::-1])
    assert record.details == everything
    entry = (await use.log())[-1]
    assert isinstance(entry, StateEntry)
    assert (entry.key, entry.document, entry.details) == (key, everything, everything)
    await use.engine.announce("a", key, "stalled", everything)
    await use.engine.confirm("a", [(key, Confirmation(1.25))])
    record = await use.record(key)
    assert (dict(record.notices), record.confirmation) == ({"stalled": everything}, Confirmation(1.25))
    assert await use.engine.newest("video", "acc:ount/{y}", final=False, limit=5) == [key]
    assert [found.key for found in await use.engine.listing("video", key.account)] == [key]
    await use.engine.leave("a")
    assert [claimed.key for claimed in await use.engine.claim("b", account=key.account, limit=5)] == [key]


async def test_records_of_unknown_tasks_change_nothing(use: EngineUse) -> None:
    assert await use.engine.records([OTHER, TASK]) == [Record(OTHER), await use.record(TASK)]
    assert await use.engine.records([]) == []


# Notices and confirmations


async def test_notices_stand_until_fresh_or_until_they_end(use: EngineUse) -> None:
    before = await use.head()
    first = await use.engine.announce("a", TASK, "stalled", b"1")
    await use.engine.announce("a", TASK, "unknown_status", b"2")
    await use.engine.announce("a", TASK, "stalled", None)
    assert dict((await use.record(TASK)).notices) == {"unknown_status": b"2"}
    await use.engine.announce("a", TASK, "fresh", b"3")
    assert dict((await use.record(TASK)).notices) == {}
    entries = await use.log(before)
    assert all(isinstance(entry, NoticeEntry) for entry in entries)
    assert entries[0] == NoticeEntry(first, before, TASK, "stalled", b"1")
    assert [entry[3:] for entry in entries[1:]] == [
        ("unknown_status", b"2"),
        ("stalled", None),
        ("fresh", b"3"),
    ]


async def test_the_end_of_a_task_ends_its_notices(use: EngineUse) -> None:
    await use.engine.announce("a", TASK, "stalled", b"1")
    await use.apply("a", state_of(TASK, 1, end=End.ENDED))
    assert dict((await use.record(TASK)).notices) == {}


async def test_confirmations_are_one_entry_and_never_go_back(use: EngineUse) -> None:
    await use.want("a", OTHER)
    await use.apply("a", state_of(TASK, 1), state_of(OTHER, 1))
    before = await use.head()
    first, other = Confirmation(50.25, 1_800_000_000.123456, 1_800_000_060.5), Confirmation(60.0)
    unknown = (TaskKey("video", "unknown"), Confirmation(1.0))
    await use.engine.confirm("a", [(TASK, first), (OTHER, other), unknown])
    (entry,) = await use.log(before)
    assert isinstance(entry, ConfirmEntry)
    assert list(entry.confirmed) == [(TASK, first), (OTHER, other)]
    await use.engine.confirm("a", [(TASK, Confirmation(49.0, 99.0))])
    assert (await use.record(TASK)).confirmation == first


async def test_a_dead_session_announces_confirms_and_registers_nothing(use: EngineUse) -> None:
    await use.apply("a", state_of(TASK, 1))
    use.time.advance(61)
    log = await use.log()
    assert await use.engine.announce("a", TASK, "stalled", b"1") == 0
    await use.engine.confirm("a", [(TASK, Confirmation(50.0))])
    assert await use.engine.register("a", TASK, b"{}") == 0
    assert await use.log() == log
    record = await use.record(TASK)
    assert (dict(record.notices), record.confirmation, record.details) == ({}, None, None)


# Registration and listings


async def test_a_task_never_seen_can_be_registered(use: EngineUse) -> None:
    before = await use.head()
    offset = await use.engine.register("a", OTHER, details(["x"]))
    assert await use.log(before) == [DetailsEntry(offset, before, OTHER, details(["x"]))]
    record = await use.record(OTHER)
    assert (record.version, record.details, record.first_seen) == (0, details(["x"]), 0)
    assert await use.engine.listing("video", "-", tag="x") == []
    await use.want("a", OTHER)
    (applied,) = await use.apply("a", state_of(OTHER, 1))
    entry = (await use.log())[-1]
    assert isinstance(entry, StateEntry)
    assert entry.details == details(["x"])
    listed = Listing(applied.offset, OTHER, details(["x"]))
    assert await use.engine.listing("video", "-", tag="x") == [listed]


async def test_details_are_in_the_log_with_the_first_state_and_when_they_change(use: EngineUse) -> None:
    before = await use.head()
    await use.apply(
        "a",
        state_of(TASK, 1, details=b"{}"),
        state_of(TASK, 2),
        state_of(TASK, 3, details=b"{}"),
        state_of(TASK, 4, details=b'{"group":"g"}'),
        state_of(TASK, 5),
    )
    entries = [entry for entry in await use.log(before) if isinstance(entry, StateEntry)]
    assert [entry.details for entry in entries] == [b"{}", None, None, b'{"group":"g"}', None]
    assert (await use.record(TASK)).details == b'{"group":"g"}'


async def test_the_tasks_of_an_account_are_listed_by_their_first_state(use: EngineUse) -> None:
    keys = [TaskKey("video", str(number), f"account/{number % 3}%") for number in range(21)]
    await use.want("a", *keys)
    seen = await use.apply("a", *[state_of(key, 1) for key in keys])
    await use.apply("a", *[state_of(key, 2) for key in reversed(keys)])
    oldest = [Listing(one.offset, key, None) for one, key in zip(seen, keys, strict=True)][1::3]
    listed, account = oldest[::-1], keys[1].account
    listing = use.engine.listing
    assert await listing("video", account) == listed
    assert await listing("video", account, before=listed[2].first_seen, limit=2) == listed[3:5]
    assert await listing("video", account, before=listed[-1].first_seen) == []
    assert await listing("video", account, limit=1) == listed[:1]
    assert await listing("video", "account/1") == []
    assert await listing("image", account) == []
    assert await use.engine.accounts("video") == ["account/0%", "account/1%", "account/2%"]
    assert await use.engine.accounts("image") == []
    assert await use.engine.oldest("video", account, after=0, limit=99) == oldest
    assert await use.engine.oldest("video", account, after=oldest[1].first_seen, limit=3) == oldest[2:5]
    assert await use.engine.oldest("video", account, after=oldest[-1].first_seen, limit=3) == []


async def test_tasks_are_listed_by_tag_and_group(use: EngineUse) -> None:
    keys = [TaskKey("video", str(number)) for number in range(4)]
    tags = [["x"], ["x", "y"], ["y"], []]
    await use.want("a", *keys)
    for key, names, group in zip(keys, tags, ("g", "", "g", "h"), strict=True):
        await use.apply("a", state_of(key, 1, details=details(names, group)))

    async def listed(**which: str) -> list[TaskKey]:
        return [one.key for one in await use.engine.listing("video", "-", **which)][::-1]  # type: ignore[arg-type]

    assert await listed(tag="x") == keys[:2]
    assert await listed(group="g") == [keys[0], keys[2]]
    assert await listed(tag="g") == await listed(group="x") == await listed(tag="x", group="h") == []
    assert await listed(tag="y", group="g") == [keys[2]]
    # Registered otherwise, later: where it was first seen.
    await use.engine.register("a", keys[0], details(["y"], "h"))
    assert await listed(tag="x") == [keys[1]]
    assert await listed(tag="y") == keys[:3]
    assert await listed(group="h") == [keys[0], keys[3]]


async def test_details_that_are_no_json_object_have_no_tags(use: EngineUse) -> None:
    for number, odd in enumerate(
        (b"", b"null", b"[1]", b'{"tags":7,"group":[]}', b'{"tags":[1,"x",null,""]}')
    ):
        key = TaskKey("video", str(number))
        assert await verdict(use, "a", key, 1, mode=Mode.FREE, details=odd) is ApplyOutcome.RECORDED
    assert [one.key.task_id for one in await use.engine.listing("video", "-", tag="x")] == ["4"]
    assert len(await use.engine.listing("video", "-")) == 5


async def test_the_newest_tasks_of_an_account_by_whether_they_have_ended(use: EngineUse) -> None:
    open_, ended, lost = (TaskKey("video", name) for name in ("open", "ended", "lost"))
    await use.want("a", open_, ended, lost, TaskKey("video", "never-seen"))
    await use.apply(
        "a",
        state_of(open_, 1),
        state_of(ended, 1),
        state_of(lost, 1, end=End.LOST),
        state_of(ended, 2, end=End.ENDED),
        state_of(TASK, 1),
        state_of(open_, 2),
        state_of(TaskKey("video", "theirs", "x"), 1, mode=Mode.FREE),
    )
    newest = use.engine.newest
    assert await newest("video", "-", final=False, limit=5) == [open_, TASK]
    assert await newest("video", "-", final=True, limit=5) == [ended, lost]
    assert await newest("video", "-", final=True, limit=1) == [ended]
    assert await newest("video", "nobody", final=True, limit=1) == []


async def test_names_of_one_account_are_not_those_of_another(use: EngineUse) -> None:
    mine, theirs = TaskKey("video", "1"), TaskKey("video", "1", "theirs")
    elsewhere = TaskKey("image", "1")
    for key in (mine, theirs, elsewhere):
        await use.apply("a", state_of(key, 1, mode=Mode.FREE, details=details(["x"], "g")))
    for key in (mine, theirs, elsewhere):
        for which in ({}, {"tag": "x"}, {"group": "g"}, {"tag": "x", "group": "g"}):
            listed = await use.engine.listing(key.upstream, key.account, **which)  # type: ignore[arg-type]
            assert [one.key for one in listed] == [key]


async def test_many_tasks_of_one_group_are_paged_with_another_tag(use: EngineUse) -> None:
    keys = [TaskKey("video", f"t/{number}") for number in range(2500)]
    for start in range(0, len(keys), MAX_STATES):
        batch = keys[start : start + MAX_STATES]
        states = [
            state_of(key, 1, mode=Mode.FREE, details=details(["x"] if start == 0 else ["y"], "g"))
            for key in batch
        ]
        await use.apply("a", *states)
    listing = use.engine.listing
    found = await listing("video", "-", tag="x", group="g", limit=50)
    assert [one.key for one in found] == keys[MAX_STATES - 1 : MAX_STATES - 51 : -1]
    rest = await listing("video", "-", tag="x", group="g", before=found[-1].first_seen, limit=50)
    assert [one.key for one in rest] == keys[MAX_STATES - 51 :: -1]
    assert [one.key for one in await listing("video", "-", group="g", limit=1000)] == keys[:1499:-1]


# Kept with a state


async def test_a_task_is_kept_with_its_state(use: EngineUse) -> None:
    mine, ownerless, ended = (TaskKey("video", f"new/{name}") for name in ("mine", "ownerless", "ended"))
    await use.want("a", mine)
    states = [
        state_of(mine, 1, mode=Mode.OWNER),
        state_of(ownerless, 1, mode=Mode.FREE),
        state_of(ended, 1, mode=Mode.FREE, end=End.ENDED),
        state_of(TASK, 1, "b"),  # fenced
    ]
    await use.apply("a", *[one._replace(keep=True) for one in states[:3]])
    await use.apply("b", states[3]._replace(keep=True))
    records = await use.engine.records([mine, ownerless, ended, TASK])
    assert [record.persistent for record in records] == [True, True, False, False]
    # What no replica polls is an orphan, due a moment later, whatever became of who recorded it.
    assert await use.engine.claim("b", account="-", limit=9) == []
    assert (await use.engine.census()).orphans == 1
    use.time.advance(KEPT_SECONDS)
    (claimed,) = await use.engine.claim("b", account="-", limit=9)
    assert (claimed.key, claimed.owner, claimed.version) == (ownerless, "b", 1)
    await use.apply("b", state_of(ownerless, 2, "b")._replace(keep=True))
    assert (await use.record(ownerless)).owner == "b"
    amended = state_of(ended, 2, mode=Mode.AMEND)._replace(keep=True)
    assert [one.outcome for one in await use.apply("a", amended)] == [ApplyOutcome.RECORDED]
    assert not (await use.record(ended)).persistent


# Forgetting


async def test_a_forgotten_task_leaves_nothing_behind(use: EngineUse) -> None:
    key = TaskKey("video", "models/one", "theirs")
    await use.want("a", key)
    await use.apply("a", state_of(key, 1, details=details(["x"], "g")), state_of(TASK, 1))
    await use.engine.keep("a", key, called_back=True)
    await use.engine.announce("a", key, "stalled", b"1")
    before = await use.head()
    assert await use.engine.forget("b", key), "whoever owns it"
    (entry,) = await use.log(before)
    assert entry == ForgetEntry(entry.offset, before, key)
    assert await use.record(key) == Record(key, forgotten=entry.offset)
    assert await use.engine.history(key, 0) == []
    for which in ({}, {"tag": "x"}, {"group": "g"}):
        assert await use.engine.listing("video", "theirs", **which) == []  # type: ignore[arg-type]
    assert await use.engine.newest("video", "theirs", final=False, limit=9) == []
    assert await use.engine.owned("a", after=None, limit=9) == [TASK]
    assert await use.engine.accounts("video") == ["-"]
    assert await use.engine.call("a", TaskKey("video", "one", "theirs")) == (Called.UNKNOWN, None)
    assert await use.engine.call("a", key) == (Called.UNKNOWN, None)
    await use.engine.leave("a")
    assert [one.key for one in await use.engine.claim("b", account="theirs", limit=9)] == []
    assert (await use.engine.census()).orphans == 1
    assert not await use.engine.forget("b", key), "once"


async def test_an_ended_or_a_registered_task_and_an_orphan_can_be_forgotten(use: EngineUse) -> None:
    await use.apply("a", state_of(TASK, 1, end=End.ENDED))
    await use.engine.register("a", OTHER, details(["x"]))
    await use.engine.keep("a", OTHER, called_back=False)
    third = TaskKey("video", "three")
    await use.engine.want("a", [Want(third)], linger=30.0)
    before = await use.head()
    assert [await use.engine.forget("a", key) for key in (TASK, OTHER, third)] == [True, True, False]
    assert await use.engine.newest("video", "-", final=True, limit=9) == []
    assert [type(entry) for entry in await use.log(before)] == [ForgetEntry, ForgetEntry]
    assert (await use.engine.census()).orphans == 0
    assert (await use.record(third)).owner == "a", "of which there was nothing"


async def test_a_dead_session_forgets_nothing(use: EngineUse) -> None:
    await use.apply("a", state_of(TASK, 1))
    use.time.advance(61)
    log = await use.log()
    assert not await use.engine.forget("a", TASK)
    assert await use.log() == log
    assert (await use.record(TASK)).version == 1


async def test_a_state_that_builds_on_a_forgotten_one_is_stale(use: EngineUse) -> None:
    await use.apply("a", state_of(TASK, 1), state_of(TASK, 2))
    await use.engine.forget("b", TASK)
    assert await verdict(use, "a", TASK, 3) is ApplyOutcome.FENCED, "its owner is no longer one"
    (again,) = await use.apply("a", state_of(TASK, 2, mode=Mode.FREE))
    assert (again.outcome, again.version) == (ApplyOutcome.STALE, 0)
    assert again.record is not None
    assert again.record.forgotten > 0
    await use.want("a", TASK)
    assert await verdict(use, "a", TASK, 3) is ApplyOutcome.STALE
    # Seen anew, it begins anew.
    (first,) = await use.apply("a", state_of(TASK, 1))
    assert first.outcome is ApplyOutcome.RECORDED
    record = await use.record(TASK)
    assert (record.version, record.first_seen) == (1, first.offset)
    assert 0 < record.forgotten < record.first_seen
    assert await verdict(use, "a", TASK, 2) is ApplyOutcome.RECORDED
    assert [one.key for one in await use.engine.listing("video", "-")] == [TASK]


async def test_that_a_task_was_forgotten_is_known_for_an_hour(use: EngineUse) -> None:
    await use.session("a", ttl=86_400)
    await use.apply("a", state_of(TASK, 1))
    await use.engine.forget("a", TASK)
    assert (await use.record(TASK)).forgotten
    for _ in range(2):
        use.time.advance(FORGOTTEN_SECONDS / 2 - 10)
        await use.renew("a", ttl=86_400)
        assert (await use.record(TASK)).forgotten
    use.time.advance(30)
    await use.renew("a", ttl=86_400)
    assert await use.record(TASK) == Record(TASK)
    assert await verdict(use, "a", TASK, 3, mode=Mode.FREE) is ApplyOutcome.RECORDED


# The log


async def test_every_entry_names_the_head_before_it(use: EngineUse) -> None:
    head = (await use.session("c")).head
    await use.apply("a", state_of(TASK, 1), state_of(TASK, 2))
    await use.engine.announce("a", TASK, "stalled", b"1")
    await use.renew("b")
    entries = await use.log(head)
    assert [entry.previous for entry in entries] == [head, *[entry.offset for entry in entries[:-1]]]
    assert (await use.session("c")).head == entries[-1].offset


async def test_the_first_entry_of_a_new_epoch_names_its_head(use: EngineUse) -> None:
    await use.apply("a", state_of(TASK, 1))
    head = await use.head()
    begun = await use.session("c", known_head=head + 5 * SECOND, epoch="e2")
    await use.apply("a", state_of(TASK, 2))
    (entry,) = await use.log(head)
    assert entry.previous == begun.head > head
    assert entry.offset == begun.head + 1


async def test_a_trimmed_log_shows_what_is_missing(maker: EngineMaker) -> None:
    time = VirtualTime()
    async with maker.open(time, log=100) as engine:
        use = EngineUse(engine, time)
        head = (await use.session("a", ttl=600)).head
        await use.want("a", TASK)
        for start in range(1, 1001, 50):
            await use.apply("a", *[state_of(TASK, version) for version in range(start, start + 50)])
            time.advance(0.1)
        entries = await use.log(head)
        assert 100 <= len(entries) < 400  # an engine may trim in portions
        assert entries[0].previous != head
        assert all(later.previous == earlier.offset for earlier, later in pairwise(entries))
        assert isinstance(entries[-1], StateEntry)
        assert entries[-1].stamp.version == 1000


async def test_reading_is_limited_and_goes_on(use: EngineUse) -> None:
    await use.apply("a", *[state_of(TASK, version) for version in range(1, 11)])
    everything = await use.log()
    assert await use.engine.read(0, block=0, limit=4) == everything[:4]
    assert await use.engine.read(everything[3].offset, block=0, limit=100) == everything[4:]
    assert await use.engine.read(everything[-1].offset, block=0) == []


async def test_a_reader_that_waits_is_woken_by_an_entry(use: EngineUse) -> None:
    head = await use.head()
    reader = asyncio.create_task(use.engine.read(head, block=30))
    await asyncio.sleep(0.01)
    (applied,) = await use.apply("a", state_of(TASK, 1))
    assert [entry.offset for entry in await asyncio.wait_for(reader, 5)] == [applied.offset]


async def test_a_reader_waits_no_longer_than_it_said(use: EngineUse) -> None:
    assert await asyncio.wait_for(use.engine.read(await use.head(), block=0.02), 5) == []
