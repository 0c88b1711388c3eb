"""`GET /v1/spend`: what each caller spent today, for operators."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from bridge.errors import InvalidRequest
from bridge.spend.limits import SpendLimits
from bridge.web import params
from bridge.web.operators import Operators
from bridge.web.services import Services
from bridge.wire.document import timestamp
from bridge.wire.text import dumps

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class SpendRoutes:
    """What callers spent.

    Args:
        admin: Whether this is the route of the admin address.
    """

    def __init__(self, services: Services, *, admin: bool = False) -> None:
        self._spend = services.spend
        self._clock = services.clock
        self._operators = Operators(services, "spend is", admin=admin)

    async def spend(self, request: Request) -> Response:
        """Of each upstream with a limit: the callers of today, those that spent most first."""
        await self._operators.authenticate(request)
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
