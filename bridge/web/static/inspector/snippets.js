/** Code equivalent to what the page does, for copying. It names the token's variable, never its value. */

import { BASE, encoded, taskPath, taskQuery } from "./links.js";

/**
 * @param {string} via The selected delivery.
 * @param {string[]} refs The tasks, at least one.
 * @param {boolean} withToken Whether the bridge requires a token.
 * @returns {{curl: string, javascript: string, python: string}}
 */
export function snippets(via, refs, withToken) {
  const make = { sse: sseLines, websocket: webSocketLines, longpoll: longPollLines }[via];
  return make(refs, withToken);
}

function at(path) {
  return new URL(path, BASE).href;
}

function streamAddress(refs) {
  return at(refs.length === 1 ? taskPath(refs[0], "/events") : `v1/events?${taskQuery(refs)}`);
}

/** Quotes for a POSIX shell; `encoded` leaves no single quotes in a URL. */
function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A string literal valid in both JavaScript and Python. */
function quoted(text) {
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

const CURL_TOKEN = ' -H "Authorization: Bearer $BRIDGE_TOKEN"';
const PYTHON_TOKEN = ', token=os.environ["BRIDGE_TOKEN"]';

function sseLines(refs, withToken) {
  const address = streamAddress(refs);
  const plain = [
    `const events = new EventSource(${quoted(address)});`,
    "events.onmessage = ({ data }) => {",
    "  const state = JSON.parse(data);",
    "  console.log(state.task, state.status, state.progress);",
    "};",
    'events.addEventListener("end", () => events.close());',
  ];
  const tokened = [
    `import { states } from ${quoted(at("bridge.js"))};`,
    "",
    `for await (const state of states(${quoted(address)}, { token: () => token })) {`,
    "  console.log(state.task, state.status, state.progress);",
    "}",
  ];
  return {
    curl: `curl -N${withToken ? CURL_TOKEN : ""} ${shell(address)}`,
    javascript: (withToken ? tokened : plain).join("\n"),
    python: pythonClient(refs, withToken),
  };
}

function pythonClient(refs, withToken) {
  return [
    "import asyncio",
    ...(withToken ? ["import os"] : []),
    "",
    "from task_event_bridge import Bridge",
    "",
    "",
    "async def main() -> None:",
    `    async with Bridge(${quoted(BASE.href.replace(/\/$/, ""))}${withToken ? PYTHON_TOKEN : ""}) as bridge:`,
    `        async for state in bridge.watch(${refs.map(quoted).join(", ")}):`,
    "            print(state.task, state.status, state.progress)",
    "",
    "",
    "asyncio.run(main())",
  ].join("\n");
}

function webSocketLines(refs, withToken) {
  const address = at("v1/ws").replace(/^http/, "ws");
  const subscribe = `{"type": "subscribe", "id": 1, "tasks": [${refs.map(quoted).join(", ")}]}`;
  return {
    curl: [
      "# curl has no WebSocket client; this one comes with `pip install websockets`,",
      "# with the tasks in the URL",
      `python -m websockets ${shell(`${address}?${taskQuery(refs)}${withToken ? "&ticket=" : ""}`)}${withToken ? '"$BRIDGE_TICKET"' : ""}`,
    ].join("\n"),
    javascript: [
      ...(withToken ? ["// your backend gets the ticket from POST /v1/tickets with its token"] : []),
      `const socket = new WebSocket(${quoted(address)}${withToken ? ' + "?ticket=" + ticket' : ""}, "bridge.v1.json");`,
      "socket.onopen = () => socket.send(JSON.stringify(",
      `  ${subscribe}`,
      "));",
      "socket.onmessage = ({ data }) => {",
      "  const message = JSON.parse(data);",
      '  if (message.type === "state") console.log(message.state.task, message.state.status, message.state.progress);',
      '  if (message.type === "done") socket.close();',
      "};",
    ].join("\n"),
    python: [
      "import json",
      ...(withToken ? ["import os"] : []),
      "",
      "from websockets.sync.client import connect",
      "",
      ...(withToken ? ['headers = {"Authorization": "Bearer " + os.environ["BRIDGE_TOKEN"]}'] : []),
      `with connect(${quoted(address)}, subprotocols=["bridge.v1.json"]${withToken ? ", additional_headers=headers" : ""}) as socket:`,
      `    socket.send('''${subscribe.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}''')`,
      `    open_tasks = ${refs.length}`,
      "    while open_tasks:",
      "        message = json.loads(socket.recv())",
      '        if message["type"] == "state":',
      '            state = message["state"]',
      '            print(state["task"], state["status"], state["progress"])',
      '        open_tasks -= message["type"] == "done"',
    ].join("\n"),
  };
}

function longPollLines(refs, withToken) {
  const address = at(taskPath(refs[0]));
  const more = refs.length > 1;
  const remark = (mark) => (more ? [`${mark} one loop per task; this is the first`] : []);
  return {
    curl: [
      ...remark("#"),
      "# insert the ETag of the last response between the quotes",
      `curl -i${withToken ? CURL_TOKEN : ""} -H 'If-None-Match: ""' -H 'Prefer: wait=25' ${shell(address)}`,
    ].join("\n"),
    javascript: [
      ...remark("//"),
      'const final = ["completed", "failed", "cancelled", "lost"];',
      "let etag, state;",
      "do {",
      `  const headers = {${withToken ? ' Authorization: "Bearer " + token,' : ""} ...(etag && { "If-None-Match": etag, Prefer: "wait=25" }) };`,
      `  const response = await fetch(${quoted(address)}, { headers, cache: "no-store" });`,
      "  if (response.status === 304) continue;",
      "  state = await response.json();",
      '  etag = response.headers.get("ETag");',
      "  console.log(state.task, state.status, state.progress);",
      "} while (!final.includes(state.status));",
    ].join("\n"),
    python: [
      "import asyncio",
      ...(withToken ? ["import os"] : []),
      "",
      "from task_event_bridge import Bridge",
      "",
      "",
      "async def main() -> None:",
      ...remark("    #"),
      `    task = ${quoted(refs[0])}`,
      `    async with Bridge(${quoted(BASE.href.replace(/\/$/, ""))}${withToken ? PYTHON_TOKEN : ""}) as bridge:`,
      "        state = await bridge.state(task)",
      "        while True:",
      "            print(state.task, state.status, state.progress)",
      "            if state.final:",
      "                break",
      "            newer = None",
      "            while newer is None:",
      "                newer = await bridge.state(task, wait=25, etag=state.cursor)",
      "            state = newer",
      "",
      "",
      "asyncio.run(main())",
    ].join("\n"),
  };
}

/** Returns the curl command equivalent to the submit form. */
export function submitLine(upstream, options, body, withToken) {
  const address = at(`v1/tasks/${encoded(upstream)}${options ? `?${options}` : ""}`);
  return `curl -X POST${withToken ? CURL_TOKEN : ""} -H 'Content-Type: application/json' --data ${shell(body)} ${shell(address)}`;
}
