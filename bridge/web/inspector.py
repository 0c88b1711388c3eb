"""The inspector: a page that lists the watched tasks, and the two routes that only this page needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from itertools import islice

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from bridge import __version__
from bridge.auth.caller import Caller, TokenScope
from bridge.core.task import Status, TaskKey
from bridge.delivery.handoff import on_close
from bridge.delivery.sse import head
from bridge.errors import Forbidden, LimitExceeded
from bridge.watchers.watcher import Watcher
from bridge.web.services import Services
from bridge.web.static_files import StaticFile, StaticFolder
from bridge.wire import sse
from bridge.wire.document import timestamp
from bridge.wire.formats import SseFormat
from bridge.wire.text import dumps

MAX_LISTED = 200
MAX_SCANNED = 5_000  # about 5 ms of the event loop
MAX_SELF_TESTS = 8
BEATS = 10
BEAT_SECONDS = 0.5
MAX_SILENCE_SECONDS = 60.0

# Results are served by any host that the provider names, and are images and audio here, never code: img-src
# and media-src allow all hosts, and the page decides what it loads. All else must come from the bridge.
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
    """`/` and `/inspector/...`.

    The page itself needs no credential: it contains no data. Everything it shows comes from the bridge's
    routes, with the credential of the person who uses it.
    """

    def __init__(self, services: Services) -> None:
        self._settings = services.settings
        self._clock = services.clock
        self._pool = services.pool
        self._subscriptions = services.subscriptions
        self._origins = services.origins
        self._limits = services.limits
        self._authenticator = services.authenticator
        # the self-test is as silent as a stream can be, to find proxies that close idle connections
        self._silence = min(services.settings.keepalive_seconds, MAX_SILENCE_SECONDS)
        self._self_tests = 0
        self.page = StaticFile("inspector.html", PAGE_HEADERS)
        self.files = StaticFolder("inspector", PAGE_HEADERS)

    async def tasks(self, request: Request) -> Response:
        """`GET /inspector/tasks`: the newest watched tasks the caller may read, and the caller's rights."""
        caller = await self._authenticate(request)
        watchers = list(islice(self._readable(caller), MAX_LISTED + 1))
        submits = [
            name
            for name in self._pool.upstreams
            if TokenScope.SUBMIT in caller.scopes and caller.covers_all_of(name)
        ]
        fields = {
            "tasks": [_summary(watcher) for watcher in watchers[:MAX_LISTED]],
            "more": len(watchers) > MAX_LISTED,
            "caller": {
                "scopes": sorted(caller.scopes),
                "submits": submits,
                "expires_at": timestamp(caller.expires_at),
            },
            "bridge": {
                "version": __version__,
                "keepalive_seconds": self._silence,
                "max_tasks_per_connection": self._settings.max_tasks_per_connection,
            },
        }
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return Response(dumps(fields), headers=headers, media_type="application/json")

    async def pulse(self, request: Request) -> Response:
        """`GET /inspector/pulse`: the self-test stream, whose blocks carry the time they were sent.

        Ten beats, then the longest silence a stream may have, then `end`. From the times at which the blocks
        arrive, the page can detect whether a proxy buffers the stream or closes idle connections.
        """
        await self._authenticate(request)
        self._limits.open_stream(request)
        if self._self_tests >= MAX_SELF_TESTS:
            raise LimitExceeded("too many self-tests are running", retry_after=self._silence)
        self._self_tests += 1
        on_close(request.scope, self._self_test_ended)
        headers = dict(head(SseFormat).headers)
        headers.pop("content-length", None)
        return StreamingResponse(self._beats(), headers=headers)

    async def _authenticate(self, request: Request) -> Caller:
        # CORS may allow other pages to read tasks they can name; the list of all tasks is for this page only
        if "origin" in request.headers and not self._origins.passes_csrf_check(request.headers):
            raise Forbidden("this route is for the bridge's own page")
        caller = await self._authenticator.authenticate(request)
        caller.authorize(TokenScope.READ)
        return caller

    def _readable(self, caller: Caller) -> Iterable[Watcher]:
        """The watches the caller may read, newest first; at most `MAX_SCANNED` are examined."""
        grant = caller.tasks
        if grant is None or grant.upstreams:
            candidates: Iterable[Watcher | None] = islice(self._pool.newest(), MAX_SCANNED)
        else:
            candidates = (self._pool.watcher(TaskKey.parse(ref)) for ref in sorted(grant.refs))
        return (watcher for watcher in candidates if watcher is not None and caller.covers(watcher.key))

    async def _beats(self) -> AsyncIterator[bytes]:
        started_at = self._clock.monotonic()
        yield b": ok\n"
        for number in range(BEATS):
            await self._sleep_until(started_at + number * BEAT_SECONDS)
            yield sse.encode(self._beat(number, started_at))
        await self._sleep_until(self._clock.monotonic() + self._silence)
        yield sse.encode(self._beat(BEATS, started_at), event="end")

    def _beat(self, number: int, started_at: float) -> bytes:
        elapsed = round((self._clock.monotonic() - started_at) * 1000)
        return dumps({"beat": number, "of": BEATS, "elapsed_ms": elapsed})

    async def _sleep_until(self, moment: float) -> None:
        """Sleep in short steps: a self-test must not delay the shutdown."""
        while self._subscriptions.closed is None and (left := moment - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left, BEAT_SECONDS))

    def _self_test_ended(self) -> None:
        self._self_tests -= 1


def _summary(watcher: Watcher) -> dict[str, object]:
    """One row of the table; the page fetches the whole state on demand."""
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
