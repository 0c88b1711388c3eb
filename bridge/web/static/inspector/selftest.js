/** Checks whether a proxy between this browser and the bridge buffers events, compresses them, or closes idle streams. */

import { json, request, token } from "./api.js";
import { byId, make, set, setText } from "./dom.js";
import { duration } from "./format.js";
import { BASE } from "./links.js";
import { blocks } from "./sse.js";

const MAX_DELAY_MS = 400; // a longer delay is not the network's
const SOCKET_SECONDS = 5;
const ROUND_TRIPS = 5;

/** @param {() => {keepalive: number, task: string|null}} know Returns what the page knows about the bridge. */
export function makeSelfTest(know) {
  const button = byId("selftest-run");
  const list = byId("selftest-findings");
  button.addEventListener("click", async () => {
    set(button, "aria-disabled", "true");
    if (button.dataset.running) return;
    button.dataset.running = "yes";
    list.replaceChildren();
    const report = (verdict, text) => list.append(make("li", { data: { verdict } }, text));
    try {
      await run(know(), report, (text) => setText(byId("selftest-progress"), text));
    } catch (error) {
      report("bad", `The test was aborted: ${error.message}`);
    }
    setText(byId("selftest-progress"), "Finished.");
    delete button.dataset.running;
    set(button, "aria-disabled", null);
  });
}

async function run({ keepalive, task }, report, progress) {
  progress("Measuring the round-trip time…");
  const roundTrip = await measureRoundTrip();
  report("good", `Round-trip time of a request: ${Math.round(roundTrip)} ms.`);
  await testStream(keepalive, roundTrip, report, progress);
  progress("Opening a WebSocket…");
  await testSocket(task, report);
  report("info", protocolText(protocol()));
}

async function measureRoundTrip() {
  const took = [];
  for (let number = 0; number < ROUND_TRIPS; number += 1) {
    const startedAt = performance.now();
    await (await request("livez")).text();
    took.push(performance.now() - startedAt);
  }
  return took.sort((first, second) => first - second)[Math.floor(ROUND_TRIPS / 2)];
}

/** Each event carries its send time relative to the request; it should arrive within one round trip of that. */
async function testStream(keepalive, roundTrip, report, progress) {
  progress("Receiving ten events, half a second apart…");
  const startedAt = performance.now();
  const response = await request("inspector/pulse", { headers: { Accept: "text/event-stream" } });
  const encoding = response.headers.get("Content-Encoding");
  let delay = 0;
  let beats = 0;
  let last = startedAt;
  let ended = false;
  try {
    for await (const { event, data } of blocks(response.body)) {
      if (data === null) continue;
      const { of, elapsed_ms: left } = JSON.parse(data);
      const late = performance.now() - startedAt - left - roundTrip;
      last = performance.now();
      ended ||= event === "end";
      if (event !== "end") {
        delay = Math.max(delay, late);
        beats += 1;
      }
      if (beats === of && !ended) {
        reportDelay(delay, report);
        progress(`Waiting ${duration(keepalive)} on an idle stream, the longest time without a byte…`);
      } else if (!ended) progress(`Event ${beats} of ${of}…`);
    }
  } catch {
    // The stream was cut: reported below.
  }
  if (ended) report("good", `Idle connection stayed open for ${duration(keepalive)}, the interval of keepalives.`);
  else report("bad", `The stream was cut after ${duration((performance.now() - last) / 1000)} without data. Lower keepalive_seconds, or raise the idle timeout of your proxy.`);
  if (encoding) report("bad", `Your proxy compresses the stream (${encoding}), which can delay events. Exclude text/event-stream from compression.`);
  else report("good", "The stream is not compressed.");
}

function reportDelay(late, report) {
  if (late < MAX_DELAY_MS) report("good", `Events arrive without delay: at most ${Math.max(0, Math.round(late))} ms late.`);
  else report("bad", `Your proxy delays events by ${(late / 1000).toFixed(1)} s. Disable response buffering for this bridge, or use WebSocket or long-poll.`);
}

async function testSocket(task, report) {
  const address = new URL("v1/ws", BASE);
  address.protocol = address.protocol.replace("http", "ws");
  if (token.value && !task) {
    report("info", "WebSocket not tested: with a token it needs a ticket for a task. Watch a task first.");
    return;
  }
  if (token.value) {
    try {
      const body = JSON.stringify({ tasks: [task], seconds: 60 });
      const { ticket } = await json("v1/tickets", { method: "POST", body, headers: { "Content-Type": "application/json" } });
      address.searchParams.set("ticket", ticket);
    } catch (problem) {
      report("info", `WebSocket not tested: ${problem.message}.`);
      return;
    }
  }
  const took = await pingTime(address);
  if (took === null) report("bad", "WebSocket connections fail. Use SSE, or forward the Upgrade header in your proxy.");
  else report("good", `WebSocket works: ping time ${Math.round(took)} ms.`);
}

/** @returns Milliseconds from ping to pong; null if there was no pong. */
function pingTime(address) {
  return new Promise((resolve) => {
    const socket = new WebSocket(address, "bridge.v1.json");
    let startedAt;
    const finish = (result) => {
      clearTimeout(timer);
      socket.close();
      resolve(result);
    };
    const timer = setTimeout(() => finish(null), SOCKET_SECONDS * 1000);
    socket.addEventListener("close", () => finish(null));
    socket.addEventListener("open", () => {
      startedAt = performance.now();
      socket.send(JSON.stringify({ type: "ping", id: 1 }));
    });
    socket.addEventListener("message", ({ data }) => JSON.parse(data).type === "pong" && finish(performance.now() - startedAt));
  });
}

function protocol() {
  return performance.getEntriesByType("navigation")[0]?.nextHopProtocol ?? "";
}

function protocolText(name) {
  if (name === "h2" || name === "h3") return "HTTP/2 or newer: all streams share one connection.";
  return "HTTP/1.1: browsers open at most six connections per host, over all tabs. Watch many tasks on one stream.";
}
