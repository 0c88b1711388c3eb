/** A value, or what gives it. */
export type Given<T> = T | ((refused: boolean) => T | Promise<T>);

/** Something a viewer should know that is no state. */
export interface Notice {
  /**
   * The bridge's own: `stale`, `fresh`, `stalled`, `upstream_unavailable`, `credential_refused`, `links_expiring`,
   * `task_not_found`, `closing`. The helper's: `connected`, `reconnecting`, `reset`, `buffered` (a proxy holds the
   * stream back, so the helper polls).
   */
  code: string;
  /** The task it is about; null: the connection. */
  task: string | null;
  /** Whether it goes on by itself. */
  retriable: boolean;
  message: string | null;
  /** Of `closing` and `reset`. */
  reason?: string;
}

export interface Options {
  /**
   * A bearer token. A function is asked before each connection, and told whether the bridge refused the token before:
   * then one that is kept somewhere must be renewed. Two refusals in a row end the watch. With a token, also one that
   * turns out empty, the helper uses fetch and never the browser's EventSource.
   */
  token?: Given<string | null | undefined>;
  /** Ends the watch; it then fails with the signal's reason. */
  signal?: AbortSignal;
  /** Where to resume: the `cursor` of the newest state you have. */
  lastEventId?: string;
  /** As of fetch: `"include"` to send the bridge's cookie to another host. */
  credentials?: "omit" | "same-origin" | "include";
  /**
   * One connection for all tabs of this origin that watch the same address. With a text only for tabs that give the
   * same one: use the user's id where users can change. Needed where `url` is a function. Ignored where the browser
   * has no Web Locks (an insecure page, Node).
   */
  share?: boolean | string;
  /** A line without a byte for so long is dead; the bridge says something every 15 s. */
  silenceSeconds?: number;
  /** A stream that brings nothing for so long is held back by a proxy. */
  firstByteSeconds?: number;
  /** Told about notices of the bridge and of the helper. */
  onNotice?: (notice: Notice) => void;
}

export interface WatchOptions extends Options {
  /** Called with each state that is news, in order. */
  onState?: (state: TaskState) => void;
  /** Called with the final state of each task, after `onState`. */
  onDone?: (state: TaskState) => void;
}

export interface Watching {
  /** Disconnects; nothing is called any more, and `finished` is kept. */
  close(): void;
  /**
   * The newest state of each task, once all of them are over or the watch is closed. Fails with a BridgeError when the
   * bridge refuses the watch for good, with the signal's reason, or with what `url` or `token` threw at the start.
   * Need not be awaited: it causes no unhandled rejection.
   */
  finished: Promise<TaskState[]>;
}

/** What ended a watch for good. */
export class BridgeError extends Error {
  name: "BridgeError";
  /** The code of the bridge's problem document; not there when something else answered. */
  code?: string;
  /** The HTTP status. */
  status?: number;
  /** Whether another try could help. */
  retriable: boolean;
}

/**
 * Follows the tasks at `url` until all of them are over.
 *
 * @param url The address of a stream: `/v1/tasks/{upstream}/{task_id}/events` or `/v1/events?task=...`, or what gives
 *   it, asked before each connection, such as one with a fresh ticket.
 */
export function watch(url: Given<string | URL>, options?: WatchOptions): Watching;

/**
 * Each state that is news, until all tasks are over. While the loop is busy, newer states of a task take the place of
 * older ones. Leaving the loop disconnects; what ends a watch for good is thrown.
 */
export function states(url: Given<string | URL>, options?: Options): AsyncGenerator<TaskState, void, undefined>;
