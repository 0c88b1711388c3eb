/** What stands between this browser and the bridge: does it hold events back, compress them, or cut silence? */

import { json, request, token } from "./api.js";
import { byId, make, set, setText } from "./dom.js";
import { duration } from "./format.js";
import { BASE } from "./links.js";
import { blocks } from "./sse.js";

const HELD_MS = 400; // later than that is no longer the network
const SOCKET_SECONDS = 5;
const ROUND_TRIPS = 5;

/** @param {() => {keepalive: number, task: string|null}} know What the page knows of the bridge. */
export function makeSelfTest(know) {
  const button = byId("selftest-run");
  const list = byId("selftest-findings");
  button.addEventListener("click", async () => {
    set(button, "aria-disabled", "true");
    if (button.dataset.running) return;
    button.dataset.running = "yes";
    list.replaceChildren();
    const say = (verdict, sentence) => list.append(make("li", { data: { verdict } }, sentence));
    try {
      await run(know(), say, (words) => setText(byId("selftest-progress"), words));
    } catch (error) {
      say("bad", `The test could not go on: ${error.message}`);
    }
    setText(byId("selftest-progress"), "The test is over.");
    delete button.dataset.running;
    set(button, "aria-disabled", null);
  });
}

async function run({ keepalive, task }, say, progress) {
  progress("Measuring the round trip…");
  const roundTrip = await measureRoundTrip();
  say("good", `A request and its answer take ${Math.round(roundTrip)} ms.`);
  await testStream(keepalive, roundTrip, say, progress);
  progress("Opening a WebSocket…");
  await testSocket(task, say);
  say("info", connectionWords(protocol()));
}

async function measureRoundTrip() {
  const took = [];
  for (let number = 0; number < ROUND_TRIPS; number += 1) {
    const began = performance.now();
    await (await request("livez")).text();
    took.push(performance.now() - began);
  }
  return took.sort((one, other) => one - other)[Math.floor(ROUND_TRIPS / 2)];
}

/** Each block says how long after the request it left; it should be here no later than a round trip after that. */
async function testStream(keepalive, roundTrip, say, progress) {
  progress("Listening to ten beats, half a second apart…");
  const began = performance.now();
  const response = await request("inspector/pulse", { headers: { Accept: "text/event-stream" } });
  const encoding = response.headers.get("Content-Encoding");
  let held = 0;
  let beats = 0;
  let last = began;
  let ended = false;
  try {
    for await (const { event, data } of blocks(response.body)) {
      if (data === null) continue;
      const { of, elapsed_ms: left } = JSON.parse(data);
      const late = performance.now() - began - left - roundTrip;
      last = performance.now();
      ended ||= event === "end";
      if (event !== "end") {
        held = Math.max(held, late);
        beats += 1;
      }
      if (beats === of && !ended) {
        sayHeld(held, say);
        progress(`Waiting through ${duration(keepalive)} of silence, the longest a stream is silent…`);
      } else if (!ended) progress(`Beat ${beats} of ${of}…`);
    }
  } catch {
    // cut: said below
  }
  if (ended) say("good", `${duration(keepalive)} of silence were survived: a keepalive comes at least that often.`);
  else say("bad", `The stream was cut after ${duration((performance.now() - last) / 1000)} of silence. Let the bridge speak more often (keepalive_seconds), or your proxy wait longer.`);
  if (encoding) say("bad", `Your proxy compresses the stream (${encoding}), which tends to hold events back. Exclude text/event-stream.`);
  else say("good", "The stream is not compressed.");
}

function sayHeld(late, say) {
  if (late < HELD_MS) say("good", `Events arrive as they are sent: at most ${Math.max(0, Math.round(late))} ms late.`);
  else say("bad", `Your proxy holds events back by ${(late / 1000).toFixed(1)} s. Switch off its buffering for this bridge, or use WebSocket or long-poll.`);
}

async function testSocket(task, say) {
  const address = new URL("v1/ws", BASE);
  address.protocol = address.protocol.replace("http", "ws");
  if (token.value && !task) {
    say("info", "WebSocket was not tried: with a token it needs a ticket for a task. Watch one first.");
    return;
  }
  if (token.value) {
    try {
      const body = JSON.stringify({ tasks: [task], seconds: 60 });
      const { ticket } = await json("v1/tickets", { method: "POST", body, headers: { "Content-Type": "application/json" } });
      address.searchParams.set("ticket", ticket);
    } catch (problem) {
      say("info", `WebSocket was not tried: ${problem.message}.`);
      return;
    }
  }
  const took = await pingTime(address);
  if (took === null) say("bad", "A WebSocket does not get through. Use SSE, or let your proxy pass the Upgrade header on.");
  else say("good", `A WebSocket gets through: a ping is answered after ${Math.round(took)} ms.`);
}

/** @returns Milliseconds from a ping to its pong; null when there was none. */
function pingTime(address) {
  return new Promise((resolve) => {
    const socket = new WebSocket(address, "bridge.v1.json");
    let began;
    const finish = (result) => {
      clearTimeout(timer);
      socket.close();
      resolve(result);
    };
    const timer = setTimeout(() => finish(null), SOCKET_SECONDS * 1000);
    socket.addEventListener("close", () => finish(null));
    socket.addEventListener("open", () => {
      began = performance.now();
      socket.send(JSON.stringify({ type: "ping", id: 1 }));
    });
    socket.addEventListener("message", ({ data }) => JSON.parse(data).type === "pong" && finish(performance.now() - began));
  });
}

function protocol() {
  return performance.getEntriesByType("navigation")[0]?.nextHopProtocol ?? "";
}

function connectionWords(name) {
  if (name === "h2" || name === "h3") return "This page came over HTTP/2 or newer: many streams share one connection.";
  return "This page came over HTTP/1.1: a browser opens at most six connections to one host, over all its tabs. Watch many tasks on one stream.";
}
