"""Callers' own keys: the provider proves each task, by one look for all who wait; a refused key is out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from bridge.auth.ownership import OwnershipVerifier
from bridge.core.learned import Measurement, Run, TaskKind
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.errors import (
    BridgeError,
    TaskNotFound,
    Unauthenticated,
    UpstreamBusy,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from bridge.sources.accounts import (
    IDLE_SECONDS,
    REFUSED_SECONDS,
    AccountRegistry,
    callback_secret,
    called_account,
)
from tests.fakes.clock import settle
from tests.unit.watchers.conftest import LINGER

pytestmark = pytest.mark.anyio

PROOF = 300.0
WAIT = 2.0
ANN, BOB = "key-of-ann", "key-of-bob"


class Place:
    """A house whose callers bring keys."""

    def __init__(self, build: Callable[..., Any]) -> None:
        self.house = build(accounts=partial(AccountRegistry, secret=b"secret", ownership_cache_seconds=PROOF))
        self.provider, self.clock = self.house.provider, self.house.clock
        self.accounts: AccountRegistry = self.house.accounts
        self.ownership = OwnershipVerifier(
            self.house.pool, self.accounts, self.clock, seconds=PROOF, wait_seconds=WAIT
        )

    def shows(self, key: str, task_id: str, status: str, **more: Any) -> TaskKey:
        """What the provider shows to a key; the task as its holder names it."""
        shown = {"status": status, "progress": 1.0} | more
        self.provider.shown_to.setdefault(key, {})[task_id] = shown
        return TaskKey("qingbo", task_id, self.accounts.register(key))

    def calls(self, key: str) -> int:
        return self.provider.asked_with.count(key)

    async def unverified(self, *keys: TaskKey, seconds: float = 0.0) -> dict[TaskKey, BridgeError]:
        """What cannot be proven, after so much time."""
        asked = asyncio.ensure_future(self.ownership.verify(keys))
        await settle()
        await self.clock.advance(seconds)
        return await asked

    async def proven(self, *keys: TaskKey) -> None:
        assert await self.unverified(*keys) == {}


@pytest.fixture
async def place(build: Callable[..., Any]) -> AsyncIterator[Place]:
    made = Place(build)
    async with made.house.running():
        yield made
        await made.ownership.close()


async def test_one_look_proves_a_task_to_everybody_who_waits(place: Place) -> None:
    task = place.shows(ANN, "a", "processing")
    place.provider.takes = 0.5
    asked = [asyncio.ensure_future(place.ownership.verify([task])) for _ in range(20)]
    await place.clock.advance(1.0)
    assert await asyncio.gather(*asked) == [{}] * 20
    assert place.calls(ANN) == 1


async def test_what_the_watch_sees_is_not_asked_again(place: Place) -> None:
    task = place.shows(ANN, "a", "processing")
    await place.proven(task)
    place.house.pool.want(task)
    await place.clock.advance(2 * PROOF)
    calls = place.calls(ANN)
    await place.proven(task)
    assert place.calls(ANN) == calls


async def test_a_finished_task_is_asked_for_once_in_a_while(place: Place) -> None:
    task = place.shows(ANN, "a", "completed")
    await place.proven(task)
    await place.clock.advance(PROOF - 1)
    task = place.shows(ANN, "a", "completed")  # who brings the key again
    await place.proven(task)
    assert place.calls(ANN) == 1
    await place.clock.advance(2)
    await place.proven(task)
    assert place.calls(ANN) == 2
    await place.proven(task)
    assert place.calls(ANN) == 2


async def test_a_finished_task_the_provider_has_forgotten_is_not_shown(place: Place) -> None:
    task = place.shows(ANN, "a", "completed")
    await place.proven(task)
    await place.clock.advance(PROOF + 1)
    task = place.shows(ANN, "a", "completed", http=404)
    assert isinstance((await place.unverified(task))[task], TaskNotFound)


@pytest.mark.parametrize(
    ("status", "error"), [(404, TaskNotFound), (403, TaskNotFound), (500, UpstreamUnavailable)]
)
async def test_what_is_not_shown_is_doubted_and_only_that(
    place: Place, status: int, error: type[BridgeError]
) -> None:
    mine, other = place.shows(ANN, "a", "processing"), place.shows(ANN, "b", "processing", http=status)
    doubts = await place.unverified(mine, other, seconds=1.0)  # a 404 counts with the second
    assert list(doubts) == [other]
    assert type(doubts[other]) is error


async def test_who_waits_too_long_is_told_so_and_the_look_goes_on(place: Place) -> None:
    task = place.shows(ANN, "a", "completed")
    place.provider.takes = 5.0
    doubts = await place.unverified(task, seconds=WAIT)
    assert isinstance(doubts[task], UpstreamTimeout)
    await place.clock.advance(5.0)
    await place.proven(task)
    assert place.calls(ANN) == 1


async def test_a_refused_key_is_out_at_once_and_for_a_while(place: Place) -> None:
    task, other = place.shows(ANN, "a", "processing"), place.shows(ANN, "b", "processing")
    theirs = place.shows(BOB, "a", "processing")
    await place.proven(task, other)
    await place.proven(theirs)
    for one in (task, other, theirs):
        place.house.pool.want(one)
    place.shows(ANN, "a", "processing", http=401)
    await place.clock.advance(15.0)
    pool = place.house.pool
    assert (pool.watcher(task), pool.watcher(other)) == (None, None)
    assert pool.watcher(theirs) is not None
    assert place.house.notices.count(("b", "credential_refused")) == 1
    calls = place.calls(ANN)
    with pytest.raises(Unauthenticated):
        await place.unverified(task)
    with pytest.raises(Unauthenticated):
        await place.unverified(other)
    await place.clock.advance(REFUSED_SECONDS / 2)
    assert place.calls(ANN) == calls
    await place.clock.advance(REFUSED_SECONDS)
    task = place.shows(ANN, "a", "processing")
    await place.proven(task)
    assert place.calls(ANN) == calls + 1, "what was proven before the refusal counts no more"


@pytest.mark.parametrize("status", [402, 403])
async def test_what_speaks_of_one_task_leaves_the_key_alone(place: Place, status: int) -> None:
    task, other = place.shows(ANN, "a", "processing"), place.shows(ANN, "b", "processing")
    await place.proven(task, other)
    place.house.pool.want(task)
    place.shows(ANN, "a", "processing", http=403)
    await place.clock.advance(15.0)
    doubts = await place.unverified(task, seconds=1.0)  # as long as a 404 takes
    assert isinstance(doubts[task], TaskNotFound)
    await place.proven(other)


async def test_a_key_nobody_uses_is_forgotten_and_one_that_is_needed_is_not(place: Place) -> None:
    used, idle = place.shows(ANN, "a", "processing"), place.shows(BOB, "b", "processing")
    held = place.shows("key-held", "c", "completed")
    place.house.pool.want(used)
    await place.proven(idle)
    place.accounts.retain(held.account, 900.0)
    await place.clock.advance(LINGER + IDLE_SECONDS + 5)
    assert len(place.accounts) == 2
    with pytest.raises(Unauthenticated):
        await place.unverified(idle)
    await place.proven(used)
    await place.proven(held)
    await place.clock.advance(900.0)
    assert len(place.accounts) == 1
    place.house.pool.unwant(used)
    await place.clock.advance(LINGER + IDLE_SECONDS + 5)
    assert len(place.accounts) == 0
    assert len(asyncio.all_tasks()) < 8, "its lookout is gone too"


async def test_accounts_share_no_budget_and_nothing_learned(place: Place) -> None:
    mine, theirs = (
        place.shows(ANN, "a", "processing", http=429, retry_after=60),
        place.shows(BOB, "a", "processing"),
    )
    assert isinstance((await place.unverified(mine))[mine], UpstreamBusy)
    await place.proven(theirs)
    views = [place.accounts.upstream("qingbo", one.account) for one in (mine, theirs)]
    own = place.house.upstream
    for name in ("limiter", "price", "learned", "callbacks", "session"):
        assert len({id(getattr(one, name)) for one in (*views, own)}) == 3, name
    assert "slow down" not in str(own.health.last_error)


async def test_an_account_uses_the_run_times_of_all_and_is_shown_its_own(place: Place) -> None:
    keys = [place.shows(name, "a", "processing") for name in (ANN, BOB)]
    for key in keys:
        await place.proven(key)
    ann, bob = (place.accounts.upstream("qingbo", key.account) for key in keys)
    stored: list[Run] = []
    place.house.upstream.learned.taught = stored.append
    kind = TaskKind("anns-own-model", None)
    for seconds in (8.0, 9.0, 10.0):
        ann.learned.learn(Run(kind, 1.8e9, {"run": Measurement(seconds)}))
    curve = bob.learned.curve(kind, "run")
    assert curve is not None
    assert curve.quantile(0.5) == pytest.approx(9.0)
    assert bob.learned.curve(TaskKind("bobs-first", None), "run") is not None  # of all kinds
    assert bob.learned.statistics() == []
    assert len(stored) == 3  # under the upstream, once
    (row,) = place.house.upstream.learned.statistics(names=False)
    assert (row["model"], row["action"], row["samples"]) == (None, None, 3)
    assert row["p50_seconds"] == pytest.approx(9.0)
    assert bob.learned.statistics(names=False) == []


async def test_no_task_is_watched_with_the_operators_own_key(place: Place) -> None:
    with pytest.raises(Unauthenticated):
        place.house.pool.want(TaskKey("qingbo", "a", OWN_ACCOUNT))
    assert place.provider.asked == []


async def test_a_name_tells_nothing_of_its_key_and_is_the_same_with_the_same_secret(place: Place) -> None:
    again = AccountRegistry({}, place.clock, secret=b"secret", ownership_cache_seconds=PROOF)
    other = AccountRegistry({}, place.clock, secret=b"another", ownership_cache_seconds=PROOF)
    names = [one.register(ANN) for one in (place.accounts, again, other)]
    assert names[0] == names[1] != names[2]
    assert "ann" not in "".join(names)
    assert ANN not in repr(place.accounts) + repr(vars(place.accounts))


@pytest.mark.parametrize("secret", ["s", "a.b", "with a dot."])
def test_a_callback_address_is_of_one_account(secret: str) -> None:
    assert called_account(secret, secret) == OWN_ACCOUNT
    given = callback_secret(secret, "ann")
    assert called_account(secret, given) == "ann"
    for forged in (
        given.replace("ann", "bob"),
        f"{given}0",
        "ann.",
        ".",
        "",
        f"{OWN_ACCOUNT}.x",
        "ann",
        "\udcff.\udcff",
    ):
        assert called_account(secret, forged) is None
    assert called_account("other", given) is None
