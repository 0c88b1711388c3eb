/** One connection that comes back: with a cursor, with patience, and not for ever where there is no point. */

import { Problem } from "./api.js";
import { DELIVERIES } from "./deliveries.js";

const FIRST_RETRY_MS = 2000;
const LONGEST_RETRY_MS = 30_000;

/**
 * Follows some tasks, from `start` until all have ended or `stop` is called.
 *
 * @param {string} via The delivery, by its key in `DELIVERIES`.
 * @param {string[]} tasks Task refs.
 * @param {object} listener `event(event)`, `frame(text, sent)`, and `phase(name, detail)` with the names
 *   `connecting`, `live`, `waiting` (detail: seconds), `ended`, `refused` (detail: the problem).
 * @param {() => number} patience Seconds without a sign of life after which the connection counts as dead.
 */
export class Connection {
  constructor(via, tasks, listener, patience) {
    this.tasks = tasks;
    this.open = DELIVERIES[via];
    this.listener = listener;
    this.patience = patience;
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
        if (!this.heard) this.failures += 1; // it was let in and told nothing
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

  /** @returns Whether everything has ended. */
  async once() {
    const attempt = new AbortController();
    this.heard = false;
    const abort = () => attempt.abort();
    this.stopped.signal.addEventListener("abort", abort);
    let watchdog;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(abort, this.patience() * 1000);
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
        this.take(event);
        if (event.kind === "end") return true;
      }
      return false;
    } finally {
      clearTimeout(watchdog);
      this.stopped.signal.removeEventListener("abort", abort);
      attempt.abort();
    }
  }

  take(event) {
    if (event.kind === "open") this.listener.phase("live");
    if (event.kind === "retry") this.retry = Math.min(event.milliseconds, LONGEST_RETRY_MS);
    if (event.kind === "reset") this.cursor = null;
    if (event.kind === "state") {
      this.heard = true;
      this.failures = 0;
      this.cursor = event.cursor ?? this.cursor;
    }
    this.listener.event(event);
  }

  /** Milliseconds: what the server asked for, doubled with each failure, spread so that not all come at once. */
  nextWait() {
    const longest = Math.min(this.retry * 2 ** Math.max(0, this.failures - 1), LONGEST_RETRY_MS);
    return longest * (0.5 + Math.random() / 2);
  }
}

/** Waits; less, when the network is back or somebody looks at the page again. */
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
