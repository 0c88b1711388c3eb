import { type Given, type Status, type TaskState } from "./index.cjs";
/** The address of the bridge, and the credential. */
export interface CallOptions {
    /** The address of the bridge. Default: the page's origin; required in Node. */
    url?: string | URL;
    /** A bearer token, or a function that returns it, called before each request. */
    token?: Given<string | null | undefined>;
    /** Ends the call, which then rejects with the signal's reason. */
    signal?: AbortSignal;
    /** As for fetch: `"include"` sends the bridge's cookie to another host. */
    credentials?: "omit" | "same-origin" | "include";
}
export interface SubmitOptions extends CallOptions {
    /** Parameters of the provider's call beside the body, such as `{ endpoint: "fal-ai/flux/dev" }`. */
    options?: Record<string, string>;
    /**
     * Names this submit for 24 h: a repetition with the same key gets the first answer. At most 255 visible ASCII
     * characters, such as a UUID.
     */
    idempotencyKey?: string;
    /** URL to which the end of the task is delivered; its host must be in the bridge's `webhook_hosts`. */
    webhook?: string | URL;
    /** Up to 16 words to find the task by: 1 to 64 letters, digits or `.`, `_`, `:`, `-`, such as `user:7`. */
    tags?: readonly string[];
    /** A name that it shares with others, such as those of one batch; a word like a tag. */
    group?: string;
    /**
     * For how long failures that may pass are retried, such as a lost connection or a bridge that restarts. All attempts
     * have one key: `idempotencyKey`, or a random one. Default: 0, one attempt.
     */
    retrySeconds?: number;
}
export type ListStatus = Status | "open" | "final";
/** Which tasks are listed: those for which all of this is true. */
export interface ListOptions extends CallOptions {
    upstream?: string;
    /** One, or a list; `open` and `final` are all open, all final ones. */
    status?: ListStatus | readonly ListStatus[];
    tag?: string;
    group?: string;
    /** Of `list`: how many at most; default: all. Of `listPage`: how many on the page, at most 200. */
    limit?: number;
    /** Where to continue: the `next` of a page. */
    before?: string;
}
/** Part of a list. */
export interface ListPage {
    /** The newest first, by when they were first seen. */
    tasks: TaskState[];
    /** The `before` of the next page; null on the last one. */
    next: string | null;
}
export interface RegisterOptions extends CallOptions {
    /** As for `submit`. Registering a task again replaces its tags and its group, also by none. */
    tags?: readonly string[];
    group?: string;
    /** Seconds after its first state after which it is `lost` if it has not ended; default: as the upstream is set. */
    deadlineSeconds?: number;
    /** As for `submit`. */
    webhook?: string | URL;
}
/** A group once it is closed. */
export interface ClosedGroup {
    group: string;
    closed: true;
    /** How many tasks ended how so far, such as `{ completed: 2, failed: 1 }`. */
    counts: Record<string, number>;
    /** How many are not final yet. */
    open: number;
}
export interface TicketOptions extends CallOptions {
    /** What it is for: task refs, tags, groups. */
    tasks?: readonly string[];
    tags?: readonly string[];
    groups?: readonly string[];
    /** 1 to 900; never longer than the caller's own credential. Default: 300. */
    seconds?: number;
}
/** A short-lived, read-only credential for URLs, such as for a page. */
export interface TaskTicket {
    ticket: string;
    /** RFC 3339. */
    expires_at: string;
    /**
     * Path and query of its stream and its WebSocket at the bridge; `events` is null if no single stream follows all that it
     * is for. Put the address of the bridge, as a page sees it, in front.
     */
    links: {
        events: string | null;
        ws: string;
    };
}
/** Where the bridge is, as the page sees it, and what the address carries. */
export interface OutputOptions {
    /** The address of the bridge. Default: the page's origin; required in Node. */
    url?: string | URL;
    /** A ticket for this task, its tag or its group: an element sends no headers. Not needed with the bridge's cookie. */
    ticket?: string;
}
/** The calls of one group. */
export interface Group {
    /**
     * Closes it, for which the token needs the scope `submit`: adding a task is a `conflict` from now on, and once all of it
     * is final, all that watch it get `group_done`. Closing it again changes nothing.
     */
    close(): Promise<ClosedGroup>;
}
/** Which states are delivered: final ones, those with another `status`, all, or those whose files are stored. */
export type WebhookEventType = "task.final" | "task.status" | "task.state" | "task.stored";
/** The body of a delivery, for the receiver. Verify its signature before reading it. */
export interface WebhookEvent {
    /** `webhook.test` is that of a test. */
    type: WebhookEventType | "webhook.test";
    /** When the state began, RFC 3339: its `changed_at`. */
    timestamp: string;
    /** The state document of the task. */
    data: TaskState;
}
/** An endpoint to which the bridge delivers states. */
export interface WebhookEndpoint {
    /** Of an endpoint in the configuration, its name there. */
    id: string;
    url: string;
    events: WebhookEventType[];
    /** Of which upstreams; empty for all. */
    upstreams: string[];
    /** Of tasks with one of these tags; empty for all. */
    tags: string[];
    enabled: boolean;
    /** Why it is disabled: `operator`, `gone`, `failing` or `full`; null while it is enabled. */
    disabled_reason: string | null;
    /** Whether it is in the configuration, which alone can change it. */
    static: boolean;
    /** Only in the answers of `create` and `rotateSecret`. */
    secret?: string;
}
/** One request to an endpoint, and what came of it. */
export interface WebhookAttempt {
    /** The `webhook-id` it had. */
    delivery: string;
    /** `delivered` if the receiver answered 2xx; else `failed`, `expired`, `gone` or `dropped`. */
    result: string;
    /** HTTP status of the receiver; null if there was no response. */
    status: number | null;
    seconds: number | null;
    /** Why it failed. */
    error: string | null;
    /** When it was made, RFC 3339. */
    at: string;
}
/** One state for one endpoint, with the attempts to deliver it. */
export interface WebhookDelivery {
    /** Its `webhook-id`, the same in every attempt. */
    id: string;
    type: string;
    /** The ref of the task; null for a test. */
    task: string | null;
    /** `delivered`, `waiting` for the next attempt, `failed`, `gone` or `dropped`. */
    state: string;
    /** The newest first. */
    attempts: WebhookAttempt[];
    next_attempt_at: string | null;
}
/** The calls that administer webhooks; the token needs the scope `admin`. None is retried. */
export interface WebhookAdmin {
    /** All endpoints, those in the configuration included. */
    list(): Promise<WebhookEndpoint[]>;
    get(id: string): Promise<WebhookEndpoint>;
    /** Adds an endpoint. Its `secret` is in this answer only. */
    create(endpoint: {
        url: string | URL;
        events?: WebhookEventType[];
        upstreams?: string[];
        tags?: string[];
    }): Promise<WebhookEndpoint>;
    setEnabled(id: string, enabled: boolean): Promise<WebhookEndpoint>;
    /** Deletes an endpoint, with what still waits for it. */
    delete(id: string): Promise<void>;
    /** Gives an endpoint a new secret, in this answer only. The old one also signs for 24 h. */
    rotateSecret(id: string): Promise<WebhookEndpoint>;
    /** Sends one `webhook.test`, now; resolves with what came of it. */
    test(id: string): Promise<WebhookAttempt>;
    /** The newest deliveries of an endpoint, the newest first. */
    deliveries(id: string): Promise<WebhookDelivery[]>;
    /** Sends a delivery once more, now, with the same `webhook-id`; resolves with what came of it. */
    redeliver(id: string, delivery: string): Promise<WebhookAttempt>;
}
/**
 * Creates a task at the provider, with `body` unchanged; the bridge watches it. Resolves with its first state.
 *
 * Rejects with a BridgeError; with its `retriable` true the same submit may succeed later. After a lost connection the
 * task may or may not exist: repeat the submit with the same `idempotencyKey`, and it is created once.
 */
export declare function submit(upstream: string, body: object, options?: SubmitOptions): Promise<TaskState>;
/**
 * Has the bridge watch a task that was submitted elsewhere, to its end and without a viewer. Resolves with its state, which
 * is `unknown` if the provider has not answered within seconds.
 *
 * Rejects with a BridgeError: `task_not_found` if the provider does not know it, `conflict` if the group is closed.
 */
export declare function register(ref: string, options?: RegisterOptions): Promise<TaskState>;
/** Deletes a final task from the bridge, not from the provider. Rejects with `conflict` if it is not final. */
export declare function forget(ref: string, options?: CallOptions): Promise<void>;
/** Yields the tasks that the caller may see, the newest first; asks for a page when the loop comes to it. */
export declare function list(options?: ListOptions): AsyncGenerator<TaskState, void, undefined>;
/** Resolves with one page of the list, for a page with a button that shows more. */
export declare function listPage(options?: ListOptions): Promise<ListPage>;
/**
 * Issues a ticket, for a page of a user. Of a tag or group it reads what the caller's own credential could read, also what
 * comes later.
 */
export declare function ticket(options: TicketOptions): Promise<TaskTicket>;
/**
 * Returns the address of a file of a result at the bridge, for `<video src>`, `<img src>` or a link. Nothing is requested.
 *
 * @param n Which of the `outputs` of the state; the first is 0.
 */
export declare function outputUrl(ref: string, n?: number, options?: OutputOptions): string;
/** Returns the calls of a group at the bridge of `options`. To follow it: `watch({ group })`. */
export declare function group(name: string, options?: CallOptions): Group;
/** Returns the calls that administer webhooks at the bridge of `options`. */
export declare function webhooks(options?: CallOptions): WebhookAdmin;
