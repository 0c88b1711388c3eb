"""Callers' own provider keys: kept in memory only, each identified by its keyed hash.

Rule 1: a key is sent to the upstream whose tasks its caller names, and to no other.
Rule 2: two accounts share no watch, state or rate limit, even for the same task id; run times without names.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b

from bridge.clock import Clock
from bridge.core.task import OWN_ACCOUNT
from bridge.errors import InvalidRequest, Overloaded, Unauthenticated, UnknownUpstream
from bridge.sources.credentials import credential_of
from bridge.sources.upstream import Upstream

IDLE_SECONDS = 60.0
REFUSED_SECONDS = 60.0
REFUSED_SENTENCE = "the provider rejected this API key"

_NAME_BYTES = 16
_NEVER = float("-inf")


@dataclass(slots=True)
class _Account:
    """One key.

    Args:
        used_at: Monotonic seconds of its last use.
        verified: Whether an upstream ever accepted it.
        retained_until: Monotonic seconds until when it is kept even if unused.
        upstreams: The upstreams it was sent for, each with this key as credential.
    """

    key: str = field(repr=False)
    used_at: float
    verified: bool = False
    retained_until: float = 0.0
    upstreams: dict[str, Upstream] = field(default_factory=dict)


class AccountRegistry:
    """The accounts of callers' own keys, and each upstream with the key of an account as credential.

    Args:
        upstreams: As the operator configured them, by name; their own keys are never used here.
        secret: Key of the hash that names accounts; if it is kept, the names survive a restart.
        ownership_cache_seconds: How long an upstream's answer about a key is cached, accepted or rejected.
    """

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        clock: Clock,
        *,
        secret: bytes,
        ownership_cache_seconds: float,
    ) -> None:
        self.shared = False  # set where other bridges may have keys that this one has not
        self._upstreams = upstreams
        self._clock = clock
        self._secret = blake2b(secret, digest_size=blake2b.MAX_KEY_SIZE).digest()
        self._accounts: dict[str, _Account] = {}
        # As long as an earlier proof may count: a rejection has to outlive what it revokes.
        self._refusals_seconds = max(ownership_cache_seconds, REFUSED_SECONDS)
        self._refused_at: dict[tuple[str, str], float] = {}
        self._revoked: dict[tuple[str, str], None] = {}
        self.on_refused: Callable[[str, str], None] | None = None  # other replicas are to know
        self.on_refused_elsewhere: Callable[[], None] | None = None  # its watches end at once

    def __len__(self) -> int:
        return len(self._accounts)

    @property
    def names(self) -> list[str]:
        """The accounts whose keys are here now."""
        return list(self._accounts)

    def views(self, name: str) -> Iterator[Upstream]:
        """An upstream as each account sees it."""
        return (one.upstreams[name] for one in self._accounts.values() if name in one.upstreams)

    def accepts(self, name: str, account: str, shown_at: float) -> bool:
        """Whether it still proves ownership that an upstream showed a task to the account at `shown_at`.

        The key must be registered, and not have been rejected since.

        Args:
            shown_at: Monotonic seconds.
        """
        return account in self._accounts and shown_at > self._refused_at.get((name, account), _NEVER)

    def is_verified(self, key: str) -> bool:
        """Whether an upstream has accepted this key before."""
        entry = self._accounts.get(self._name(key))
        return entry is not None and entry.verified

    def name(self, key: str) -> str:
        """The name of a key's account, without keeping the key."""
        return self._name(key)

    def register(self, key: str) -> str:
        """Keep a key for as long as it is used; returns the name of its account."""
        account = self._name(key)
        now = self._clock.monotonic()
        self._accounts.setdefault(account, _Account(key, now)).used_at = now
        return account

    def retain(self, account: str, seconds: float) -> None:
        """Keep the key of an account for at least `seconds` from now, used or not."""
        entry = self._accounts.get(account)
        if entry is not None:
            entry.retained_until = max(entry.retained_until, self._clock.monotonic() + seconds)

    def mark_verified(self, account: str) -> None:
        """An upstream accepted the key."""
        if account in self._accounts:
            self._accounts[account].verified = True

    def upstream(self, name: str, account: str) -> Upstream:
        """An upstream with the key of the account as credential.

        Raises:
            UnknownUpstream: None of that name is configured.
            Unauthenticated: The key is no longer registered, is not a key of this provider, or the provider
                rejected it within the last minute.
            Overloaded: The key is not registered here, and may be at another bridge.
        """
        configured = self._upstreams.get(name)
        if configured is None:
            raise UnknownUpstream(f"no upstream {name[:40]!r} is configured")
        entry = self._accounts.get(account)
        if entry is None and self.shared:
            # A ticket of another bridge's caller. Not 401, after which an EventSource never reconnects: a
            # balancer that picks at random soon leads it to a bridge with the key.
            raise Overloaded("the provider key of this account is at another bridge", retry_after=1.0)
        if entry is None:
            raise Unauthenticated("the provider key of this account is no longer in memory; send it again")
        # Not sent again for a minute, or a client that retries would make the bridge send a rejected key in a
        # loop.
        if self._clock.monotonic() - self._refused_at.get((name, account), _NEVER) < REFUSED_SECONDS:
            raise Unauthenticated(REFUSED_SENTENCE)
        entry.used_at = self._clock.monotonic()
        view = entry.upstreams.get(name)
        if view is None:
            try:
                credential = credential_of(configured.dialect, entry.key, self._clock)
            except InvalidRequest:
                raise Unauthenticated("the credential is not a key of this provider") from None
            refused = partial(self.refuse, name, account)
            # The provider knows the callback address of this account, too.
            secret = configured.callback_secret
            secrets = [] if secret is None else [callback_secret(secret, account)]
            view = entry.upstreams[name] = configured.for_account(
                account, credential, refused=refused, secrets=secrets
            )
        return view

    def revoked(self) -> list[tuple[str, str]]:
        """Upstream and account of each key rejected since the last call."""
        revoked = list(self._revoked)
        self._revoked.clear()
        return revoked

    def evict(self, busy: Iterable[str]) -> list[str]:
        """Drop the keys that have not been used for a minute.

        Args:
            busy: Accounts with a watch; they count as used.

        Returns:
            The accounts whose keys were dropped.
        """
        now = self._clock.monotonic()
        for account in busy:
            if account in self._accounts:
                self._accounts[account].used_at = now
        idle = [
            account
            for account, entry in self._accounts.items()
            if now - entry.used_at >= IDLE_SECONDS and now >= entry.retained_until
        ]
        for account in idle:
            for view in self._accounts.pop(account).upstreams.values():
                # Its circuit may be open: the metric would show that for good.
                view.close()
        oldest = now - self._refusals_seconds
        self._refused_at = {key: at for key, at in self._refused_at.items() if at > oldest}
        return idle

    def _name(self, key: str) -> str:
        # A keyed hash: the name appears in callback addresses and in the journal, and must not be checkable
        # against a list of leaked keys.
        octets = key.encode("utf-8", "surrogatepass")
        return blake2b(octets, key=self._secret, digest_size=_NAME_BYTES).hexdigest()

    def refuse(self, name: str, account: str) -> None:
        """The provider rejected the key of an account: it is not sent again for a minute."""
        self._revoke(name, account)
        if self.on_refused is not None:
            self.on_refused(name, account)

    def refused_elsewhere(self, name: str, account: str) -> None:
        """As `refuse`: another replica has reported it."""
        self._revoke(name, account)
        if self.on_refused_elsewhere is not None:
            self.on_refused_elsewhere()

    def _revoke(self, name: str, account: str) -> None:
        self._refused_at[name, account] = self._clock.monotonic()
        self._revoked[name, account] = None


def callback_secret(secret: str, account: str) -> str:
    """The last part of an account's callback address: its name, and a MAC that shows the bridge issued it.

    Args:
        secret: The operator's callback secret of this upstream.
    """
    if account == OWN_ACCOUNT:
        return secret
    return f"{account}.{_mac(secret, account)}"


def called_account(secret: str, received: str) -> str | None:
    """The account a callback address belongs to; None when its secret is wrong. Compared in constant time."""
    account, dot, mac = received.partition(".")
    # As bytes: `compare_digest` raises for text that is not ASCII, and this text comes from outside.
    if hmac.compare_digest(received.encode(errors="surrogateescape"), secret.encode()):
        return OWN_ACCOUNT
    if dot and hmac.compare_digest(mac.encode(errors="surrogateescape"), _mac(secret, account).encode()):
        return account
    return None


def _mac(secret: str, account: str) -> str:
    message = f"callback of {account}".encode(errors="surrogatepass")
    return hmac.digest(secret.encode(), message, "sha256").hex()
