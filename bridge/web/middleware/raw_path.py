"""Routing by the undecoded path, so that an encoded slash in a task id stays one."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class RawPathMiddleware:
    """Replaces the decoded path by the raw one; `params.EncodedConvertor` decodes after routing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on with the path still encoded."""
        raw = scope.get("raw_path")
        if raw is not None and scope["type"] in {"http", "websocket"}:
            scope["path"] = raw.decode("latin-1")
        await self._app(scope, receive, send)
