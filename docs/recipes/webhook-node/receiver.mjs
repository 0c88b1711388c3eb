// Receives webhooks of a bridge: verifies each, removes duplicates, answers at once, works afterwards.
//
//   POST /webhooks    for the bridge
//   GET /tasks        the newest state of each task since the start
//
// Run it with: WEBHOOK_SECRETS='whsec_YOUR_SECRET' PORT=9099 node receiver.mjs
// WEBHOOK_SECRETS has one secret, or several separated by spaces while one is replaced. INBOX is the file for what was
// received.

import http from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { Webhook } from "standardwebhooks";
import { Inbox } from "./inbox.mjs";

const WEBHOOKS = process.env.WEBHOOK_SECRETS.trim().split(/\s+/).map((secret) => new Webhook(secret));
const MAX_BYTES = 32 * 1024 * 1024;
const RETRY_MS = 5_000;

const inbox = await Inbox.open(process.env.INBOX ?? "inbox.ndjson");
const newest = new Map();

/** Your work. It must bear being repeated: the process may end after it, and before that is recorded. */
async function work({ type, data: state }) {
  console.log(type, state.task, state.status);
  // Deliveries of one task arrive in order, but one whose work failed is repeated after newer ones.
  if (newest.get(state.task)?.changed_at > state.changed_at) return;
  newest.set(state.task, state);
  // Write it to your database here, and download state.outputs: links of providers expire.
}

async function handle({ id, body }) {
  for (;;) {
    try {
      await work(JSON.parse(body));
      await inbox.done(id);
      return;
    } catch (error) {
      console.error("a delivery will be tried again", error);
      await sleep(RETRY_MS);
    }
  }
}

/** Whether one of the secrets signed exactly these bytes, within the last five minutes. */
function verified(body, headers) {
  return WEBHOOKS.some((webhook) => {
    try {
      webhook.verify(body, headers, { jsonParse: false });
      return true;
    } catch {
      return false;
    }
  });
}

/** Records a delivery before answering: once answered with 2xx, it is not sent again. */
async function receive(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > MAX_BYTES) return 413;
    parts.push(part);
  }
  const body = Buffer.concat(parts); // the raw bytes: parsed and written again, they would differ
  if (!verified(body, request.headers)) return 401;
  const text = body.toString();
  if (!JSON.parse(text).type.startsWith("task.")) return 204; // a test
  const id = request.headers["webhook-id"];
  if (await inbox.add(id, text)) void handle({ id, body: text });
  return 204;
}

const server = http.createServer(async (request, response) => {
  if (request.method === "POST" && request.url === "/webhooks") {
    const status = await receive(request).catch((error) => {
      console.error(error);
      return 503; // the bridge tries again
    });
    response.writeHead(status, status === 413 ? { connection: "close" } : {}).end();
  } else if (request.method === "GET" && request.url === "/tasks") {
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify(Object.fromEntries(newest)));
  } else {
    response.writeHead(404).end();
  }
});

for (const delivery of inbox.waiting) void handle(delivery);
server.listen(process.env.PORT ?? 9099, "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
process.on("SIGTERM", () => {
  server.close(() => process.exit());
  server.closeIdleConnections();
});
