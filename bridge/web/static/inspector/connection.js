/** One connection that reconnects: with its cursor, with back-off, and not after a permanent error. */

import { Problem } from "./api.js";
import { DELIVERIES } from "./deliveries.js";

const FIRST_RETRY_MS = 2000;
const MAX_RETRY_MS = 30_000;

/**
 * Follows tasks from `start` until all are final or `stop` is called.
 *
 * @param {string} via The delivery, by its key in `DELIVERIES`.
 * @param {string[]} tasks Task refs.
 * @param {object} listener `event(event)`, `frame(text, sent)`, and `phase(name, detail)` with the names
 *   `connecting`, `live`, `waiting` (detail: seconds), `ended`, `refused` (detail: the Problem).
 * @param {() => number} timeout Returns the seconds without a byte after which the connection counts as dead.
 */
export class Connection {
  constructor(via, tasks, listener, timeout) {
    this.tasks = tasks;
    this.open = DELIVERIES[via];
    this.listener = listener;
    this.timeout = timeout;
    this.stopped = new AbortController();
    this.cursor = null;
    this.retry = FIRST_RETRY_MS;
    this.failures = 0;
  }

  stop() {
    this.stopped.abort();
  }

  async start() {
    const { listener, stopped } = this;
    while (!stopped.signal.aborted) {
      listener.phase("connecting");
      try {
        if (await this.once()) {
          if (!stopped.signal.aborted) listener.phase("ended");
          return;
        }
        if (!this.received) this.failures += 1; // accepted, then closed without an event: back off too
      } catch (error) {
        if (stopped.signal.aborted) return;
        if (error instanceof Problem && error.permanent) {
          listener.phase("refused", error);
          return;
        }
        this.failures += 1;
      }
      if (stopped.signal.aborted) return;
      const wait = this.nextWait();
      listener.phase("waiting", wait / 1000);
      await pause(wait, stopped.signal);
    }
  }

  /** @returns Whether all tasks are final. */
  async once() {
    const attempt = new AbortController();
    this.received = false;
    const abort = () => attempt.abort();
    this.stopped.signal.addEventListener("abort", abort);
    let watchdog;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(abort, this.timeout() * 1000);
    };
    alive();
    const frame = (text, sent = false) => {
      if (!sent) alive();
      if (!attempt.signal.aborted) this.listener.frame(text, sent);
    };
    try {
      for await (const event of this.open(this.tasks, { resume: this.cursor, signal: attempt.signal, frame })) {
        if (attempt.signal.aborted) break;
        alive();
        this.accept(event);
        if (event.kind === "end") return true;
      }
      return false;
    } finally {
      clearTimeout(watchdog);
      this.stopped.signal.removeEventListener("abort", abort);
      attempt.abort();
    }
  }

  accept(event) {
    if (event.kind === "open") this.listener.phase("live");
    if (event.kind === "retry") this.retry = Math.min(event.milliseconds, MAX_RETRY_MS);
    if (event.kind === "reset") this.cursor = null;
    if (event.kind === "state") {
      this.received = true;
      this.failures = 0;
      this.cursor = event.cursor ?? this.cursor;
    }
    this.listener.event(event);
  }

  /** Milliseconds: the server's `retry:`, doubled with each failure, with jitter so that clients do not reconnect at once. */
  nextWait() {
    const limit = Math.min(this.retry * 2 ** Math.max(0, this.failures - 1), MAX_RETRY_MS);
    return limit * (0.5 + Math.random() / 2);
  }
}

/** Sleeps, or less if the network returns or the page becomes visible. */
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(finish, milliseconds);
    const shown = () => document.visibilityState === "visible" && finish();
    function finish() {
      clearTimeout(timer);
      removeEventListener("online", finish);
      document.removeEventListener("visibilitychange", shown);
      signal.removeEventListener("abort", finish);
      resolve();
    }
    addEventListener("online", finish);
    document.addEventListener("visibilitychange", shown);
    signal.addEventListener("abort", finish);
  });
}
