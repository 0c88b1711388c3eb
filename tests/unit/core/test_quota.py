"""Quotas and lingering watches against a model that keeps everything in lists."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.quota import Lingering, Party, Quota

PARTIES = st.builds(
    Party, st.sampled_from([None, "a", "b"]), st.sampled_from([None, "192.0.2.1", "192.0.2.2"])
)


@given(
    st.tuples(st.integers(0, 9), st.integers(0, 6), st.integers(0, 6)),
    st.booleans(),
    st.lists(st.tuples(PARTIES, st.integers(1, 8), st.booleans()), max_size=60),
)
def test_no_quota_is_ever_exceeded_and_nothing_is_left_behind(limits, oversize, steps):
    quota = Quota(*limits, oversize=oversize)
    held: list[tuple[Party, int]] = []

    def sums(party: Party) -> list[int]:
        return [
            sum(amount for _, amount in held),
            sum(amount for one, amount in held if party.caller is not None and one.caller == party.caller),
            sum(amount for one, amount in held if party.address is not None and one.address == party.address),
        ]

    for party, amount, comes in steps:
        if not comes and held:
            old, size = held.pop(amount % len(held))
            quota.add(old, -size)
            continue
        known = [True, party.caller is not None, party.address is not None]
        over = [
            is_known and limit and before + amount > limit and (before > 0 or not oversize)
            for is_known, limit, before in zip(known, limits, sums(party), strict=True)
        ]
        assert (quota.exceeded(party, amount) is not None) == any(over)
        if not any(over):
            quota.add(party, amount)
            held.append((party, amount))
        assert quota.total == sum(size for _, size in held)
    for party, size in held:
        quota.add(party, -size)
    assert (quota.total, len(quota)) == (0, 0)


@given(
    st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 4)),
    st.lists(st.tuples(st.integers(0, 12), PARTIES, st.booleans()), max_size=80),
)
def test_only_the_oldest_watches_of_whoever_leaves_too_many_end_early(limits, steps):
    lingering: Lingering[int] = Lingering(*limits)
    model: dict[int, Party] = {}
    total, per_caller, per_address = limits
    for key, party, leaves in steps:
        model.pop(key, None)
        if not leaves:
            lingering.remove(key)
            continue
        model[key] = party
        ended = lingering.add(key, party)
        for one in ended:
            groups = [(list(model), total)]
            if party.caller is not None:
                groups.append(([key for key, own in model.items() if own.caller == party.caller], per_caller))
            if party.address is not None:
                groups.append(
                    ([key for key, own in model.items() if own.address == party.address], per_address)
                )
            assert one in {group[0] for group, limit in groups if limit and len(group) > limit}
            model.pop(one)
        assert len(lingering) == len(model)
        assert not total or len(model) <= total
        for caller in ("a", "b"):
            assert not per_caller or sum(owner.caller == caller for owner in model.values()) <= per_caller
        for address in ("192.0.2.1", "192.0.2.2"):
            assert not per_address or sum(owner.address == address for owner in model.values()) <= per_address
    for key in list(model):
        lingering.remove(key)
    assert (len(lingering), lingering._of_caller, lingering._of_address) == (0, {}, {})


def test_who_leaves_watches_behind_ends_its_own():
    lingering: Lingering[str] = Lingering(100, 0, 2)
    stranger, other = Party(None, "192.0.2.1"), Party(None, "192.0.2.2")
    assert lingering.add("good", other) == []
    assert [lingering.add(f"random-{number}", stranger) for number in range(4)] == [
        [],
        [],
        ["random-0"],
        ["random-1"],
    ]
