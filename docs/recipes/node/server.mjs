// A backend that knows the state of its tasks without polling.
//
//   PUT /tasks/qingbo/YOUR_TASK_ID    start following this task
//   GET /tasks                        the newest state of each task
//
// Run it with: BRIDGE_URL=http://127.0.0.1:8080 PORT=3000 node server.mjs

import http from "node:http";
import { follow } from "./follow.mjs";

const BRIDGE = process.env.BRIDGE_URL ?? "http://127.0.0.1:8080";
const TOKEN = process.env.BRIDGE_TOKEN;

const stopping = new AbortController();
const newest = new Map();

async function keep(task) {
  const options = { signal: stopping.signal, token: TOKEN && (() => TOKEN) };
  try {
    for await (const { status, progress, outputs, error } of follow(BRIDGE, [task], options)) {
      newest.set(task, { status, progress, outputs, error });
    }
    // The task is final. A real backend would write to its database here and download the outputs, whose links expire.
  } catch (error) {
    if (stopping.signal.aborted) return;
    newest.set(task, { status: "refused", error: { message: error.message } });
  }
}

const server = http.createServer((request, response) => {
  const [, task] = /^\/tasks\/([^?%]+)$/.exec(request.url) ?? [];
  if (request.method === "PUT" && task) {
    if (!newest.has(task)) {
      newest.set(task, { status: "unknown" });
      void keep(task);
    }
    response.writeHead(202).end();
  } else if (request.method === "GET" && request.url === "/tasks") {
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify(Object.fromEntries(newest)));
  } else {
    response.writeHead(404).end();
  }
});

server.listen(process.env.PORT ?? 3000, "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
process.on("SIGTERM", () => {
  stopping.abort();
  server.close();
});
