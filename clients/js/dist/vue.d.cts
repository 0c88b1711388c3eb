import { type ComputedRef, type MaybeRefOrGetter } from "vue";
import { type MaybeSelection, type TaskOptions, type TasksView, type TaskView } from "./store.cjs";
export type { MaybeSelection, TaskOptions, TasksView, TaskView } from "./store.cjs";
/** What is known about a task, each part as a ref. */
export type TaskRefs = {
    readonly [Part in keyof TaskView]: ComputedRef<TaskView[Part]>;
};
/** What is known about a tag or group, each part as a ref. */
export type TasksRefs = {
    readonly [Part in keyof TasksView]: ComputedRef<TasksView[Part]>;
};
/**
 * Follows a task while the scope is active, and returns what is known about it.
 *
 * All tasks of a page share one connection. On a server nothing is connected, and nothing is known.
 *
 * @param ref The task ref, `upstream/task_id`, or a ref or getter of it; null or undefined while there is none.
 */
export declare function useTask(ref: MaybeRefOrGetter<string | null | undefined>, options?: MaybeRefOrGetter<TaskOptions>): TaskRefs;
/**
 * Follows everything with a tag, or in a group, also what comes later, while the scope is active.
 *
 * @param selection `{ tag }` or `{ group }`, or a ref or getter of it; null or undefined while there is none.
 */
export declare function useTasks(selection: MaybeRefOrGetter<MaybeSelection>, options?: MaybeRefOrGetter<TaskOptions>): TasksRefs;
