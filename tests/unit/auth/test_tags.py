"""Rights by tags: what a claim `tags` opens, what a ticket keeps of it, and when the journal is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from bridge.auth.authenticator import TokenAuth
from bridge.auth.caller import Caller, TokenScope
from bridge.auth.grants import Grant
from bridge.auth.origins import Origins
from bridge.auth.signing_keys import SharedSecrets
from bridge.auth.tickets import Tickets
from bridge.auth.tokens import Tokens
from bridge.core.details import MAX_TAGS, NO_DETAILS, TaskDetails
from bridge.core.selection import Selection, SelectionKind
from bridge.core.task import TaskKey
from bridge.errors import Forbidden, InvalidRequest, Unauthenticated
from tests.fakes.clock import FakeClock
from tests.fakes.credentials import AUDIENCE, ISSUER, SECRET, token

pytestmark = pytest.mark.anyio

A, B, ELSEWHERE = TaskKey("qingbo", "a"), TaskKey("qingbo", "b"), TaskKey("vapi", "a")
CLOCK = FakeClock()
ANNS = TaskDetails(tags=("ann", "kids"))
BOBS = TaskDetails(tags=("bob",), group="g")
WRITES = "read submit cancel"


class Details:
    """What tasks are known by, and which of them were asked for."""

    def __init__(self, known: dict[TaskKey, TaskDetails] | None = None) -> None:
        self.known = known or {}
        self.asked: list[list[TaskKey]] = []

    async def details_of(self, keys: Sequence[TaskKey]) -> list[TaskDetails]:
        self.asked.append(list(keys))
        return [self.known.get(key, NO_DETAILS) for key in keys]


async def caller_of(*tasks: str, **more: Any) -> Caller:
    tokens = Tokens(SharedSecrets([SECRET.encode()]), CLOCK, issuer=ISSUER, audience=AUDIENCE)
    return await tokens.caller(token(*tasks, now=CLOCK.time(), **more))


def auth(details: Details) -> TokenAuth:
    tokens = Tokens(SharedSecrets([SECRET.encode()]), CLOCK, issuer=ISSUER, audience=AUDIENCE)
    return TokenAuth(Origins([]), CLOCK, tokens, Tickets([SECRET.encode()], CLOCK), details)


async def test_a_tag_opens_what_has_it_and_nothing_else() -> None:
    ann = await caller_of(tags=["ann"])
    assert ann.covers(A, ANNS)
    assert not ann.covers(A, BOBS)
    assert not ann.covers(A)
    assert not ann.covers(TaskKey("qingbo", "a", "account"), ANNS)
    assert not ann.covers_all_of("qingbo")
    both = await caller_of("vapi/*", "qingbo/b", tags=["ann"])
    assert [both.covers(key) for key in (A, B, ELSEWHERE)] == [False, True, True]
    assert both.covers(A, ANNS)


@pytest.mark.parametrize(
    "claim",
    [
        "ann",
        {"ann": 1},
        [1],
        [None],
        [["ann"]],
        ["*"],
        ["an*"],
        [""],
        ["a b"],
        ["ann\n"],
        ["ä"],
        ["a" * 65],
        7,
        True,
    ],
)
async def test_a_malformed_claim_is_no_token(claim: Any) -> None:
    with pytest.raises(Unauthenticated, match="tags"):
        await caller_of("qingbo/*", tags=claim)


@pytest.mark.parametrize("claim", [None, []])
async def test_without_tags_nothing_changes(claim: Any) -> None:
    plain = await caller_of("qingbo/a", tags=claim)
    assert plain.rights == (await caller_of("qingbo/a")).rights
    assert plain.own_tags == ()
    assert not plain.rights.by_names
    nothing = await caller_of(tags=claim)
    assert not nothing.covers(A, ANNS)
    assert not nothing.may_submit("qingbo")


async def test_rights_are_equal_for_who_may_read_the_same() -> None:
    one = await caller_of("qingbo/a", "vapi/*", tags=["x", "y"], sub="ann")
    other = await caller_of("vapi/*", "qingbo/a", tags=["y", "x", "x"], sub="bob")
    assert (one.rights, hash(one.rights)) == (other.rights, hash(other.rights))
    assert one.rights != (await caller_of("qingbo/a", "vapi/*", tags=["x"])).rights


async def test_submits_get_the_tags_of_the_token() -> None:
    ann = await caller_of(scope="submit", tags=["ann", "kids"])
    assert ann.submit_details(NO_DETAILS).tags == ("ann", "kids")
    assert ann.submit_details(TaskDetails("https://a", ("kids", "new"), "g")) == TaskDetails(
        "https://a", ("kids", "new", "ann"), "g"
    )
    full = TaskDetails(tags=tuple(f"t{n}" for n in range(MAX_TAGS - 1)))
    with pytest.raises(InvalidRequest, match="16"):
        ann.submit_details(full)
    many = await caller_of(scope="submit", tags=[f"t{n}" for n in range(MAX_TAGS + 1)])
    with pytest.raises(InvalidRequest):
        many.submit_details(NO_DETAILS)  # it reads by all of them
    assert many.covers(A, TaskDetails(tags=("t16",)))
    everything = await caller_of("*", scope="submit", tags=["ann"])
    assert everything.submit_details(NO_DETAILS).tags == ("ann",)


@pytest.mark.parametrize(
    ("tasks", "tags", "scope", "upstreams"),
    [
        ([], ["ann"], WRITES, {"qingbo", "vapi"}),
        (["qingbo/a"], ["ann"], WRITES, {"qingbo", "vapi"}),
        (["qingbo/*"], ["ann"], WRITES, {"qingbo"}),
        (["qingbo/*", "vapi/b"], ["ann"], WRITES, {"qingbo"}),
        (["*"], ["ann"], WRITES, {"qingbo", "vapi"}),
        (["qingbo/a"], None, WRITES, set()),
        ([], ["ann"], "read cancel", set()),
    ],
)
async def test_where_a_token_may_submit(
    tasks: list[str], tags: list[str] | None, scope: str, upstreams: set[str]
) -> None:
    caller = await caller_of(*tasks, tags=tags, scope=scope)
    assert {name for name in ("qingbo", "vapi") if caller.may_submit(name)} == upstreams
    for name in ("qingbo", "vapi"):
        if name in upstreams:
            caller.authorize_submit(name)
        else:
            with pytest.raises(Forbidden):
                caller.authorize_submit(name)


async def test_the_journal_is_asked_only_where_a_tag_may_decide() -> None:
    details = Details({A: ANNS, B: BOBS})
    gate = auth(details)
    plain = await caller_of("qingbo/*")
    await gate.authorize(plain, TokenScope.READ, [A, B])
    with pytest.raises(Forbidden):
        await gate.authorize(plain, TokenScope.READ, [ELSEWHERE])
    by_ref = await caller_of("qingbo/b", tags=["ann"])
    await gate.authorize(by_ref, TokenScope.READ, [B])
    assert details.asked == []
    await gate.authorize(by_ref, TokenScope.READ, [B, A])
    assert details.asked == [[A]]


async def test_a_task_of_others_and_a_missing_one_are_asked_for_and_refused_alike() -> None:
    details = Details({A: ANNS, B: BOBS})
    gate = auth(details)
    ann = await caller_of(tags=["ann"])
    sentences = []
    for key in (B, ELSEWHERE):
        with pytest.raises(Forbidden) as caught:
            await gate.authorize(ann, TokenScope.READ, [key])
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
    assert details.asked == [[B], [ELSEWHERE]]
    denied = await gate.denied(ann, TokenScope.READ, [A, B, ELSEWHERE])
    assert {key: str(error) for key, error in denied.items()} == dict.fromkeys((B, ELSEWHERE), str(denied[B]))
    with pytest.raises(Forbidden, match="scope"):
        await gate.denied(ann, TokenScope.CANCEL, [B])


async def test_a_tag_that_is_taken_away_closes() -> None:
    details = Details({A: ANNS})
    gate, ann = auth(details), await caller_of(tags=["ann"])
    await gate.authorize(ann, TokenScope.READ, [A])
    details.known[A] = BOBS
    with pytest.raises(Forbidden):
        await gate.authorize(ann, TokenScope.READ, [A])


class TestTickets:
    tickets = Tickets([SECRET.encode()], CLOCK)

    def redeem(self, caller: Caller, *keys: TaskKey, **names: Any) -> Caller:
        return self.tickets.caller(self.tickets.mint(caller, keys, 60, **names).text)

    async def test_a_ticket_for_a_tag_never_shows_what_its_caller_could_not_read(self) -> None:
        ann = await caller_of("vapi/*", "qingbo/b", tags=["ann"])
        guest = self.redeem(ann, tags=["kids"])
        assert guest.covers(A, ANNS)
        assert not guest.covers(A, TaskDetails(tags=("kids",)))  # of others
        assert not guest.covers(A, TaskDetails(tags=("ann",)))  # the ticket is for `kids`
        assert guest.covers(ELSEWHERE, TaskDetails(tags=("kids",)))
        assert guest.covers(B, TaskDetails(tags=("kids",)))
        assert not guest.covers(B)
        assert guest.scopes == {TokenScope.READ}
        assert guest.own_tags == ()

    async def test_a_ticket_for_a_group_likewise(self) -> None:
        guest = self.redeem(await caller_of(tags=["ann"]), groups=["g"])
        assert guest.covers(A, TaskDetails(tags=("ann",), group="g"))
        assert not guest.covers(A, BOBS)
        assert not guest.covers(A, TaskDetails(tags=("ann",), group="h"))
        everything = self.redeem(await caller_of("*"), groups=["g"])
        assert everything.covers(A, BOBS)
        assert not everything.covers(A, ANNS)
        assert not everything.covers_all_of("qingbo")

    async def test_it_follows_what_it_names(self) -> None:
        guest = self.redeem(await caller_of("*"), A, tags=["kids"], groups=["g"])
        may = [
            guest.may_follow(Selection(kind, name, account))
            for kind in SelectionKind
            for name in ("kids", "g", "ann")
            for account in ("-", "other")
        ]
        assert may == [True, False, False, False, False, False, False, False, True, False, False, False]
        assert guest.covers(A)
        of_tasks = self.redeem(await caller_of("*"), A)
        assert not of_tasks.may_follow(Selection(SelectionKind.TAG, "kids"))
        assert (await caller_of("qingbo/a")).may_follow(Selection(SelectionKind.TAG, "kids"))

    async def test_a_task_that_only_a_tag_opened_closes_with_it(self) -> None:
        guest = self.redeem(await caller_of(tags=["ann"]), A)
        assert guest.covers(A, ANNS)
        assert not guest.covers(A, BOBS)
        assert not guest.covers(A)
        assert not guest.covers(B, ANNS)
        assert guest.rights.by_names
        by_ref = self.redeem(await caller_of("qingbo/a", tags=["ann"]), A)
        assert by_ref.covers(A)
        assert not by_ref.rights.by_names

    async def test_a_caller_without_the_scope_gets_none(self) -> None:
        with pytest.raises(Forbidden):
            self.tickets.mint(await caller_of("*", scope="submit"), [], 60, tags=["kids"])
        with pytest.raises(Forbidden):
            self.tickets.mint(await caller_of("qingbo/b"), [A], 60, tags=["kids"])

    async def test_what_does_not_fit_into_a_url_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="too many"):
            self.tickets.mint(await caller_of("*"), [], 60, tags=[f"{n:064}" for n in range(100)])
        refs = [f"qingbo/{n:0500}" for n in range(14)]  # of the token, within its own bound
        with pytest.raises(InvalidRequest, match="too many"):
            self.tickets.mint(
                Caller(
                    name="ann",
                    scopes=frozenset({TokenScope.READ}),
                    tasks=Grant(frozenset(refs)),
                    expires_at=None,
                ),
                [],
                60,
                tags=["kids"],
            )

    async def test_a_token_is_no_ticket_though_it_has_such_claims(self) -> None:
        query = b"ticket=" + token(tags=["a"], now=CLOCK.time()).encode()
        scope = {"type": "http", "method": "GET", "headers": [], "query_string": query}
        with pytest.raises(Unauthenticated):
            await auth(Details()).authenticate(HTTPConnection(scope), ticket=True)


words = st.sampled_from(["a", "b", "c"])
grants = st.none() | st.builds(
    Grant,
    st.frozensets(st.sampled_from(["qingbo/a", "qingbo/b", "vapi/a"])),
    st.frozensets(st.sampled_from(["qingbo", "vapi"])),
    st.frozensets(words),
)
details = st.builds(TaskDetails, tags=st.frozensets(words).map(tuple), group=st.none() | words)


@given(grants, st.frozensets(words), st.frozensets(words), details, st.sampled_from([A, B, ELSEWHERE]))
def test_a_ticket_opens_the_intersection(
    grant: Grant | None, tags: frozenset[str], groups: frozenset[str], known: TaskDetails, key: TaskKey
) -> None:
    parent = Caller(name="ann", scopes=frozenset({TokenScope.READ}), tasks=grant, expires_at=None)
    tickets = Tickets([SECRET.encode()], CLOCK)
    text = tickets.mint(parent, [], 60, tags=sorted(tags), groups=sorted(groups)).text
    guest = tickets.caller(text)
    selected = bool(tags & set(known.tags)) or known.group in groups
    assert guest.covers(key, known) == (selected and parent.covers(key, known))
    assert not guest.covers(key)
