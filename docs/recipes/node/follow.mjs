// Follows tasks until they are final, over NDJSON. For servers and jobs; Node 20 or newer, no dependencies.

import { setTimeout as sleep } from "node:timers/promises";

const SILENCE_MS = 45_000; // the bridge sends a keepalive every 15 s; three missing ones mean a dead connection
const FIRST_WAIT_MS = 500;
const MAX_WAIT_MS = 20_000;

/** A permanent error: a retry would fail the same way. */
export class Refused extends Error {}

/**
 * Yields every state of these tasks; ends when all of them are final.
 *
 * Reconnects automatically, with its cursor, after lost connections, restarts and gateway errors. A task that does not exist
 * is yielded once, as `{task, status: "not_found"}`, if there are others; otherwise `Refused` is thrown.
 *
 * @param {string} bridge address of the bridge, such as `http://127.0.0.1:8080`
 * @param {string[]} tasks refs: `upstream/task_id`
 * @param {{token?: () => string | Promise<string>, signal?: AbortSignal}} [options] `token` is called before each request
 */
export async function* follow(bridge, tasks, { token, signal } = {}) {
  let cursor = "";
  for (let failures = 0; ; failures += 1) {
    try {
      for await (const line of connection(bridge, tasks, cursor, token, signal)) {
        if (line.event === "end") return;
        if (line.code !== "closing") failures = 0; // an overloaded bridge sends `closing` and nothing else
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
    const limit = Math.min(FIRST_WAIT_MS * 2 ** failures, MAX_WAIT_MS);
    await sleep(limit * (0.5 + Math.random() / 2), undefined, { signal });
  }
}

/** The lines of one connection. The bridge ends connections regularly; only the line `end` means that all are final. */
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
      yield { event: "end" }; // everything before this cursor has been delivered
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

/** Classifies an error response as temporary or permanent. */
async function failure(response) {
  const problem = await response.json().catch(() => ({})); // a gateway returns an HTML page
  const message = `${response.status} ${problem.detail ?? response.statusText}`;
  const temporary = response.status >= 500 || response.status === 408 || response.status === 429;
  return temporary && response.headers.get("x-should-retry") !== "false" ? new Error(message) : new Refused(message);
}
