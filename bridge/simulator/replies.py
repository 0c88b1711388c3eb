"""Sends one reply, modified by the faults that apply to the call."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from aiohttp import web

from bridge.simulator.clock import WaitRegistry
from bridge.simulator.faults import REFUSALS, Fault

MAINTENANCE = (
    b"<!DOCTYPE html>\n<html><head><title>Just a moment...</title></head>"
    b"<body><h1>Checking your browser</h1><p>This page is not JSON.</p></body></html>\n"
)
SLOW_SECONDS = 5.0
SLOW_BODY_SECONDS = 0.05
BLOCK = b"x" * 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def response(self) -> web.Response:
        headers = {"Content-Type": self.content_type, **self.headers}
        return web.Response(status=self.status, body=self.body, headers=headers)


def json_reply(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(body=orjson.dumps(body), status=status, headers=headers or {})


class Refusal(Exception):
    """The provider rejects a call. Each provider has its own error envelope."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


def refusal_of(fault: Fault) -> Refusal | None:
    """Return the refusal of a fault; `None` for faults of another kind."""
    if fault.name not in REFUSALS:
        return None
    headers = {"Retry-After": fault.retry_after} if fault.name == "429-retry-after" else {}
    return Refusal(*REFUSALS[fault.name], headers=headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One reply to send.

    Args:
        error: returns the provider's error with HTTP 200, for `envelope-error`.
    """

    request: web.Request
    waits: WaitRegistry
    reply: Reply
    error: Callable[[], Reply]


async def deliver(delivery: Delivery, faults: Sequence[Fault]) -> web.StreamResponse:
    """Send the reply; faults delay or replace it."""
    for fault in faults:
        if fault.name == "slow":
            await delivery.waits.sleep(SLOW_SECONDS if fault.seconds is None else fault.seconds)
    for fault in faults:
        if (replace := REPLACERS.get(fault.name)) is not None:
            return await replace(delivery, fault)
    return delivery.reply.response()


async def _timeout(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    del fault
    await delivery.waits.forever()
    return delivery.reply.response()


async def _html(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    del delivery, fault
    return Reply(body=MAINTENANCE, content_type="text/html; charset=utf-8").response()


async def _truncated(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    """Send a complete HTTP message with a correct length whose JSON stops in the middle."""
    del fault
    reply = delivery.reply
    return Reply(
        body=reply.body[: len(reply.body) // 2], status=reply.status, headers=reply.headers
    ).response()


async def _wrong_type(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    del fault
    reply = delivery.reply
    return Reply(
        body=reply.body, status=reply.status, headers=reply.headers, content_type="text/plain"
    ).response()


async def _envelope_error(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    del fault
    return delivery.error().response()


async def _redirect(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    del delivery
    return Reply(
        body=b"", status=302, headers={"Location": fault.location}, content_type="text/html"
    ).response()


async def _huge(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    """Send valid JSON with a very long string, so that only a size limit protects the reader."""
    head, tail = b'{"status":"completed","padding":"', b'"}'
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = max(fault.size, len(head) + len(tail))
    left = response.content_length - len(head) - len(tail)
    try:
        await response.prepare(delivery.request)
        await response.write(head)
        while left > 0:
            await response.write(BLOCK[:left])
            left -= len(BLOCK)
        await response.write(tail)
    except ConnectionError:
        return response  # the client closed the connection, as it should
    return response


async def _slow_body(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    """Send one byte at a time. Times count from the start, so a clock that jumps releases many."""
    pause = SLOW_BODY_SECONDS if fault.seconds is None else fault.seconds
    response = web.StreamResponse(
        status=delivery.reply.status,
        headers={"Content-Type": delivery.reply.content_type, **delivery.reply.headers},
    )
    response.content_length = len(delivery.reply.body)
    start = delivery.waits.clock.now()
    try:
        await response.prepare(delivery.request)
        for index, byte in enumerate(delivery.reply.body):
            due = start + index * pause
            if due > delivery.waits.clock.now():
                await delivery.waits.until(due)
            await response.write(bytes([byte]))
            await asyncio.sleep(0)
    except ConnectionError:
        return response
    return response


async def _reset(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    """Announce the whole body, send half of it, and reset the connection."""
    del fault
    body = delivery.reply.body
    response = web.StreamResponse(headers={"Content-Type": delivery.reply.content_type})
    response.content_length = len(body)
    try:
        await response.prepare(delivery.request)
        await response.write(body[: len(body) // 2])
    except ConnectionError:
        return response
    close_connection(delivery.request, reset=True)
    return response


def close_connection(request: web.BaseRequest, *, reset: bool = False) -> None:
    """Close the connection under the response; `reset` sends RST instead of FIN (SO_LINGER of zero)."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if not reset or connection is None:
        transport.close()
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


REPLACERS: dict[str, Callable[[Delivery, Fault], Awaitable[web.StreamResponse]]] = {
    "timeout": _timeout,
    "html": _html,
    "truncated": _truncated,
    "huge": _huge,
    "redirect": _redirect,
    "wrong-type": _wrong_type,
    "envelope-error": _envelope_error,
    "reset": _reset,
    "slow-body": _slow_body,
}
