/** A value, or a function that returns it. */
export type Given<T> = T | ((refused: boolean) => T | Promise<T>);

/** Many tasks by one name: everything with a tag, or in a group, also what comes later. */
export type Selection = { tag: string; group?: undefined } | { group: string; tag?: undefined };

/** What is followed: the address of a stream, a function that returns it, or a tag or group. */
export type Target = Given<string | URL> | Selection;

/** An out-of-band message beside the states. */
export interface Notice {
  /**
   * From the bridge: `stale`, `fresh`, `stalled`, `upstream_unavailable`, `credential_refused`, `unknown_status`,
   * `result_unavailable`, `raw_omitted`, `links_expiring`, `task_not_found`, `closing`, `group_done` (the group is closed
   * and all of it is final: the watch ends). From the helper: `connected`, `reconnecting`, `reset`, `buffered` (a proxy
   * buffers the stream, so the helper polls).
   */
  code: string;
  /** The task concerned; null for the connection. */
  task: string | null;
  /** Whether the watch continues or retries automatically. */
  retriable: boolean;
  message: string | null;
  /** Only for `closing` and `reset`. */
  reason?: string;
  /** Only for `group_done`: the name of the group. */
  group?: string;
  /** Only for `group_done`: how many of its tasks ended how, such as `{ completed: 2, failed: 1 }`. */
  counts?: Record<string, number>;
}

export interface Options {
  /**
   * A bearer token. A function is called before each connection, with `true` if the bridge rejected the previous token:
   * then a cached token must be renewed. Two refusals in a row end the watch. With this option, even if the token is
   * empty, the helper uses fetch and never the browser's EventSource.
   */
  token?: Given<string | null | undefined>;
  /** Ends the watch, which then rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Where to resume: the `cursor` of the newest state you have. */
  lastEventId?: string;
  /** As for fetch: `"include"` sends the bridge's cookie to another host. */
  credentials?: "omit" | "same-origin" | "include";
  /**
   * One connection for all tabs of this origin that watch the same address. A string limits it to tabs with the same
   * string: use the user's id where users can change. A string is required if `url` is a function. Ignored without
   * Web Locks (an insecure page, Node).
   */
  share?: boolean | string;
  /** A connection without a byte for this long is dead; the bridge sends a keepalive every 15 s. Default: 45. */
  silenceSeconds?: number;
  /** A stream without an event for this long is being buffered by a proxy. Default: 10. */
  firstByteSeconds?: number;
  /** Called with notices of the bridge and of the helper. */
  onNotice?: (notice: Notice) => void;
}

export interface WatchOptions extends Options {
  /** The address of the bridge, for a tag or group. Default: the page's origin; required in Node. */
  url?: string | URL;
  /** Called with each new state, in order. */
  onState?: (state: TaskState) => void;
  /** Called with the final state of each task, after `onState`. */
  onDone?: (state: TaskState) => void;
}

/** A watch. A loop over it, `for await (const state of watch(url))`, gets the states that `onState` gets. */
export interface Watching extends AsyncIterable<TaskState> {
  /** Disconnects: no more callbacks, and `finished` resolves. */
  close(): void;
  /**
   * Resolves to the newest state of each task (of at most 10,000) when all are final, the group is done or the watch is
   * closed. Rejects with a BridgeError when the bridge rejects the watch permanently, with the signal's reason, or with
   * what `url` or `token` threw at the start. Need not be awaited: it causes no unhandled rejection.
   */
  finished: Promise<TaskState[]>;
  /**
   * Yields each new state, until all tasks are final; while the loop is busy, newer states of a task replace older ones.
   * Leaving the loop disconnects. A permanent error is thrown after the states before it.
   */
  [Symbol.asyncIterator](): AsyncGenerator<TaskState, void, undefined>;
}

export type SubscribeOptions = WatchOptions;

/** The error that ended a watch. */
export class BridgeError extends Error {
  name: "BridgeError";
  /** The code of the bridge's problem document; missing if something else responded, such as a proxy. */
  code?: string;
  /** The HTTP status. */
  status?: number;
  /** Whether a retry may succeed. */
  retriable: boolean;
  /** Of `subscribe`, if only some tasks were not found: what `TaskFailed` has. */
  states?: (TaskState | undefined)[];
}

/** A task that `subscribe` waited for failed, was cancelled or lost. The message is the provider's, else the status. */
export class TaskFailed extends Error {
  name: "TaskFailed";
  /** The final state of the task; of a list, of the first one that is not completed. */
  state: TaskState;
  /** The newest states of all tasks, in the order asked; undefined for a task that was not found. */
  states: (TaskState | undefined)[];
}

/**
 * Waits for a task: resolves with its final state when it is `completed`.
 *
 * Rejects with TaskFailed if it failed, was cancelled or lost, with a BridgeError if the bridge rejects it permanently,
 * or with the reason of the signal. Lost connections are retried without end: limit the time with the signal.
 *
 * @param ref The task ref, `upstream/task_id`.
 */
export function subscribe(ref: string, options?: SubscribeOptions): Promise<TaskState>;
/**
 * Waits for all tasks of a list on one connection: resolves with their final states, in the order asked, when all are
 * `completed`. Rejects after the last one, for the first in the order asked that is not.
 */
export function subscribe(refs: readonly string[], options?: SubscribeOptions): Promise<TaskState[]>;

/**
 * Follows the tasks at an address until all of them are final, or everything with a tag or in a group.
 *
 * A tag begins with the states of its newest 1,000 tasks, and never ends: tasks that get it later appear with their
 * first state. A group likewise, but it ends when it is closed and all of it is final, with the notice `group_done`.
 *
 * @param target The address of a stream: `/v1/tasks/{upstream}/{task_id}/events`, `/v1/events?task=...` or the
 *   `links.events` of a ticket; a function that returns it, called before each connection, such as one with a new ticket;
 *   or `{ tag }` or `{ group }` of the bridge at `url`.
 */
export function watch(target: Target, options?: WatchOptions): Watching;

/** Yields each new state of a target of `watch`, as a loop over it does; connects when the loop begins. */
export function states(target: Target, options?: Options & { url?: string | URL }): AsyncGenerator<TaskState, void, undefined>;
