"""The inspector: a page that lists the newest tasks, and the two routes that only this page needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import blake2s

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from bridge import __version__
from bridge.auth.caller import Caller, TokenScope
from bridge.core.details import check_group
from bridge.core.task import OWN_ACCOUNT
from bridge.delivery.handoff import on_close
from bridge.delivery.sse import head
from bridge.errors import Forbidden, LimitExceeded
from bridge.sources.upstream import Upstream, UpstreamState
from bridge.web.listing import TaskListing
from bridge.web.services import Services
from bridge.web.static_files import StaticFile, StaticFolder, has_tag
from bridge.wire import sse
from bridge.wire.document import timestamp
from bridge.wire.formats import SseFormat
from bridge.wire.text import dumps

MAX_SELF_TESTS = 8
BEATS = 10
BEAT_SECONDS = 0.5
MAX_SILENCE_SECONDS = 60.0

# Results come through the bridge, or where it cannot get one from any host that the provider names. They are
# media here, never code: img-src and media-src allow all hosts, and the page decides what it loads. All else
# must come from the bridge.
POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' https: http: data:",
    "media-src 'self' https: http: data:",
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

    Args:
        operations_apart: Whether `/status` is on another address than this page.
    """

    def __init__(self, services: Services, *, operations_apart: bool = False) -> None:
        self._operations_apart = operations_apart
        self._listing = TaskListing(services.journal, services.pool, services.clock, services.workers)
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
        """`GET /inspector/tasks`: the newest tasks the caller may read, and what else the page shows."""
        caller = await self._authenticate(request)
        word = request.query_params.get("word", "")
        rows, more = await self._listing.of(
            caller, self._authenticator.is_shown, check_group(word, called="a tag or group") if word else ""
        )
        submits = [name for name in self._pool.upstreams if caller.may_submit(name)]
        fields = {
            "tasks": [orjson.Fragment(row.text) for row in rows],
            "more": more,
            "upstreams": self._upstreams(caller),
            "caller": {
                "scopes": sorted(caller.scopes),
                "submits": submits,
                "expires_at": timestamp(caller.expires_at),
            },
            "bridge": {
                "version": __version__,
                "keepalive_seconds": self._silence,
                "max_tasks_per_connection": self._settings.max_tasks_per_connection,
                "documents": not self._operations_apart,
            },
        }
        # Of what is the same until something happens: a page counts the time itself.
        etag = f'"{blake2s(dumps(fields), digest_size=10).hexdigest()}"'
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "ETag": etag}
        if has_tag(request, etag):
            return Response(status_code=304, headers=headers)
        fields |= {"tasks": [row.json for row in rows], "now": timestamp(self._clock.time())}
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

    def _upstreams(self, caller: Caller) -> list[dict[str, object]]:
        """The upstreams all of whose tasks the caller may read, with what is wrong with each.

        The provider's own words are what `/status` shows: only for operators, and only where it is served.
        """
        operator = TokenScope.ADMIN in caller.scopes and not self._operations_apart
        return [
            {
                "name": name,
                "state": upstream.health.state.value,
                "since": timestamp(upstream.health.since),
                "reason": _reason(upstream, operator=operator),
            }
            for name, upstream in self._pool.upstreams.items()
            if caller.account == OWN_ACCOUNT and caller.covers_all_of(name)
        ]

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


def _reason(upstream: Upstream, *, operator: bool) -> str | None:
    """What is wrong with an upstream; None if nothing is.

    Args:
        operator: Whether the caller may read the provider's own words.
    """
    if upstream.health.state is UpstreamState.OFF:
        return "switched off (enabled = false)"
    if upstream.health.state is not UpstreamState.INTERRUPTED:
        return None
    if operator and upstream.health.last_error is not None:
        return upstream.health.last_error
    if upstream.limiter.rejected is not None:
        return f"the provider rejects {upstream.limiter.key_name}"
    return "the provider does not respond, or with errors"
