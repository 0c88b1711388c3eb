"""The inspector: a page that shows what the bridge does, and the two routes only that page needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from itertools import islice

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from bridge import __version__
from bridge.auth.authenticator import Authenticator, Caller, TokenScope
from bridge.auth.origins import Origins
from bridge.core.task import Status, TaskKey
from bridge.delivery.handoff import on_close
from bridge.delivery.sse import head
from bridge.delivery.subscriptions import Subscriptions
from bridge.errors import Forbidden, LimitExceeded
from bridge.watchers.watcher import Watcher
from bridge.web.limits.limits import Limits
from bridge.web.static_files import StaticFile, StaticFolder
from bridge.wire import sse
from bridge.wire.document import timestamp
from bridge.wire.frames import Transport

MAX_LISTED = 200
MAX_SCANNED = 5_000  # about 5 ms
MAX_PULSES = 8
BEATS = 10
BEAT_SECONDS = 0.5
MAX_SILENCE_SECONDS = 60.0

# Results live at whatever host the provider names, and are pictures and sounds here, never code: img-src and
# media-src are wide, the page decides what it loads. All else comes from the bridge, or not at all.
POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' https: http: data:",
    "media-src https: http: data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(POLICY),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class InspectorRoutes:
    """`/` and what is below `/inspector/`.

    The page itself is for everybody: it holds nothing. What it shows comes from the bridge's routes, with the
    credential of whoever looks.

    Args:
        keepalive_seconds: The longest a stream is silent, which the self-test imitates.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        origins: Origins,
        limits: Limits,
        authenticator: Authenticator,
        *,
        keepalive_seconds: float,
    ) -> None:
        self._subscriptions = subscriptions
        self._origins = origins
        self._limits = limits
        self._authenticator = authenticator
        self._silence = min(keepalive_seconds, MAX_SILENCE_SECONDS)
        self._pulses = 0
        self.page = StaticFile("inspector.html", PAGE_HEADERS)
        self.files = StaticFolder("inspector", PAGE_HEADERS)

    async def tasks(self, request: Request) -> Response:
        """`GET /inspector/tasks`: the newest watched tasks that the caller may read, and what they may do."""
        caller = await self._admit(request)
        found = list(islice(self._watched(caller), MAX_LISTED + 1))
        return _json(
            {
                "tasks": [_summary(watcher) for watcher in found[:MAX_LISTED]],
                "more": len(found) > MAX_LISTED,
                "caller": {
                    "scopes": sorted(caller.scopes),
                    "submits": self._submits(caller),
                    "expires_at": timestamp(caller.expires_at),
                },
                "bridge": {
                    "version": __version__,
                    "keepalive_seconds": self._silence,
                    "max_tasks_per_connection": self._subscriptions.settings.max_tasks_per_connection,
                },
            }
        )

    async def pulse(self, request: Request) -> Response:
        """`GET /inspector/pulse`: a stream that says when each of its blocks left.

        Ten beats, then as much silence as a stream may have, then `end`. Whoever knows when the blocks came
        knows what stands between.
        """
        await self._admit(request)
        self._limits.stream(request)
        if self._pulses >= MAX_PULSES:
            raise LimitExceeded("enough self-tests are running", retry_after=self._silence)
        self._pulses += 1
        on_close(request.scope, self._pulse_ended)
        headers = dict(head(Transport.SSE).headers)
        headers.pop("content-length", None)
        return StreamingResponse(self._beats(), headers=headers)

    async def _admit(self, request: Request) -> Caller:
        _check_own(self._origins, request.headers)
        caller = await self._authenticator.authenticate(request)
        caller.authorize(TokenScope.READ)
        return caller

    def _watched(self, caller: Caller) -> Iterable[Watcher]:
        """The newest first, and no more looked through than a moment allows."""
        pool, grant = self._subscriptions.pool, caller.tasks
        if grant is None or grant.upstreams:
            return (one for one in islice(pool.newest(), MAX_SCANNED) if caller.covers(one.key))
        named = (pool.watcher(TaskKey.parse(ref)) for ref in sorted(grant.refs))
        return (one for one in named if one is not None and caller.covers(one.key))

    def _submits(self, caller: Caller) -> list[str]:
        if TokenScope.SUBMIT not in caller.scopes:
            return []
        return [name for name in self._subscriptions.pool.upstreams if caller.covers_all_of(name)]

    async def _beats(self) -> AsyncIterator[bytes]:
        began = self._subscriptions.clock.monotonic()
        yield b": ok\n"
        for number in range(BEATS):
            await self._until(began + number * BEAT_SECONDS)
            yield sse.encode(self._beat(number, began))
        await self._until(self._subscriptions.clock.monotonic() + self._silence)
        yield sse.encode(self._beat(BEATS, began), event="end")

    def _beat(self, number: int, began: float) -> bytes:
        elapsed = round((self._subscriptions.clock.monotonic() - began) * 1000)
        return orjson.dumps({"beat": number, "of": BEATS, "elapsed_ms": elapsed})

    async def _until(self, moment: float) -> None:
        """Wait, but never keep a bridge that wants to end."""
        while (
            left := moment - self._subscriptions.clock.monotonic()
        ) > 0 and self._subscriptions.closed is None:
            await self._subscriptions.clock.sleep(min(left, BEAT_SECONDS))

    def _pulse_ended(self) -> None:
        self._pulses -= 1


def _check_own(origins: Origins, headers: Headers) -> None:
    """Whoever may read a task it names is not thereby told the names of all.

    Raises:
        Forbidden: A page of another origin asks.
    """
    if "origin" in headers and not origins.own(headers):
        raise Forbidden("this is for the bridge's own page")


def _summary(watcher: Watcher) -> dict[str, object]:
    """One row of a table; the whole state is one request away."""
    state = watcher.watch.known
    if state is None:
        return {"task": watcher.key.ref, "status": Status.UNKNOWN, "viewers": watcher.viewers}
    return {
        "task": watcher.key.ref,
        "status": state.status,
        "progress": state.progress,
        "eta_seconds": state.eta_seconds,
        "model": state.model,
        "created_at": timestamp(state.created_at),
        "changed_at": timestamp(state.changed_at),
        "source": state.source,
        "viewers": watcher.viewers,
    }


def _json(fields: dict[str, object]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(orjson.dumps(fields), headers=headers, media_type="application/json")
