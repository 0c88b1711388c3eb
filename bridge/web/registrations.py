"""`PUT` and `DELETE` of a task: registering one that was submitted elsewhere, and forgetting an ended one."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.caller import NOT_COVERED_SENTENCE, Caller, TokenScope, map_credential_errors
from bridge.core.details import TaskDetails
from bridge.core.task import OWN_ACCOUNT, Status, TaskKey
from bridge.delivery.longpoll import etag
from bridge.errors import Forbidden, TaskNotFound
from bridge.watchers.registrar import Registrar
from bridge.web import params
from bridge.web.services import Services
from bridge.web.submit import check_write_request
from bridge.web.submit_details import (
    KEPT_HEADER,
    REGISTRATION_KEPT_HEADER,
    SubmitDetails,
    delivery_guarantee,
    webhook_answer,
)
from bridge.web.tasks import HEADERS, StateDocuments, links
from bridge.wire.document import PLAIN
from bridge.wire.text import dumps


class RegistrationRoutes:
    """Registering and forgetting tasks."""

    def __init__(self, services: Services) -> None:
        self._settings = services.settings
        self._journal = services.journal
        self._pool = services.pool
        self._subscriptions = services.subscriptions
        self._origins = services.origins
        self._limits = services.limits
        self._authenticator = services.authenticator
        self._details = SubmitDetails(services)
        self._documents = StateDocuments(services)
        replica = services.replica
        self._registrar = Registrar(
            services.pool,
            services.journal,
            services.clock,
            services.submitter,
            has_engine=lambda: replica is None or replica.connection.up,
        )

    async def register(self, request: Request) -> Response:
        """`PUT`: recorded before it is answered; the answer waits a moment for the first poll."""
        check_write_request(self._origins, request.headers)
        caller = await self._authenticator.authenticate(request)
        key = params.path_key(self._pool, request, caller.account)
        caller.authorize(TokenScope.SUBMIT)
        caller.authorize(TokenScope.READ)  # the answer is its state
        body = await self._limits.read_body(request, self._settings.max_body_bytes)
        details = self._details.registered(params.json_object(body) if body.strip() else {})
        known, before = await self._authorize(request, caller, key)
        details = caller.submit_details(details)
        await self._details.check_open(details, key.account, before=before.group)
        with map_credential_errors(caller):
            new = await self._registrar.register(key, details)
            # What proves that a task is shown to the caller's own key records it.
            new |= not known and key.account != OWN_ACCOUNT
            event = await self._subscriptions.read_or_poll(key, request.scope)
        kept = delivery_guarantee(caller)
        fields = {
            "state": orjson.Fragment(self._documents.write(event, PLAIN)),
            "links": links(key, params.root_path(request)),
            "kept": kept,
            **webhook_answer(details, caller),
        }
        headers = {**HEADERS, "ETag": etag(event), REGISTRATION_KEPT_HEADER: kept}
        if details.webhook is not None:
            headers[KEPT_HEADER] = kept
        if new:
            headers["Location"] = links(key, params.root_path(request))["self"]
        return Response(dumps(fields), 201 if new else 200, headers, media_type="application/json")

    async def _authorize(self, request: Request, caller: Caller, key: TaskKey) -> tuple[bool, TaskDetails]:
        """Whether the task is known, and by what, if the caller may read it.

        Raises:
            EngineUnavailable: The engine that this bridge shares with others is away.
            Forbidden: The credential does not cover it.
            TaskNotFound: The provider does not show it to the caller's own key.
            LimitExceeded: The caller or its address causes too many calls.
        """
        (known,), (before,) = await self._journal.latest([key]), await self._journal.details_of([key])
        if not caller.covers(key, before):
            raise Forbidden(NOT_COVERED_SENTENCE)
        self._registrar.check_engine()
        if known is None or not known.state.status.final:
            self._limits.check_registration(request, caller.name, new=known is None)
        for error in (await self._authenticator.verify_ownership([key])).values():
            raise error
        return known is not None, before

    async def forget(self, request: Request) -> Response:
        """`DELETE`: the task leaves every list, and a later request polls the provider again."""
        check_write_request(self._origins, request.headers)
        caller = await self._authenticator.authenticate(request)
        key = params.path_key(self._pool, request, caller.account)
        await self._authenticator.check(caller, TokenScope.CANCEL, [key])
        await self._limits.read_body(request, self._settings.max_body_bytes)
        for error in (await self._authenticator.verify_ownership([key])).values():
            # A 404 is why the task is lost, and the answer of a provider that knows the caller's key: what
            # was recorded for it is the caller's to delete.
            if not (isinstance(error, TaskNotFound) and await self._is_lost(key)):
                raise error
        await self._registrar.forget(key)
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    async def _is_lost(self, key: TaskKey) -> bool:
        (known,) = await self._journal.latest([key])
        return known is not None and known.state.status is Status.LOST
