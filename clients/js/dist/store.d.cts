import { type Notice, type SubscribeOptions, type TaskState } from "./index.cjs";
/** Callbacks may be new functions with every render; only another `url` or another text as `token` reconnects. */
export type TaskOptions = Pick<SubscribeOptions, "url" | "token" | "credentials" | "onState" | "onNotice">;
/** What is known about a task. */
export interface TaskView {
    /** The newest state; null until it arrives. */
    readonly state: TaskState | null;
    /** A problem of the provider or the connection that is being handled; null once it is resolved. */
    readonly notice: Notice | null;
    /** Why the task cannot be followed: it does not exist, or this page may not see it. A failed task is a state. */
    readonly error: Error | null;
}
export declare const EMPTY: TaskView;
/** One use of a hook. A tuple, as the names of properties cannot be shortened by the build. */
export type Follower = readonly [refs: readonly string[], options: () => TaskOptions, changed: () => void];
/** What has one connection: an address and a credential. Functions are not compared, only called. */
export declare const keyOf: ({ url, token }: TaskOptions) => string;
export declare const viewOf: (key: string, ref: string | null | undefined) => TaskView;
/** Follows tasks until the function that it returns is called. */
export declare const follow: (key: string, follower: Follower) => (() => void);
