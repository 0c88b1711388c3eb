"""`auth = "upstream-key"`: who calls is who holds a key of the provider, sent as it would be sent there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.requests import HTTPConnection

from bridge.auth.authenticator import Caller, TokenScope
from bridge.dialects.dialect import Dialect
from bridge.errors import Unauthenticated
from bridge.sources.accounts import AccountRegistry

MAX_KEY = 4096
AUTHORIZATION = "authorization"
USUAL_HEADERS = frozenset({AUTHORIZATION, "x-api-key"})

_OF_SOMEBODY_ELSE = frozenset({"basic", "digest", "negotiate"})  # what a proxy in front asks for
_MAY = frozenset({TokenScope.READ, TokenScope.SUBMIT, TokenScope.CANCEL})
_SAMPLES = ("one", "two")


class ProviderKeys:
    """Reads the key of a request, whichever of the providers' headers it stands in.

    Args:
        names: Lower-case names of those headers.
        try_key: Told of a request with a key that no provider took yet; raises when there are too many.
    """

    def __init__(
        self, accounts: AccountRegistry, names: Iterable[str], try_key: Callable[[HTTPConnection], None]
    ) -> None:
        self._accounts = accounts
        self._names = sorted(names)
        self._try_key = try_key

    def read(self, connection: HTTPConnection) -> str | None:
        """The key in the headers; None where there is none.

        Raises:
            Unauthenticated: There are two.
        """
        keys = {key for name in self._names for key in _keys(connection, name)}
        if len(keys) > 1:
            raise Unauthenticated("there are two keys, and it is not clear which one counts")
        return keys.pop() if keys else None

    def admit(self, key: str, connection: HTTPConnection) -> None:
        """Let a request in, unless its address tries one key after the other.

        Raises:
            LimitExceeded: It does.
        """
        if not self._accounts.is_verified(key):
            self._try_key(connection)

    async def caller(self, key: str) -> Caller:
        """Who the key speaks for: itself. What it is worth, the provider says of each task.

        Raises:
            Unauthenticated: It cannot be a key.
        """
        if len(key) > MAX_KEY or not key.isascii() or not key.isprintable():
            raise Unauthenticated("this is no key of a provider")
        account = self._accounts.enter(key)
        return Caller(name=f"key-{account[:16]}", scopes=_MAY, tasks=None, expires_at=None, account=account)

    def hold(self, account: str, seconds: float) -> None:
        """Keep the key of an account for so long, used or not."""
        self._accounts.hold(account, seconds)


def key_headers(dialects: Iterable[Dialect]) -> frozenset[str]:
    """The headers these providers take their keys in."""
    names = set(USUAL_HEADERS)
    for dialect in dialects:
        one, two = (dialect.auth_headers(sample) for sample in _SAMPLES)
        names |= {name.lower() for name in one if one[name] != two[name]}
    return frozenset(names)


def _keys(connection: HTTPConnection, name: str) -> Iterable[str]:
    for value in connection.headers.getlist(name):
        text = value.strip()
        if name == AUTHORIZATION:
            scheme, space, rest = text.partition(" ")
            if scheme.lower() in _OF_SOMEBODY_ELSE:
                continue
            text = rest.strip() if space else text
        if text:
            yield text
