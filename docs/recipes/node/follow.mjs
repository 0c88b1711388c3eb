// Follows tasks to their ends over NDJSON. For servers and jobs: Node 20 or newer, nothing to install.

import { setTimeout as sleep } from "node:timers/promises";

const SILENCE_MS = 45_000; // the bridge says something every 15 s; three times nothing is a dead line
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 20_000;

/** The bridge said no, and would say no again. */
export class Refused extends Error {}

/**
 * Yields every state of these tasks as it comes; ends when all of them are final.
 *
 * Comes back by itself, with its cursor, after lost connections, restarts and the errors of gateways. A task that does
 * not exist is yielded once, as `{task, status: "not_found"}`, when there are others; alone it is `Refused`.
 *
 * @param {string} bridge where the bridge is, such as `http://127.0.0.1:8080`
 * @param {string[]} tasks refs: `upstream/task_id`
 * @param {{token?: () => string | Promise<string>, signal?: AbortSignal}} [options] `token` is asked before each request
 */
export async function* follow(bridge, tasks, { token, signal } = {}) {
  let cursor = "";
  for (let failures = 0; ; failures += 1) {
    try {
      for await (const line of connection(bridge, tasks, cursor, token, signal)) {
        if (line.event === "end") return;
        if (line.code !== "closing") failures = 0; // a bridge that is full says `closing` and nothing else
        cursor = line.cursor ?? cursor;
        if (line.event === undefined) {
          yield line;
        } else if (line.code === "task_not_found") {
          yield { task: line.task, status: "not_found", outputs: [], error: null };
        }
      }
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (error instanceof Refused) throw error;
    }
    const longest = Math.min(FIRST_WAIT_MS * 2 ** failures, LONGEST_WAIT_MS);
    await sleep(longest * (0.5 + Math.random() / 2), undefined, { signal });
  }
}

/** The lines of one connection. The bridge ends it now and then; only a line `end` means that all is over. */
async function* connection(bridge, tasks, cursor, token, signal) {
  const url = new URL("/v1/events", bridge);
  if (cursor) url.searchParams.set("last_event_id", cursor);
  const headers = { accept: "application/x-ndjson", "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${await token()}`;

  const silence = new AbortController();
  const watchdog = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const response = await fetch(url, {
      method: "POST", // a list of tasks may be too long for a URL
      headers,
      body: JSON.stringify({ tasks }),
      signal: signal ? AbortSignal.any([signal, silence.signal]) : silence.signal,
    });
    if (response.status === 204) {
      yield { event: "end" }; // our cursor says that we have seen everything
      return;
    }
    if (!response.ok) throw await failure(response);

    let rest = "";
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
      watchdog.refresh();
      const lines = (rest + text).split("\n");
      rest = lines.pop();
      for (const line of lines) yield line ? JSON.parse(line) : { event: "alive" };
    }
  } finally {
    clearTimeout(watchdog);
  }
}

/** What an answer that is no stream means: worth another try or not. */
async function failure(response) {
  const problem = await response.json().catch(() => ({})); // a gateway answers with a page
  const words = `${response.status} ${problem.detail ?? response.statusText}`;
  const passes = response.status >= 500 || response.status === 408 || response.status === 429;
  return passes && response.headers.get("x-should-retry") !== "false" ? new Error(words) : new Refused(words);
}
