"""Who is an operator: what webhooks and spend are for."""

from __future__ import annotations

from starlette.requests import Request

from bridge.auth.authenticator import NoAuth
from bridge.auth.caller import ANONYMOUS, Caller, TokenScope
from bridge.errors import Forbidden
from bridge.web.services import Services


class Operators:
    """Authenticates the requests of operators.

    Args:
        subject: What the routes are about, with its verb, as messages begin: `"webhooks are"`.
        admin: Whether these are the routes of the admin address.
    """

    def __init__(self, services: Services, subject: str, *, admin: bool) -> None:
        self._authenticator = services.operators
        self._origins = services.origins
        self._subject = subject
        # Where callers bring provider keys and no token is configured, nothing identifies an operator but the
        # admin address, which has to be a loopback address then (`config.checks`).
        by_token = not isinstance(services.operators, NoAuth)
        self._closed = not admin and not by_token and services.settings.auth != "none"

    async def authenticate(self, request: Request) -> Caller:
        """The operator that sent the request.

        Raises:
            Unauthenticated: There is no valid credential.
            Forbidden: It is none of an operator, or a page of a foreign origin asks.
        """
        if self._closed:
            raise Forbidden(
                f"{self._subject} for operators: use the admin address, or set token_issuer for their tokens"
            )
        caller = await self._authenticator.authenticate(request)
        caller.authorize(TokenScope.ADMIN)
        # What a page needs no credential for is protected by its origin alone, and `*` lists none: a page of
        # any site could have all results delivered to itself.
        allowed = self._origins.passes_csrf_check if caller is ANONYMOUS else self._origins.is_allowed
        if "origin" in request.headers and not allowed(request.headers):
            raise Forbidden(f"{self._subject} not for pages of this origin")
        return caller
