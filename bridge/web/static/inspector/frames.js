/** The newest frames sent and received, folded to what changed; each opens to its raw text. */

import { byId, make, set, setText } from "./dom.js";
import { count } from "./format.js";
import { splitRef } from "./table.js";

const MAX_FRAMES = 200;
const MAX_CHARACTERS = 1500; // shown per frame
const MAX_VALUE = 60; // characters of one changed value
const MAX_STATES = 500; // tasks whose newest state is remembered
const UNINTERESTING = new Set(["task", "upstream", "task_id", "cursor", "changed_at", "observed_at", "raw", "eta_seconds", "eta_at", "eta_by"]);
const SAME = "no change";
const KEEPALIVE = "keepalive";

export class Frames {
  constructor() {
    this.list = byId("frames");
    this.paused = false;
    this.raw = false;
    this.total = 0;
    this.waiting = [];
    this.states = new Map(); // by task, for what changed
    this.last = null; // the newest item, which equal ones are added to
    this.startedAt = performance.now();
    byId("frames-pause").addEventListener("click", () => this.pause(!this.paused));
    byId("frames-raw").addEventListener("click", () => this.showRaw(!this.raw));
    byId("frames-clear").addEventListener("click", () => this.clear());
  }

  /** Frames are drawn in batches, at any rate. */
  add(text, sent) {
    this.total += 1;
    const line = sent ? { label: "", words: shortened(text) } : this.fold(text);
    if (this.paused) return;
    this.waiting.push({ text, sent, line, at: performance.now() });
    if (this.waiting.length > MAX_FRAMES) this.waiting.shift();
    if (this.waiting.length === 1) setTimeout(() => this.draw(), 100);
  }

  draw() {
    const atEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
    for (const frame of this.waiting) this.append(frame);
    this.waiting = [];
    while (this.list.children.length > MAX_FRAMES) this.list.firstChild.remove();
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
    setText(byId("frames-count"), count(this.total, "frame"));
  }

  append(frame) {
    const { last } = this;
    if (last && last.node.isConnected && frame.line.folds && last.folds === frame.line.folds && !last.details.open) {
      last.times += 1;
      last.frames.push(frame);
      setText(last.counter, ` × ${last.times}`);
      return;
    }
    this.last = new Item(frame, this.startedAt, this.raw);
    this.list.append(this.last.node);
  }

  /** @returns One line about a received frame; `folds` names what is counted instead of repeated. */
  fold(text) {
    if (text === ":") return { label: KEEPALIVE, words: "", folds: KEEPALIVE };
    if (text.startsWith(":")) return { label: "comment", words: text.slice(1).trim() };
    const { event, data } = parts(text);
    if (event === null && data === null) return { label: "", words: text.split("\n")[0] };
    if (data === null) return { label: event, words: "" };
    const fields = data.type === "state" ? data.state : data;
    if (fields.task && fields.status && (event === "message" || data.type === "state")) return this.foldState(fields);
    const label = event === "message" ? (data.type ?? "message") : event;
    const folds = label === "pong" ? label : null;
    return { label, words: [fields.task, fields.status ?? fields.code ?? fields.reason, fields.message].filter(Boolean).join(" · "), folds };
  }

  foldState(state) {
    const before = this.states.get(state.task);
    this.states.delete(state.task); // to the end of the order
    this.states.set(state.task, state);
    if (this.states.size > MAX_STATES) this.states.delete(this.states.keys().next().value);
    const changes = before ? changed(before, state) : shown(state);
    if (!changes.length) return { label: "state", words: SAME, folds: SAME };
    return { label: "state", task: state.task, words: changes.join(" · ") };
  }

  pause(paused) {
    this.paused = paused;
    set(byId("frames-pause"), "aria-pressed", String(paused));
  }

  showRaw(raw) {
    this.raw = raw;
    set(byId("frames-raw"), "aria-pressed", String(raw));
    for (const details of this.list.querySelectorAll("details")) details.open = raw;
  }

  clear() {
    this.waiting = [];
    this.total = 0;
    this.list.replaceChildren();
    setText(byId("frames-count"), count(0, "frame"));
  }
}

/** One line of the list; the raw text is put in when it is opened. */
class Item {
  constructor(frame, startedAt, open) {
    const { line, sent, at } = frame;
    this.folds = line.folds ?? null;
    this.times = 1;
    this.frames = [frame];
    this.counter = make("span.times");
    const seconds = `${((at - startedAt) / 1000).toFixed(2)} s`;
    this.details = make(
      "details",
      { on: { toggle: () => this.fill() } },
      make(
        "summary",
        {},
        make("span.when", {}, seconds),
        make("span.way", { role: "img", "aria-label": sent ? "sent" : "received" }, sent ? "→" : "←"),
        make("span.fold", {}, line.task ? make("span.of", {}, splitRef(line.task)) : make("b", {}, line.label), ` ${line.words}`, this.counter),
      ),
    );
    this.node = make("li", { data: { way: sent ? "out" : "in" } }, this.details);
    this.details.open = open;
  }

  fill() {
    for (const pre of this.details.querySelectorAll("pre")) pre.remove();
    if (!this.details.open) return;
    const newest = this.frames.slice(-10);
    this.details.append(...newest.map(({ text }) => make("pre", {}, text.length > MAX_CHARACTERS ? `${text.slice(0, MAX_CHARACTERS)}\n… ${count(text.length - MAX_CHARACTERS, "more character")}` : text)));
  }
}

/** @returns The event name and the parsed data of a block, a WebSocket message or a JSON response; null for neither. */
function parts(text) {
  if (text.startsWith("{")) return { event: "message", data: json(text) };
  let event = "message";
  const data = [];
  for (const line of text.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    if (line.startsWith("data:")) data.push(line.slice(5));
  }
  if (data.length) return { event, data: json(data.join("\n")) };
  return { event: /^(event|retry|id):/m.test(text) ? event : null, data: null };
}

function json(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

/** @returns The first line of a request, with the number of its tasks instead of their ids. */
function shortened(text) {
  const line = text.split("\n")[0];
  const tasks = line.split(/[?&]task=/).length - 1;
  if (tasks > 1) return `${line.slice(0, line.search(/[?&]task=/))} (${count(tasks, "task")})`;
  return line.length > 2 * MAX_VALUE ? `${line.slice(0, 2 * MAX_VALUE)}…` : line;
}

/** @returns What differs between two states: `progress 42 → 55`. */
function changed(before, after) {
  return Object.keys(after)
    .filter((name) => !UNINTERESTING.has(name) && JSON.stringify(before[name]) !== JSON.stringify(after[name]))
    .map((name) => {
      const [old, now] = [short(before[name]), short(after[name])];
      return old === "–" ? `${name} ${now}` : `${name} ${old} → ${now}`;
    });
}

/** @returns What a first state has. */
function shown(state) {
  return ["status", "progress", "model"].filter((name) => state[name] !== null && state[name] !== undefined).map((name) => `${name} ${short(state[name])}`);
}

function short(value) {
  if (value === null || value === undefined) return "–";
  if (Array.isArray(value)) return value.length ? count(value.length, "result") : "–";
  const text = typeof value === "object" ? [value.code, value.message].filter(Boolean).join(": ") || JSON.stringify(value) : String(value);
  return text.length > MAX_VALUE ? `${text.slice(0, MAX_VALUE)}…` : text;
}
