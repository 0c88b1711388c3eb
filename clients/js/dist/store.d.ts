import { type Notice, type Selection, type SubscribeOptions, type TaskState } from "./index.js";
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
/** What is known about everything with a tag, or in a group: with each change a new object, and a new map. */
export interface TasksView {
    /** The newest state of each task, by its ref, in the order in which they appeared. It only grows. */
    readonly tasks: ReadonlyMap<string, TaskState>;
    /** Of a group that is closed, once all of it is final: how many tasks ended how; else null. */
    readonly counts: Readonly<Record<string, number>> | null;
    /** A problem of the connection that is being handled; null once it is resolved. */
    readonly notice: Notice | null;
    /** Why it cannot be followed, such as a token that is rejected. A failed task is a state. */
    readonly error: Error | null;
}
/** A tag or group; null or undefined while there is none. */
export type MaybeSelection = Selection | null | undefined;
export declare const NO_TASKS: TasksView;
export declare const EMPTY: TaskView;
/** One use of a hook. A tuple, as the names of properties cannot be shortened by the build. */
export type Follower = readonly [refs: readonly string[], options: () => TaskOptions, changed: () => void];
/** What has one connection: an address and a credential. Functions are not compared, only called. */
export declare const keyOf: ({ url, token }: TaskOptions) => string;
export declare const viewOf: (key: string, ref: string | null | undefined) => TaskView;
/** Follows tasks until the function that it returns is called. */
export declare const follow: (key: string, follower: Follower) => (() => void);
/** The same for the same tag or group, also in another object. */
export declare const nameOf: (selection: MaybeSelection) => string;
type SelectionFollower = readonly [options: () => TaskOptions, changed: () => void];
export declare const viewOfAll: (key: string, selection: MaybeSelection) => TasksView;
/** Follows a tag or group until the function that it returns is called. */
export declare const followAll: (key: string, selection: Selection, follower: SelectionFollower) => (() => void);
export {};
