"""`POST /v1/groups/{group}/close`: nothing can be added to a group from then on, so it can be done."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.caller import TokenScope
from bridge.core.details import check_group
from bridge.core.selection import Selection, SelectionKind
from bridge.core.task import OWN_ACCOUNT
from bridge.errors import InvalidRequest
from bridge.web import params
from bridge.web.services import Services
from bridge.web.submit import check_write_request
from bridge.wire.text import dumps

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class GroupRoutes:
    """Closing groups."""

    def __init__(self, services: Services) -> None:
        self._authenticator = services.authenticator
        self._origins = services.origins
        self._groups = services.groups
        self._selections = services.selections
        self._limits = services.limits
        self._settings = services.settings

    async def close(self, request: Request) -> Response:
        """Close a group; what has become of the tasks that the caller may read. Idempotent."""
        check_write_request(self._origins, request.headers)
        caller = await self._authenticator.authenticate(request)
        caller.authorize(TokenScope.SUBMIT)
        name = check_group(request.path_params["group"])
        body = await self._limits.read_body(request, self._settings.max_body_bytes)
        if body.strip() and params.json_object(body):
            raise InvalidRequest("this request takes no body")
        group, rights = Selection(SelectionKind.GROUP, name, caller.account), caller.rights
        # Any text passes for a provider's key until the provider has shown a task to it: such a caller closes
        # only groups that have one, or each made-up key could leave closed groups behind.
        own = caller.account == OWN_ACCOUNT
        unrestricted = own and rights.tasks is None and rights.restriction is None
        deadline = await self._selections.check_may_close(group, rights, unrestricted=unrestricted)
        await self._groups.close(group, seconds=deadline)
        summary = await self._selections.summary(group, rights)
        fields = {
            "group": name,
            "closed": True,
            "counts": dict(summary.counts),
            "open": summary.unfinished,
        }
        return Response(dumps(fields), headers=HEADERS, media_type="application/json")
