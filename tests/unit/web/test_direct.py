"""A stream found directly is answered as Starlette answers it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from bridge.errors import InvalidRequest
from bridge.web import params
from bridge.web.middleware.direct import DirectStreams
from bridge.web.open_requests import Answer
from bridge.web.problems import HANDLERS

pytestmark = pytest.mark.anyio

assert params.EncodedConvertor.regex  # registers the convertor of the paths below


class Begun(Response):
    """Fails behind its head."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise self._error


async def events(request: Request) -> Response:
    how = request.query_params.get("how", "")
    errors: dict[str, Exception] = {
        "ours": InvalidRequest("this is not valid"),
        "starlette": HTTPException(413),
        "bug": ValueError("a bug"),
    }
    if how in errors:
        raise errors[how]
    if how.startswith("late-"):
        return Begun(errors[how.removeprefix("late-")])
    return Response(repr([request.path_params, request.scope["route"].path, request.headers.items()]))


async def talk(_websocket: Any) -> None:
    """Nothing is said."""


PATH = "/v1/tasks/{upstream}/{task_id:encoded}/events"
ROUTES = [
    Route(PATH, events),
    Route("/v1/events", events, methods=["GET", "POST"]),
    WebSocketRoute("/v1/ws", talk),
]


async def _messages(path: str, method: str, query: str, *, direct: bool, root: str = "") -> Any:
    app: Any = Starlette(routes=ROUTES, exception_handlers=HANDLERS)
    app.router.redirect_slashes = False
    entered: list[str] = []

    async def general(scope: Any, receive: Any, send: Any) -> None:
        entered.append(scope["path"])
        await app(scope, receive, send)

    outer = DirectStreams(general, ROUTES) if direct else app
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": root + path,
        "root_path": root,
        "query_string": query.encode(),
        "headers": [(b"host", b"x")],
        "extensions": {},
    }
    raised = None
    try:
        await outer(scope, receive, Answer(send, scope, lambda: False))
    except Exception as error:  # noqa: BLE001 - compared
        raised = type(error)
    return messages, raised, entered


GET = ["", "how=ours", "how=starlette", "how=bug", "how=late-bug"]


@pytest.mark.parametrize("query", GET)
@pytest.mark.parametrize("path", ["/v1/tasks/fal/a%2Fb%ff/events", "/v1/events"])
async def test_a_stream_is_answered_the_same_without_the_general_routing(path: str, query: str) -> None:
    messages, raised, entered = await _messages(path, "GET", query, direct=True)
    assert not entered
    assert (messages, raised) == (await _messages(path, "GET", query, direct=False))[:2]
    assert messages[0]["status"] in {200, 400, 413, 500}


async def test_an_error_behind_the_head_is_raised_and_sent_nothing() -> None:
    messages, raised, _ = await _messages("/v1/events", "GET", "how=late-ours", direct=True)
    assert [message["type"] for message in messages] == ["http.response.start"]
    assert raised is InvalidRequest


@pytest.mark.parametrize(
    ("method", "path", "root"),
    [
        ("HEAD", "/v1/events", ""),
        ("POST", "/v1/events", ""),
        ("DELETE", "/v1/tasks/fal/a/events", ""),
        ("GET", "/v1/tasks/fal/a/b/events", ""),
        ("GET", "/v1/tasks/fal//events", ""),
        ("GET", "/v1/events/", ""),
        ("GET", "/v1/ws", ""),
        ("GET", "/v1/events", "/below"),
    ],
)
async def test_everything_else_is_routed_as_ever(method: str, path: str, root: str) -> None:
    found = await _messages(path, method, "", direct=True, root=root)
    assert found[2] == [root + path]
    assert found[:2] == (await _messages(path, method, "", direct=False, root=root))[:2]
