// Made by build.mjs; edit src/head.d.ts, or the schema of the state document.

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

/** The whole of what is known about a task at one moment. Every key is always there, null when unknown. A later version of the bridge may add keys: ignore those you do not know. What the bridge of this version sends has no others. */
export interface TaskState {
  /** The task ref: the name of the upstream, a slash, the provider's id of the task. Percent-encode the id in a path. */
  task: string;
  /** The provider's endpoint, as the operator named it. */
  upstream: string;
  /** The provider's id of the task. No control characters; may hold slashes. */
  task_id: string;
  /** The client's own id of the task, where it gave the provider one. */
  alias: string | null;
  status: Status;
  /** The provider's own word, verbatim. */
  upstream_status: string | null;
  /** Percent done. Never goes down while the task is open, stays where it was on failure. */
  progress: number | null;
  /** Seconds left, estimated. Null when there is no ground for an estimate, and once the task is final. */
  eta_seconds: number | null;
  /** How many are before it, where the provider tells. */
  queue_position: number | null;
  /** The provider's name of the model. */
  model: string | null;
  /** The provider's name of what the model does. */
  action: string | null;
  /** When the provider took the task. */
  created_at: Time | null;
  /** When the task ended, by the provider's clock. */
  completed_at: Time | null;
  /** The results, one entry each. Empty until there are some. */
  outputs: Output[];
  /** Why the task failed. */
  error: TaskError | null;
  /** What the task costs, where the provider tells. */
  cost: Cost | null;
  /** When the bridge first saw this state. */
  changed_at: Time;
  /** When the bridge last confirmed this state with the provider. */
  observed_at: Time;
  source: Source;
  cursor: Cursor;
  /** The provider's own document. Only with `include=raw`, null otherwise. */
  raw: Record<string, unknown> | null;
}

/** `queued`, `processing`, `input_required` and `unknown` are open. `completed`, `failed`, `cancelled` and `lost` are final: nothing changes them any more, only `lost` may still give way to one of the other three. `lost`: the provider no longer shows the task, or its deadline passed. `unknown`: nothing seen yet, or a word of the provider that nobody mapped. */
export type Status = "queued" | "processing" | "input_required" | "unknown" | "completed" | "failed" | "cancelled" | "lost";

/** The way this state was first seen. */
export type Source = "poll" | "stream" | "callback" | "submit";

/** A place in the history of the bridge, to resume from. Opaque: keep it, compare it with nothing. */
export type Cursor = string;

/** RFC 3339, in UTC, with milliseconds. */
export type Time = string;

/** One result of a task. */
export interface Output {
  /** What kind of thing it is. */
  type: "image" | "video" | "audio" | "file";
  /** Where it is. A `data:` URL for content the provider sent in its answer, but only with `include=data`. */
  url: string | null;
  /** When the link dies, where the provider tells. */
  expires_at: Time | null;
  /** Pixels. */
  width: number | null;
  /** Pixels. */
  height: number | null;
  /** Length of the recording. */
  duration_seconds: number | null;
  /** The provider's id of the file. */
  file_id: string | null;
  /** Size of content that the provider sent in its answer. Only there for such content. */
  bytes?: number;
}

/** Why a task failed, in the provider's words. */
export interface TaskError {
  /** The provider's code. */
  code: string | null;
  /** A sentence for people. */
  message: string | null;
}

/** In the provider's own credits. */
export interface Cost {
  /** What was charged. */
  credits_used: number | null;
  /** What was announced before. */
  credits_estimated: number | null;
}
