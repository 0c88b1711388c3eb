"""Callers' own provider keys: in memory only, each known by the keyed hash of it.

Rule 1: a key goes to the upstream whose tasks its caller names, and nowhere else.
Rule 2: two accounts share no watch, no state, no budget and no learned run time, even with the same task id.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b

from bridge.clock import Clock
from bridge.core.task import OWN_ACCOUNT
from bridge.errors import InvalidRequest, Unauthenticated, UnknownUpstream
from bridge.sources.credentials import credential_of
from bridge.sources.upstream import Upstream

IDLE_SECONDS = 60.0
REFUSED_SECONDS = 60.0
REFUSED_SENTENCE = "the upstream refuses this key"

_NAME_BYTES = 16
_NEVER = float("-inf")


@dataclass(slots=True)
class _Account:
    """One key.

    Args:
        proven: Whether an upstream ever took it.
        held_until: Monotonic seconds until when it is kept, used or not.
        upstreams: As the key sees them, those it was brought for.
    """

    key: str = field(repr=False)
    used_at: float
    proven: bool = False
    held_until: float = 0.0
    upstreams: dict[str, Upstream] = field(default_factory=dict)


class AccountRegistry:
    """Who brought a key, and each upstream as that key sees it.

    Args:
        upstreams: As the operator configured them, by name; their own keys are never used here.
        secret: Accounts are named with it; the same one gives a key the same name after a restart.
        ownership_cache_seconds: How long an upstream's answer about a key is cached, accepted or refused.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        clock: Clock,
        *,
        secret: bytes,
        ownership_cache_seconds: float,
    ) -> None:
        self._own = upstreams
        self._clock = clock
        self._secret = blake2b(secret, digest_size=blake2b.MAX_KEY_SIZE).digest()
        self._accounts: dict[str, _Account] = {}
        self._kept_seconds = max(ownership_cache_seconds, REFUSED_SECONDS)
        self._refused_at: dict[tuple[str, str], float] = {}
        self._expelled: dict[tuple[str, str], None] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def accepts(self, name: str, account: str, shown_at: float) -> bool:
        """Whether what an upstream showed an account at `shown_at` (monotonic seconds) still says something.

        The key must be here, and not have been refused since.
        """
        return account in self._accounts and shown_at > self._refused_at.get((name, account), _NEVER)

    def is_verified(self, key: str) -> bool:
        """Whether an upstream has taken this key before."""
        here = self._accounts.get(self._name(key))
        return here is not None and here.proven

    def enter(self, key: str) -> str:
        """Keep a key for as long as it is used; the account it stands for."""
        account = self._name(key)
        here = self._accounts.setdefault(account, _Account(key, self._clock.monotonic()))
        here.used_at = self._clock.monotonic()
        return account

    def hold(self, account: str, seconds: float) -> None:
        """Keep the key of an account for so long at least."""
        here = self._accounts.get(account)
        if here is not None:
            here.held_until = max(here.held_until, self._clock.monotonic() + seconds)

    def prove(self, account: str) -> None:
        """An upstream took the key."""
        if account in self._accounts:
            self._accounts[account].proven = True

    def upstream(self, name: str, account: str) -> Upstream:
        """An upstream as the account sees it.

        Raises:
            UnknownUpstream: None of that name is configured.
            Unauthenticated: The key is not here any more, is no key of this provider, or was refused by it a
                moment ago.
        """
        own = self._own.get(name)
        if own is None:
            raise UnknownUpstream(f"no upstream {name[:40]!r} is configured")
        here = self._accounts.get(account)
        if here is None:
            raise Unauthenticated("send the key of the provider again")
        if self._clock.monotonic() - self._refused_at.get((name, account), _NEVER) < REFUSED_SECONDS:
            raise Unauthenticated(REFUSED_SENTENCE)
        here.used_at = self._clock.monotonic()
        view = here.upstreams.get(name)
        if view is None:
            view = here.upstreams[name] = self._view(own, account, here.key)
        return view

    def revoked(self) -> list[tuple[str, str]]:
        """Upstream and account of the keys that were refused since the last call."""
        gone = list(self._expelled)
        self._expelled.clear()
        return gone

    def sweep(self, busy: Iterable[str]) -> list[str]:
        """Let go of the keys nobody uses.

        Args:
            busy: Accounts that are needed, whoever asks.

        Returns:
            The accounts whose keys are gone.
        """
        now = self._clock.monotonic()
        for account in busy:
            if account in self._accounts:
                self._accounts[account].used_at = now
        idle = [
            name
            for name, here in self._accounts.items()
            if now - here.used_at >= IDLE_SECONDS and now >= here.held_until
        ]
        for account in idle:
            for view in self._accounts.pop(account).upstreams.values():
                view.part()
        kept = now - self._kept_seconds
        self._refused_at = {place: at for place, at in self._refused_at.items() if at > kept}
        return idle

    def _name(self, key: str) -> str:
        octets = key.encode("utf-8", "surrogatepass")
        return blake2b(octets, key=self._secret, digest_size=_NAME_BYTES).hexdigest()

    def _view(self, own: Upstream, account: str, key: str) -> Upstream:
        try:
            credential = credential_of(own.dialect, key, self._clock)
        except InvalidRequest:
            raise Unauthenticated("this is no key of that provider") from None
        return own.for_account(account, credential, refused=partial(self._refuse, own.name, account))

    def _refuse(self, name: str, account: str) -> None:
        """The upstream takes this key no more: not asked with it for a while, and its viewers are to go."""
        self._refused_at[name, account] = self._clock.monotonic()
        self._expelled[name, account] = None


def callback_secret(secret: str, account: str) -> str:
    """What stands in the callback address of an account: its name, and the proof that we gave it out.

    Args:
        secret: The operator's own of this upstream.
    """
    if account == OWN_ACCOUNT:
        return secret
    return f"{account}.{_seal(secret, account)}"


def called_account(secret: str, given: str) -> str | None:
    """Whose callback came; None where the secret is wrong. Compared in constant time."""
    account, dot, seal = given.partition(".")
    octets = given.encode(errors="surrogateescape")
    if hmac.compare_digest(octets, secret.encode()):
        return OWN_ACCOUNT
    if dot and hmac.compare_digest(seal.encode(errors="surrogateescape"), _seal(secret, account).encode()):
        return account
    return None


def _seal(secret: str, account: str) -> str:
    about = f"callback of {account}".encode(errors="surrogatepass")
    return hmac.digest(secret.encode(), about, "sha256").hex()
