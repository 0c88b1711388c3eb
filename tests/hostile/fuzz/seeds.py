"""Where fuzzing starts: recorded documents, and what real clients and attacks send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.hostile.fuzz.targets import _PRESETS, AUDIENCE, ISSUER

CORPUS = Path(__file__).parents[1] / "corpus"
RECORDINGS = Path(__file__).parents[3] / "bridge" / "simulator" / "recordings"

_HOST = b"Host: x\r\n"
HEADS = (
    b"GET / HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET /a HTTP/1.1\r\n" + _HOST + b"\r\nGET /b HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"POST /a HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"POST /a HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + _HOST + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\n{}",
    b"POST / HTTP/1.1\r\n" + _HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /%2e%2e/x?a=b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"CONNECT x:1 HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET http://x/a HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET /v1/ws HTTP/1.1\r\n" + _HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"POST / HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)
FRAMES = (
    b'\x81\x96\0\0\0\0{"type":"ping","id":1}',
    b"\x01\x81\0\0\0\0a\x80\x81\0\0\0\0b",
    b"\x89\x80\0\0\0\0\x8a\x80\0\0\0\0",
    b"\x88\x82\0\0\0\0\x03\xe8",
    b"\x82\xfe\x00\x7e\0\0\0\0" + b"x" * 126,
    b"\x81\xff\0\0\0\0\0\x01\x00\x01\0\0\0\0",
    b"\xc1\x81\0\0\0\0a\x81\x01a",
    b"\x81\x82\0\0\0\0\xff\xff",
)
EVENTS = (
    b'data: {"task":"a/1","status":"processing","progress":4,"cursor":"e-1"}\nid: e-1\n\n',
    b'event: done\ndata: {"task":"a/1","status":"completed"}\nid: e-2\n\nevent: end\ndata: {"tasks":1}\n\n',
    b'event: notice\ndata: {"code":"task_not_found","task":"a/2","retriable":false,"message":"x"}\n\n',
    b'event: reset\ndata: {"reason":"x"}\n\n: ok\nretry: 2000\r\n\r\n\r\r',
    b"\xef\xbb\xbfdata\ndata:\ndata: \xe4\xbd\nid: \0\nid\n\n",
)
CURSORS = (
    b"k3f9-17",
    b"k3f9-0",
    b"k-01",
    b"k3f9-17.abcdefgh",
    b"k3f9-17~p500",
    b"-1",
    b"a-1-2",
    b"*",
    b"a" * 129,
)
CLAIMS = ({"iss": ISSUER, "aud": AUDIENCE, "exp": 1e12, "tasks": ["a/*"], "scope": "read", "sub": "x"},)
PATHS = (
    b"v1/tasks/task-1",
    b"v1/tasks/query?task_id=x",
    b'v1/tasks/query?\n{"task_id":"x"}',
    b"v1/tasks/x%2F..%2F..%2Faccount",
    b"v1/tasks/%252e%252e%252faccount",
    b"fal-ai/flux/requests/abc/status",
    b"v1beta/models/veo/operations/x",
    b"v1/tasks/a\\..\\b",
)


def seeds(name: str) -> Iterator[bytes]:
    """What the corpus of a target starts with, without the files that are kept."""
    if name == "heads":
        yield from (bytes([how]) + head for how, head in enumerate(HEADS))
    elif name == "frames":
        yield from (bytes([how]) + frame for how, frame in enumerate(FRAMES))
    elif name == "events":
        yield from (bytes([how]) + stream for how, stream in enumerate(EVENTS))
    elif name == "dialects":
        yield from _recorded()
    elif name == "cursors":
        yield from CURSORS
    elif name == "tokens":
        yield from (json.dumps(claims).encode() for claims in CLAIMS)
    elif name == "proxied":
        yield from (bytes([number]) + path for number in range(len(_PRESETS)) for path in PATHS)


def _recorded() -> Iterator[bytes]:
    kinds = {"submit": 1, "stream": 2, "callback": 4, "follow_up": 5}
    for number, name in enumerate(_PRESETS):
        for file in sorted((RECORDINGS / name).rglob("*.json")):
            case = json.loads(file.read_text("utf-8"))
            body = case.get("answer", {}).get("body", case.get("body"))
            if body is None:
                continue
            text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
            yield bytes([number, kinds.get(file.parent.name, 0), 0]) + text.encode("utf-8", "surrogatepass")


def kept(name: str) -> Iterator[bytes]:
    """The files that are kept: what once broke a promise, and what reaches the rare branches."""
    folder = CORPUS / name
    if folder.is_dir():
        for file in sorted(folder.rglob("*")):
            if not file.is_file():
                continue
            if name == "heads" and file.parent.name != "found":
                # Heads as they are, for other tests too: first how they are cut.
                yield from (how + file.read_bytes() for how in (b"\0", b"\1"))
            else:
                yield file.read_bytes()
