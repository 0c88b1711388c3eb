import { useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import {
  EMPTY,
  follow,
  followAll,
  keyOf,
  nameOf,
  NO_TASKS,
  viewOf,
  viewOfAll,
  type MaybeSelection,
  type TaskOptions,
  type TasksView,
  type TaskView,
} from "./store.ts";

export type { MaybeSelection, TaskOptions, TasksView, TaskView } from "./store.ts";

/**
 * Follows a task while the component is mounted, and returns what is known about it.
 *
 * All tasks of a page share one connection. On a server nothing is connected, and nothing is known.
 *
 * @param ref The task ref, `upstream/task_id`; null or undefined while there is none.
 */
export function useTask(ref: string | null | undefined, options?: TaskOptions): TaskView {
  return useTasks([ref], options)[0]!;
}

/** Follows several tasks, and returns what is known about each, in their order. The array may be a new one each time. */
export function useTasks(refs: readonly (string | null | undefined)[], options?: TaskOptions): readonly TaskView[];
/**
 * Follows everything with a tag, or in a group, also what comes later.
 *
 * Components that follow the same tag or group use one connection. The result is the same object until something changes;
 * the selection may be a new object each time.
 *
 * @param selection `{ tag }` or `{ group }`; null or undefined while there is none.
 */
export function useTasks(selection: MaybeSelection, options?: TaskOptions): TasksView;
export function useTasks(
  target: readonly (string | null | undefined)[] | MaybeSelection,
  options: TaskOptions = {},
): readonly TaskView[] | TasksView {
  const newest = useRef(options);
  useEffect(() => {
    newest.current = options;
  });
  const key = keyOf(options);
  const refs = Array.isArray(target) && (target as readonly (string | null | undefined)[]);
  const [subscribe, read, readOnServer] = useMemo(() => {
    const current = () => newest.current;
    if (!refs) {
      const selection = target as MaybeSelection;
      return [
        (changed: () => void) => (selection ? followAll(key, selection, [current, changed]) : () => {}),
        () => viewOfAll(key, selection),
        () => NO_TASKS,
      ] as const;
    }
    const empty: readonly TaskView[] = refs.map(() => EMPTY);
    let views = empty;
    return [
      (changed: () => void) => follow(key, [refs.filter((ref) => ref) as string[], current, changed]),
      () => {
        const next = refs.map((ref) => viewOf(key, ref));
        return (views = next.some((view, index) => view != views[index]) ? next : views); // the same: nothing to render
      },
      () => empty,
    ] as const;
  }, [key, refs ? refs.length + refs.join("\n") : nameOf(target as MaybeSelection)]); // by content: it may be a new object
  return useSyncExternalStore<readonly TaskView[] | TasksView>(subscribe, read, readOnServer);
}
