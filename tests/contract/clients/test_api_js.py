"""`task-event-bridge/api`: a submit that is retried has one key, and the webhooks are administered."""

from __future__ import annotations

import asyncio
import json
import shutil
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import missing
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

MODULE = Path(__file__).parents[3] / "clients" / "js" / "dist" / "api.js"
STATE = {"task": "q/1", "status": "queued"}
ENDPOINT = {"id": "wh_1", "url": "https://app.example/hook", "enabled": True}
SCRIPT = """
import { submit, webhooks } from %s;
const options = { url: process.argv[1] + "/", token: () => "t" };
const told = {};
const caught = async (call) => {
  try {
    await call();
  } catch ({ name, code, status, retriable }) {
    return { name, code, status, retriable };
  }
};
const body = { prompt: "猫" };
told.plain = (await submit("q", body, { ...options, options: { endpoint: "a/b" } })).task;
const named = { ...options, idempotencyKey: "k 1", webhook: "https://a.example/h" };
told.named = (await submit("q", body, named)).task;
told.retried = (await submit("q", body, { ...options, retrySeconds: 60 })).task;
told.once = await caught(() => submit("q", body, options));
told.doubtful = await caught(() => submit("q", body, { ...options, retrySeconds: 60 }));
const aborted = new AbortController();
const long = { ...options, retrySeconds: 600, signal: aborted.signal };
const waiting = submit("q", body, long).catch((reason) => reason);
setTimeout(() => aborted.abort("enough"), 300);
told.aborted = await waiting;
const admin = webhooks(options);
told.created = (await admin.create({ url: "https://a.example/h", tags: ["x"] })).secret;
told.listed = (await admin.list()).map(({ id }) => id);
await admin.setEnabled("../a", false);
told.deleted = await admin.delete("wh_1");
await admin.rotateSecret("wh_1");
await admin.test("wh_1");
told.deliveries = await admin.deliveries("wh_1");
await admin.redeliver("wh_1", "msg_1");
told.nothing = await caught(() => admin.delete(""));
told.unreachable = await caught(() => submit("q", body, { url: "http://127.0.0.1:1" }));
console.log(JSON.stringify(told));
"""


def problem(status: int, code: str, **headers: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"status": status, "code": code, "detail": code}, status=status, headers=named)


async def test_calls_of_the_package() -> None:
    node = shutil.which("node")
    if node is None:
        missing("node")
    seen: list[tuple[str, str, Any, Any]] = []
    script: list[web.Response | str] = [
        web.json_response({"state": STATE, "links": {}}, status=201),
        web.json_response({"state": STATE, "links": {}}, status=201),
        "cut",
        problem(409, "conflict", x_should_retry="true"),
        web.Response(status=502, text="<html>"),
        web.json_response({"state": STATE, "links": {}}, status=201),
        problem(503, "over_capacity"),
        problem(502, "upstream_unavailable", x_should_retry="false"),
        problem(503, "over_capacity", retry_after="300"),
        web.json_response(ENDPOINT | {"secret": "whsec_x"}, status=201),
        web.json_response({"webhooks": [ENDPOINT]}),
        web.json_response(ENDPOINT),
        web.Response(status=204),
        web.json_response(ENDPOINT),
        web.json_response({"result": "delivered"}),
        web.json_response({"deliveries": []}),
        web.json_response({"result": "delivered"}),
    ]

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append((request.method, request.raw_path, request.headers, await request.read()))
        part = script.pop(0)
        if isinstance(part, str):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return part

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    process = await asyncio.create_subprocess_exec(
        *(node, "--input-type=module", "-e", SCRIPT % json.dumps(MODULE.as_uri())),
        f"http://127.0.0.1:{runner.addresses[0][1]}",
        stdout=PIPE,
        stderr=PIPE,
    )
    async with asyncio.timeout(3 * PATIENCE):
        out, err = await process.communicate()
    await runner.cleanup()
    assert process.returncode == 0, err.decode()
    told = json.loads(out)
    lasting = {"name": "BridgeError", "retriable": True}
    assert told == {
        "plain": "q/1",
        "named": "q/1",
        "retried": "q/1",
        "once": lasting | {"code": "over_capacity", "status": 503},
        "doubtful": {
            "name": "BridgeError",
            "code": "upstream_unavailable",
            "status": 502,
            "retriable": False,
        },
        "aborted": "enough",
        "created": "whsec_x",
        "listed": ["wh_1"],
        "deliveries": [],
        "nothing": {"name": "BridgeError", "retriable": False},
        "unreachable": lasting,
    }
    plain, named, *retried = seen[:6]
    assert plain[1] == "/v1/tasks/q?endpoint=a%2Fb"
    assert plain[2]["Authorization"] == "Bearer t"
    assert "Idempotency-Key" not in plain[2]
    assert (named[2]["Idempotency-Key"], named[2]["X-Webhook-URL"]) == ("k 1", "https://a.example/h")
    assert len({(headers["Idempotency-Key"], body) for _, _, headers, body in retried}) == 1
    assert [(method, path) for method, path, _, _ in seen[9:]] == [
        ("POST", "/v1/webhooks"),
        ("GET", "/v1/webhooks"),
        ("PATCH", "/v1/webhooks/..%2Fa"),
        ("DELETE", "/v1/webhooks/wh_1"),
        ("POST", "/v1/webhooks/wh_1/rotate-secret"),
        ("POST", "/v1/webhooks/wh_1/test"),
        ("GET", "/v1/webhooks/wh_1/deliveries"),
        ("POST", "/v1/webhooks/wh_1/deliveries/msg_1/redeliver"),
    ]


TASKS_SCRIPT = """
import { forget, group, list, listPage, outputUrl, register, submit, ticket } from %s;
const options = { url: process.argv[1] + "/bridge/", token: "t" };
const told = {};
const caught = async (call) => {
  try {
    await call();
  } catch ({ name, code, status }) {
    return { name, code, status };
  }
};
const refs = async (tasks) => {
  const found = [];
  for await (const { task } of tasks) found.push(task);
  return found;
};
await submit("q", {}, { ...options, tags: ["user:7", "b"], group: "g" });
told.all = await refs(list({ ...options, tag: "user:7", status: "completed", upstream: "q", group: "g" }));
told.some = await refs(list({ ...options, limit: 3, status: ["open", "failed"] }));
told.none = await refs(list({ ...options, limit: 0 }));
told.page = await listPage({ ...options, limit: 1, before: "x/&" });
const words = { tags: ["t"], deadlineSeconds: 60, webhook: "https://a.example/ü" };
told.registered = (await register("q/a/b", { ...options, ...words })).status;
told.forgotten = await forget("q/a/b", options);
told.unknown = await caught(() => forget("q/x", options));
told.closed = await group("g", options).close();
told.ticket = (await ticket({ ...options, tags: ["user:7"], seconds: 60 })).links.events;
told.outputs = [
  outputUrl("q/a/b#?", 2, { url: options.url, ticket: "a+b" }),
  outputUrl("q/$&", undefined, { url: new URL("https://bridge.example") }),
];
told.nowhere = await caught(async () => outputUrl("q/1"));
told.words = [];
for (const word of ["", "..", "a b", "a/b", "a\\r\\nX-Y: z", "ü", "a".repeat(65)]) {
  told.words.push((await caught(() => submit("q", {}, { ...options, tags: [word] })))?.code);
  told.words.push((await caught(() => group(word, options).close()))?.code);
}
for (const ref of ["q", "q/", "q/..", "/a", ""]) {
  told.words.push((await caught(() => register(ref, options)))?.code);
  told.words.push((await caught(async () => outputUrl(ref, 0, options)))?.code);
}
console.log(JSON.stringify(told));
"""


async def test_calls_for_many_tasks() -> None:
    node = shutil.which("node")
    if node is None:
        missing("node")
    seen: list[tuple[str, str, Any, bytes]] = []

    def page(*refs: str, following: str | None = None) -> web.Response:
        return web.json_response({"tasks": [{"task": ref} for ref in refs], "next": following})

    script = [
        web.json_response({"state": STATE, "links": {}}, status=201),
        page("q/3", "q/2", following="p/2"),
        page("q/1"),
        page("q/3", "q/2", following="p/2"),
        page("q/1", following="p/3"),
        page("q/9", following="n"),
        web.json_response({"state": STATE | {"status": "unknown"}, "links": {}}, status=201),
        web.Response(status=204),
        problem(404, "task_not_found"),
        web.json_response({"group": "g", "closed": True, "counts": {"failed": 1}, "open": 2}),
        web.json_response({"ticket": "t", "links": {"events": "/v1/events?tag=user:7&ticket=t"}}, status=201),
    ]

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.method, request.raw_path, request.headers, await request.read()))
        return script.pop(0)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    process = await asyncio.create_subprocess_exec(
        *(node, "--input-type=module", "-e", TASKS_SCRIPT % json.dumps(MODULE.as_uri())),
        f"http://127.0.0.1:{runner.addresses[0][1]}",
        stdout=PIPE,
        stderr=PIPE,
    )
    async with asyncio.timeout(3 * PATIENCE):
        out, err = await process.communicate()
    await runner.cleanup()
    assert process.returncode == 0, err.decode()
    told = json.loads(out)
    assert (told["all"], told["some"], told["none"]) == (["q/3", "q/2", "q/1"], ["q/3", "q/2", "q/1"], [])
    assert told["page"] == {"tasks": [{"task": "q/9"}], "next": "n"}
    assert told["registered"] == "unknown"
    assert told["unknown"] == {"name": "BridgeError", "code": "task_not_found", "status": 404}
    assert told["closed"] == {"group": "g", "closed": True, "counts": {"failed": 1}, "open": 2}
    assert set(told["words"]) == {"invalid_request"}
    assert (seen[0][2]["X-Task-Tags"], seen[0][2]["X-Task-Group"]) == ("user:7,b", "g")
    named = "upstream=q&status=completed&tag=user%3A7&group=g&limit=200"
    assert [(method, path.removeprefix("/bridge/v1")) for method, path, *_ in seen[1:]] == [
        ("GET", f"/tasks?{named}"),
        ("GET", f"/tasks?{named}&before=p%2F2"),
        ("GET", "/tasks?status=open%2Cfailed&limit=3"),
        ("GET", "/tasks?status=open%2Cfailed&limit=1&before=p%2F2"),
        ("GET", "/tasks?limit=1&before=x%2F%26"),
        ("PUT", "/tasks/q/a%2Fb"),
        ("DELETE", "/tasks/q/a%2Fb"),
        ("DELETE", "/tasks/q/x"),
        ("POST", "/groups/g/close"),
        ("POST", "/tickets"),
    ]
    assert told["ticket"] == "/v1/events?tag=user:7&ticket=t"
    assert json.loads(seen[-1][3]) == {"tags": ["user:7"], "seconds": 60}
    own, other = told["outputs"]
    assert own.endswith("/bridge/v1/tasks/q/a%2Fb%23%3F/outputs/2?ticket=a%2Bb")
    assert other == "https://bridge.example/v1/tasks/q/%24%26/outputs/0"
    assert told["nowhere"]["name"] == "BridgeError"
    assert json.loads(seen[6][3]) == {
        "tags": ["t"],
        "deadline_seconds": 60,
        "webhook": "https://a.example/%C3%BC",
    }
