/**
 * The deliveries of the bridge, each as the same sequence of events:
 *
 *   open · state {state, cursor} · done {task} · notice {notice} · reset {reason} · refused {task, problem} · end
 *
 * Each is `async function* (tasks, {resume, signal, frame})`; `frame(text, sent)` receives the raw frames.
 * It returns after `end`, or earlier when the connection ended otherwise; it throws errors.
 */

import { Problem, json, request, token } from "./api.js";
import { BASE, taskPath, taskQuery } from "./links.js";
import { blocks } from "./sse.js";

export const DELIVERIES = { sse, websocket, longpoll };
export const NAMES = { sse: "SSE", websocket: "WebSocket", longpoll: "Long-poll" };

const MAX_URL = 4000; // characters; more tasks are sent as the body of a POST
const TICKET_SECONDS = 300;
const PING_SECONDS = 10;
const MAX_HELD = 4; // of the six connections a browser has for one host under HTTP/1.1
const WAIT_SECONDS = 25;
const SHORT_WAIT_SECONDS = 2; // for tasks that take turns

async function* sse(tasks, { resume, signal, frame }) {
  const headers = { Accept: "text/event-stream", ...(resume ? { "Last-Event-ID": resume } : {}) };
  const path = tasks.length === 1 ? taskPath(tasks[0], "/events") : `v1/events?${taskQuery(tasks)}`;
  const long = path.length > MAX_URL;
  frame(long ? `POST /v1/events  (${tasks.length} tasks)` : `GET /${path}`, true);
  const response = long
    ? await request("v1/events", { method: "POST", body: JSON.stringify({ tasks }), headers: { ...headers, "Content-Type": "application/json" }, signal })
    : await request(path, { headers, signal });
  yield { kind: "open" };
  if (response.status === 204) {
    frame("204 No Content: all tasks are final and have been delivered");
    yield { kind: "end" };
    return;
  }
  for await (const block of blocks(response.body)) {
    frame(block.raw);
    if (block.retry !== null) yield { kind: "retry", milliseconds: block.retry };
    if (block.data === null) continue;
    const fields = JSON.parse(block.data);
    if (block.event === "message") yield { kind: "state", state: fields, cursor: block.id };
    else if (block.event === "done") yield { kind: "done", task: fields.task };
    else if (block.event === "notice") yield { kind: "notice", notice: fields };
    else if (block.event === "reset") yield { kind: "reset", reason: fields.reason };
    else if (block.event === "end") {
      yield { kind: "end" };
      return;
    }
  }
}

async function* websocket(tasks, { resume, signal, frame }) {
  const socket = new WebSocket(await socketAddress(tasks, signal), "bridge.v1.json");
  const inbox = new Inbox(socket, signal);
  try {
    await inbox.opened;
    yield { kind: "open" };
    const send = (message) => {
      frame(JSON.stringify(message), true);
      socket.send(JSON.stringify(message));
    };
    send({ type: "subscribe", id: 1, tasks, ...(resume ? { after: resume } : {}) });
    inbox.every(PING_SECONDS, () => send({ type: "ping", id: 2 }));
    const open = new Set(tasks);
    for await (const text of inbox.messages()) {
      frame(text);
      const message = JSON.parse(text);
      if (message.type === "state") yield { kind: "state", state: message.state, cursor: message.cursor };
      else if (message.type === "notice") yield { kind: "notice", notice: message };
      else if (message.type === "reset") yield { kind: "reset", reason: message.reason };
      else if (message.type === "done") yield { kind: "done", task: message.task };
      else if (message.type === "error" && message.task) yield { kind: "refused", task: message.task, problem: message.message };
      else if (message.type === "error") throw new Problem(400, message.code, message.message);
      if (message.type === "done" || (message.type === "error" && message.task)) open.delete(message.task);
      if (open.size === 0) {
        yield { kind: "end" };
        return;
      }
    }
  } finally {
    inbox.close();
  }
}

/** A browser sets no headers on a WebSocket, so a short-lived ticket replaces the token in the URL. */
async function socketAddress(tasks, signal) {
  const address = new URL("v1/ws", BASE);
  address.protocol = address.protocol.replace("http", "ws");
  if (token.value) {
    const body = JSON.stringify({ tasks, seconds: TICKET_SECONDS });
    const headers = { "Content-Type": "application/json" };
    const { ticket } = await json("v1/tickets", { method: "POST", body, headers, signal });
    address.searchParams.set("ticket", ticket);
  }
  return address;
}

/** The messages of a WebSocket as an async iterator. */
class Inbox {
  constructor(socket, signal) {
    this.socket = socket;
    this.waiting = [];
    this.wake = () => {};
    this.closed = false;
    socket.addEventListener("message", ({ data }) => {
      this.waiting.push(data);
      this.wake();
    });
    socket.addEventListener("close", ({ code }) => {
      this.closed = true;
      this.code = code;
      this.wake();
    });
    signal.addEventListener("abort", () => this.close(), { once: true });
    this.opened = new Promise((resolve, reject) => {
      socket.addEventListener("open", resolve, { once: true });
      socket.addEventListener("close", () => reject(new TypeError("The WebSocket did not open.")), { once: true });
    });
    this.opened.catch(() => {}); // awaited right after; this handles a close in between
  }

  async *messages() {
    for (;;) {
      while (this.waiting.length) yield this.waiting.shift();
      if (this.closed) return;
      await new Promise((resolve) => (this.wake = resolve));
    }
  }

  every(seconds, act) {
    this.timer = setInterval(() => this.socket.readyState === WebSocket.OPEN && act(), seconds * 1000);
  }

  close() {
    clearInterval(this.timer);
    this.socket.close(1000);
    this.closed = true;
    this.wake();
  }
}

/** A request is held for each task; where there are more tasks than connections they take turns. */
async function* longpoll(tasks, { signal, frame }) {
  const turns = tasks.map((ref) => ({ ref, etag: null }));
  const wait = turns.length <= MAX_HELD ? WAIT_SECONDS : SHORT_WAIT_SECONDS;
  const held = new Map();
  let opened = false;
  while (turns.length || held.size) {
    while (turns.length && held.size < MAX_HELD) {
      const turn = turns.shift();
      held.set(turn.ref, poll(turn, wait, signal, frame));
    }
    const { turn, response, problem } = await Promise.race(held.values());
    held.delete(turn.ref);
    if (problem instanceof Problem && problem.permanent && problem.status !== 401) {
      yield { kind: "refused", task: turn.ref, problem: problem.message };
      continue;
    }
    if (problem) throw problem;
    if (!opened) yield { kind: "open" };
    opened = true;
    let final = false;
    if (response.status === 200) {
      const text = await response.text();
      frame(text);
      const state = JSON.parse(text);
      turn.etag = response.headers.get("ETag");
      final = isFinal(state.status);
      yield { kind: "state", state, cursor: null };
      if (final) yield { kind: "done", task: turn.ref };
    }
    if (!final) turns.push(turn);
  }
  yield { kind: "end" };
}

async function poll(turn, wait, signal, frame) {
  const headers = turn.etag ? { "If-None-Match": turn.etag, Prefer: `wait=${wait}` } : {};
  const path = taskPath(turn.ref);
  frame(`GET /${path}${turn.etag ? `\nIf-None-Match: ${turn.etag}\nPrefer: wait=${wait}` : ""}`, true);
  try {
    const response = await request(path, { headers, signal });
    if (response.status === 304) frame("304 Not Modified");
    return { turn, response };
  } catch (problem) {
    return { turn, problem };
  }
}

const FINAL = new Set(["completed", "failed", "cancelled", "lost"]);

/** Whether this status is final. */
export function isFinal(status) {
  return FINAL.has(status);
}
