"""How much of something each party holds at once, and which watches without a viewer are one too many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar


class Party(NamedTuple):
    """Whose request it is.

    Args:
        caller: None until it is authenticated.
        address: None where the address says nothing about the client.
    """

    caller: str | None = None
    address: str | None = None


class Quota:
    """A maximum in total, per caller and per address; 0 for no limit.

    Args:
        oversize: Whether something larger than a whole maximum is let through alone, because it could never
            be served otherwise.
    """

    def __init__(
        self, total: int = 0, per_caller: int = 0, per_address: int = 0, *, oversize: bool = False
    ) -> None:
        self._limits = total, per_caller, per_address
        self._off = not any(self._limits)
        self._oversize = oversize
        self.total = 0
        self._of_caller: dict[Hashable, int] = {}
        self._of_address: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._of_caller) + len(self._of_address)

    def exceeded(self, party: Party, amount: int = 1) -> str | None:
        """Whose maximum that is exceeded by `amount` more: `on this bridge`, `per caller`, `per address`."""
        if self._off:
            return None
        total, per_caller, per_address = self._limits
        if self._is_full(self.total, amount, total):
            return "on this bridge"
        if party.caller is not None:
            held = self._of_caller.get(party.caller, 0)
            if self._is_full(held, amount, per_caller):
                return "per caller"
        if party.address is not None:
            held = self._of_address.get(party.address, 0)
            if self._is_full(held, amount, per_address):
                return "per address"
        return None

    def add(self, party: Party, amount: int = 1) -> None:
        """Count `amount` more, a negative one less; the maximum is not checked."""
        self.total += amount
        if self._off:
            return
        # Only what a limit reads is counted, and no count of zero is kept: the dicts must not grow with every
        # address ever seen.
        if party.caller is not None and self._limits[1]:
            _count(self._of_caller, party.caller, amount)
        if party.address is not None and self._limits[2]:
            _count(self._of_address, party.address, amount)

    def _is_full(self, held: int, amount: int, limit: int) -> bool:
        return 0 < limit < held + amount and (held > 0 or not self._oversize)


Key = TypeVar("Key", bound=Hashable)


class Lingering(Generic[Key]):
    """Watches without a viewer, by the party that left them last.

    Args:
        total: The most of them; 0 for no limit, here and below.
    """

    def __init__(self, total: int = 0, per_caller: int = 0, per_address: int = 0) -> None:
        self._limits = total, per_caller, per_address
        self._owners: OrderedDict[Key, Party] = OrderedDict()
        self._of_caller: dict[str, OrderedDict[Key, None]] = {}
        self._of_address: dict[str, OrderedDict[Key, None]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, key: Key, party: Party) -> list[Key]:
        """The last viewer of `key` has left.

        Returns:
            The watches to end now: the oldest of the party that has too many. They are removed.
        """
        self.remove(key)
        total, per_caller, per_address = self._limits
        self._owners[key] = party
        groups: list[tuple[OrderedDict[Key, Party] | OrderedDict[Key, None], int]] = []
        if party.caller is not None and per_caller:
            mine = self._of_caller.setdefault(party.caller, OrderedDict())
            mine[key] = None
            groups.append((mine, per_caller))
        if party.address is not None and per_address:
            mine = self._of_address.setdefault(party.address, OrderedDict())
            mine[key] = None
            groups.append((mine, per_address))
        groups.append((self._owners, total))
        ended: list[Key] = []
        for group, limit in groups:
            while limit and len(group) > limit:
                oldest = next(iter(group))
                self.remove(oldest)
                ended.append(oldest)
        return ended

    def remove(self, key: Key) -> None:
        """It has a viewer again, or has ended. Idempotent."""
        party = self._owners.pop(key, None)
        if party is None:
            return
        _discard(self._of_caller, party.caller, key)
        _discard(self._of_address, party.address, key)


def _count(counts: dict[Hashable, int], key: Hashable, amount: int) -> None:
    count = counts.get(key, 0) + amount
    if count > 0:
        counts[key] = count
    else:
        counts.pop(key, None)


def _discard(groups: dict[str, OrderedDict[Key, None]], name: str | None, key: Key) -> None:
    group = groups.get(name) if name is not None else None
    if group is not None and name is not None:
        group.pop(key, None)
        if not group:
            del groups[name]
