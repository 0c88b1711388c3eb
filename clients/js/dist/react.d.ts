import { type MaybeSelection, type TaskOptions, type TasksView, type TaskView } from "./store.js";
export type { MaybeSelection, TaskOptions, TasksView, TaskView } from "./store.js";
/**
 * Follows a task while the component is mounted, and returns what is known about it.
 *
 * All tasks of a page share one connection. On a server nothing is connected, and nothing is known.
 *
 * @param ref The task ref, `upstream/task_id`; null or undefined while there is none.
 */
export declare function useTask(ref: string | null | undefined, options?: TaskOptions): TaskView;
/** Follows several tasks, and returns what is known about each, in their order. The array may be a new one each time. */
export declare function useTasks(refs: readonly (string | null | undefined)[], options?: TaskOptions): readonly TaskView[];
/**
 * Follows everything with a tag, or in a group, also what comes later.
 *
 * Components that follow the same tag or group use one connection. The result is the same object until something changes;
 * the selection may be a new object each time.
 *
 * @param selection `{ tag }` or `{ group }`; null or undefined while there is none.
 */
export declare function useTasks(selection: MaybeSelection, options?: TaskOptions): TasksView;
