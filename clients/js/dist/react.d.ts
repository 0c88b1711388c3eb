import { type TaskOptions, type TaskView } from "./store.js";
export type { TaskOptions, TaskView } from "./store.js";
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
