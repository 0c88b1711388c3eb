import { type ComputedRef, type MaybeRefOrGetter } from "vue";
import { type TaskOptions, type TaskView } from "./store.js";
export type { TaskOptions, TaskView } from "./store.js";
/** What is known about a task, each part as a ref. */
export type TaskRefs = {
    readonly [Part in keyof TaskView]: ComputedRef<TaskView[Part]>;
};
/**
 * Follows a task while the scope is active, and returns what is known about it.
 *
 * All tasks of a page share one connection. On a server nothing is connected, and nothing is known.
 *
 * @param ref The task ref, `upstream/task_id`, or a ref or getter of it; null or undefined while there is none.
 */
export declare function useTask(ref: MaybeRefOrGetter<string | null | undefined>, options?: MaybeRefOrGetter<TaskOptions>): TaskRefs;
