"""Sends one reply, well or with the bad manners that struck the call."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from aiohttp import web

from bridge.simulator.clock import Waits
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
    """A call that the provider refuses; each puts it into its own envelope."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


def refusal_of(fault: Fault) -> Refusal | None:
    """The refusal that a fault asks for; `None` for faults that do something else."""
    if fault.name not in REFUSALS:
        return None
    headers = {"Retry-After": fault.retry_after} if fault.name == "429-retry-after" else {}
    return Refusal(*REFUSALS[fault.name], headers=headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One reply on its way.

    Args:
        error: the provider's own error, in HTTP 200, for `envelope-error`.
    """

    request: web.Request
    waits: Waits
    reply: Reply
    error: Callable[[], Reply]


async def deliver(delivery: Delivery, struck: Sequence[Fault]) -> web.StreamResponse:
    """Sends the reply; a fault that struck changes when, how, or what else is sent."""
    for fault in struck:
        if fault.name == "slow":
            await delivery.waits.sleep(SLOW_SECONDS if fault.seconds is None else fault.seconds)
    for fault in struck:
        if (spoil := SPOILERS.get(fault.name)) is not None:
            return await spoil(delivery, fault)
    return delivery.reply.response()


async def _timeout(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    del fault
    await delivery.waits.forever()
    return delivery.reply.response()


async def _html(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    del delivery, fault
    return Reply(body=MAINTENANCE, content_type="text/html; charset=utf-8").response()


async def _truncated(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    """A whole HTTP message, correct length and all, whose JSON stops in the middle."""
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
    """Correct JSON around a very long string, so that only a limit on the size protects the reader."""
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
        return response  # the reader had enough, as it should
    return response


async def _slow_body(delivery: Delivery, fault: Fault) -> web.StreamResponse:
    """One byte at a time; the times are counted from the start, so a clock that jumps releases many."""
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
    """Promises the whole body, sends half, and resets the connection."""
    del fault
    body = delivery.reply.body
    response = web.StreamResponse(headers={"Content-Type": delivery.reply.content_type})
    response.content_length = len(body)
    try:
        await response.prepare(delivery.request)
        await response.write(body[: len(body) // 2])
    except ConnectionError:
        return response
    hang_up(delivery.request, reset=True)
    return response


def hang_up(request: web.BaseRequest, *, reset: bool = False) -> None:
    """Closes the connection under the response; `reset` sends RST instead of FIN (SO_LINGER of zero)."""
    transport = request.transport
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if not reset or connection is None:
        transport.close()
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


SPOILERS: dict[str, Callable[[Delivery, Fault], Awaitable[web.StreamResponse]]] = {
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
