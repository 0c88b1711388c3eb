"""`GET /v1/spend`: what each caller spent today, for operators."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.authenticator import NoAuth
from bridge.auth.caller import ANONYMOUS, TokenScope
from bridge.errors import Forbidden, InvalidRequest
from bridge.spend.limits import SpendLimits
from bridge.web import params
from bridge.web.services import Services
from bridge.wire.document import timestamp
from bridge.wire.text import dumps

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_CLOSED_SENTENCE = "spend is for operators: use the admin address, or set token_issuer for their tokens"


class SpendRoutes:
    """What callers spent.

    Args:
        admin: Whether this is the route of the admin address.
    """

    def __init__(self, services: Services, *, admin: bool = False) -> None:
        self._spend = services.spend
        self._clock = services.clock
        self._origins = services.origins
        self._authenticator = services.operators
        # As for webhooks: where callers bring provider keys and no token is configured, nothing identifies an
        # operator but the admin address.
        by_token = not isinstance(services.operators, NoAuth)
        self._closed = not admin and not by_token and services.settings.auth != "none"

    async def spend(self, request: Request) -> Response:
        """Of each upstream with a limit: the callers of today, those that spent most first."""
        if self._closed:
            raise Forbidden(_CLOSED_SENTENCE)
        caller = await self._authenticator.authenticate(request)
        caller.authorize(TokenScope.ADMIN)
        foreign = "origin" in request.headers and not self._origins.passes_csrf_check(request.headers)
        if caller is ANONYMOUS and foreign:
            raise Forbidden("pages of this origin may not read what callers spend")
        unknown = sorted(params.query(request).keys() - {"upstream"})
        if unknown:
            raise InvalidRequest(f"no such parameter: {unknown[0][:80]!r}; known: upstream")
        wanted = params.query(request).get("upstream")
        spend = self._spend
        now = self._clock.time()
        fields = {
            "day": spend.day if spend is not None else None,
            "resets_at": timestamp(now + spend.seconds_left) if spend is not None else None,
            "upstreams": await spend_of_callers(spend, wanted) if spend is not None else {},
        }
        return Response(dumps(fields), headers=HEADERS, media_type="application/json")


async def spend_of_callers(spend: SpendLimits, wanted: str | None = None) -> dict[str, object]:
    """What the callers of today spent, by upstream.

    Args:
        wanted: Only of this upstream; None for all.

    Raises:
        JournalError: It cannot be read.
    """
    found: dict[str, object] = {}
    for name, limit in spend.limits.items():
        if wanted not in (None, name):
            continue
        callers = await spend.spent(name)
        most = limit.amount if limit.amount < float("inf") else None
        found[name] = {
            "unit": limit.unit or None,
            "limit": most,
            "used": sum(one.used for one in callers),
            "callers": [
                {
                    "caller": one.caller,
                    "used": one.used,
                    "left": None if most is None else max(most - one.used, 0.0),
                }
                for one in callers
            ],
        }
    return found
