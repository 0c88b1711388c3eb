"""`auth = "upstream-key"`: callers send their own key of the provider, in the header of that provider."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from starlette.requests import HTTPConnection

from bridge.auth.authenticator import CredentialAuthenticator, KnownDetails
from bridge.auth.caller import Caller, TokenScope
from bridge.auth.origins import Origins
from bridge.auth.ownership import OwnershipVerifier
from bridge.auth.tickets import Tickets
from bridge.clock import Clock
from bridge.core.task import TaskKey
from bridge.dialects.dialect import Dialect
from bridge.errors import BridgeError, Unauthenticated
from bridge.sources.accounts import AccountRegistry

MAX_KEY = 4096
AUTHORIZATION = "authorization"
USUAL_HEADERS = frozenset({AUTHORIZATION, "x-api-key"})

_PROXY_SCHEMES = frozenset({"basic", "digest", "negotiate"})  # credentials for a proxy in front of the bridge
_SCOPES = frozenset({TokenScope.READ, TokenScope.SUBMIT, TokenScope.CANCEL})
_SAMPLE_KEYS = ("one", "two")


class ProviderKeyAuth(CredentialAuthenticator):
    """Each key is its own account; the provider decides which tasks that account may see.

    Args:
        accounts: Keeps the keys, in memory only.
        ownership: Asks the provider whether it shows a task to an account.
        header_names: Lower-case names of the headers that may carry a key.
        limit_unverified: Called for a request whose key no provider has accepted yet; raises `LimitExceeded`.
    """

    credential_name = "an API key of the provider"

    def __init__(
        self,
        origins: Origins,
        clock: Clock,
        accounts: AccountRegistry,
        ownership: OwnershipVerifier,
        *,
        header_names: Iterable[str],
        limit_unverified: Callable[[HTTPConnection], None],
        tickets: Tickets | None = None,
        details: KnownDetails | None = None,
    ) -> None:
        super().__init__(origins, clock, tickets, details)
        self._accounts = accounts
        self._ownership = ownership
        self._header_names = sorted(header_names)
        self._limit_unverified = limit_unverified

    def read_header(self, connection: HTTPConnection) -> str | None:
        """The key, in whichever of the providers' headers it was sent."""
        keys = {key for name in self._header_names for key in _keys_in(connection, name)}
        if len(keys) > 1:
            raise Unauthenticated("more than one key was sent")
        return keys.pop() if keys else None

    async def identify(self, credential: str) -> Caller:
        """The account of the key. Whether the key is valid only the provider knows, task by task."""
        if len(credential) > MAX_KEY or not credential.isascii() or not credential.isprintable():
            raise Unauthenticated("malformed provider key")
        account = self._accounts.name(credential)
        return Caller(
            name=f"key-{account[:16]}", scopes=_SCOPES, tasks=None, expires_at=None, account=account
        )

    def admit(self, credential: str, connection: HTTPConnection) -> None:
        """Limit keys that no provider has accepted: an address that guesses keys is rejected."""
        if not self._accounts.is_verified(credential):
            self._limit_unverified(connection)
        # Only now: keys of requests above the limit must not fill the memory.
        self._accounts.register(credential)

    async def verify_ownership(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, BridgeError]:
        """The tasks the provider does not show to the account's key."""
        return await self._ownership.verify(keys)

    def is_shown(self, key: TaskKey) -> bool:
        """Whether the provider returned the task for the account's key lately."""
        return self._ownership.is_cached(key)

    def retain_key(self, caller: Caller, seconds: float) -> None:
        """Keep the caller's key while its tickets are valid: a ticket does not carry the key."""
        self._accounts.retain(caller.account, seconds)


def key_headers(dialects: Iterable[Dialect]) -> frozenset[str]:
    """The lower-case names of the headers in which these providers take their keys."""
    names = set(USUAL_HEADERS)
    for dialect in dialects:
        # headers that differ between two keys carry the key; the others are constant
        first, second = (dialect.auth_headers(key) for key in _SAMPLE_KEYS)
        names |= {name.lower() for name in first if first[name] != second[name]}
    return frozenset(names)


def _keys_in(connection: HTTPConnection, name: str) -> Iterator[str]:
    for value in connection.headers.getlist(name):
        text = value.strip()
        if name == AUTHORIZATION:
            scheme, space, rest = text.partition(" ")
            if scheme.lower() in _PROXY_SCHEMES:
                continue
            text = rest.strip() if space else text
        if text:
            yield text
