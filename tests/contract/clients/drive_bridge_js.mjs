// Our own helper in Node, as a program that a test talks to. One JSON object a line, both ways.
//
// Told first: {module, url, mode: "watch" | "states" | "loop" | "loops" | "subscribe", options,
// ...}; a loop is one over `watch`. The strings "ask" for `url` and `token` become
// functions that ask the test each time. Then, at any time: {given: value} answers such a question, {do: name} does
// what is listed at the end.

import { createInterface } from "node:readline";

const tell = (kind, value) => process.stdout.write(`${JSON.stringify({ kind, value: value ?? null })}\n`);
process.on("unhandledRejection", (error) => tell("unhandled", String(error)));
process.on("uncaughtException", (error) => tell("uncaught", error.message));

const answers = []; // of the test, to questions in their order
const doings = {};
let begin;
const planned = new Promise((resolve) => (begin = resolve));
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const said = JSON.parse(line);
  if ("url" in said) begin(said);
  if ("given" in said) answers.shift()(said.given);
  if (said.do) doings[said.do](said);
});

const plan = await planned;
const { watch, states, subscribe, BridgeError, TaskFailed } = await import(plan.module);

// waits of the helper are real ones, only shorter; the numbers it asked for are told
const [timeout, interval] = [globalThis.setTimeout, globalThis.setInterval];
const faster = plan.faster ?? 1;
const isOurs = () => new Error().stack.includes("src/bridge.js"); // Node itself waits for things too
globalThis.setTimeout = (call, milliseconds, ...rest) => {
  if (!isOurs()) return timeout(call, milliseconds, ...rest);
  tell("wait", milliseconds);
  return timeout(call, milliseconds / faster);
};
globalThis.setInterval = (call, milliseconds) => interval(call, milliseconds / faster);
if (plan.pieces) {
  // Node joins what comes quickly one after the other, so for exact pieces there is no network at all
  const bytes = plan.pieces.map((piece) => Buffer.from(piece, "base64"));
  globalThis.fetch = async () => new Response(ReadableStream.from(bytes), { headers: { "Content-Type": "text/event-stream" } });
}
if (plan.random !== undefined) Math.random = () => plan.random;

const asked = (name) => (refused) =>
  new Promise((resolve) => {
    answers.push(resolve);
    tell(name, refused);
  });
const controller = new AbortController();
const options = { ...plan.options, signal: controller.signal };
const url = plan.url === "ask" ? asked("url") : plan.url;
if (options.token === "ask") options.token = asked("token");
options.onNotice = (notice) => tell("notice", notice);

const [now, aside] = [Date.now, { ms: 0 }];
Date.now = () => now() + aside.ms;
doings.sleep = ({ seconds }) => (aside.ms += seconds * 1000); // as after a sleep: the one clock went on, the other not
doings.abort = () => controller.abort(new Error("the test said so"));

const ended = (kind) => (value) => {
  tell(kind, value);
  lines.close(); // from here on only a timer or a socket that was left open could keep the process
};
const failed = (error) =>
  ended("failed")({
    name: error.name,
    code: error.code,
    status: error.status,
    message: error.message,
    ours: error instanceof BridgeError,
    state: error instanceof TaskFailed ? error.state : undefined,
    states: error.states?.map((state) => state ?? null),
  });

if (plan.aborted) doings.abort();
if (plan.mode === "loops") {
  const handle = watch(url, options);
  const loop = async () => {
    for await (const state of handle) tell("state", state);
  };
  Promise.all([loop(), loop()]).then(loop).then(ended("finished"), failed); // the last one after the end
} else if (plan.mode === "subscribe") {
  if (!plan.notices) delete options.onNotice;
  subscribe(plan.refs, { ...options, url, onState: (state) => tell("state", state) }).then(ended("finished"), failed);
} else if (plan.mode === "states" || plan.mode === "loop") {
  try {
    if (plan.both) options.onState = (state) => tell("callback", state.progress);
    const handle = plan.mode === "loop" ? watch(url, options) : states(url, options);
    doings.close = handle.close;
    for await (const state of handle) {
      tell("state", state);
      if (plan.slow) await new Promise((resolve) => timeout(resolve, plan.slow));
      if (state.status === plan.leaveOn) break;
    }
    ended("finished")();
  } catch (error) {
    failed(error);
  }
} else {
  const listeners = {
    onState(state) {
      tell("state", state);
      if (plan.hasty) watching.close();
      if (plan.clumsy) throw new Error("a mistake of a listener");
    },
    onDone: (state) => tell("done", state),
  };
  const watching = watch(url, { ...options, ...listeners });
  doings.close = watching.close;
  if (plan.careless) lines.close();
  else watching.finished.then(ended("finished"), failed);
}
