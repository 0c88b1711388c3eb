import { useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import { EMPTY, follow, keyOf, viewOf, type TaskOptions, type TaskView } from "./store.ts";

export type { TaskOptions, TaskView } from "./store.ts";

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
export function useTasks(refs: readonly (string | null | undefined)[], options: TaskOptions = {}): readonly TaskView[] {
  const newest = useRef(options);
  useEffect(() => {
    newest.current = options;
  });
  const key = keyOf(options);
  const [subscribe, read, readOnServer] = useMemo(() => {
    const empty: readonly TaskView[] = refs.map(() => EMPTY);
    let views = empty;
    return [
      (changed: () => void) =>
        follow(key, [refs.filter((ref) => ref) as string[], () => newest.current, changed]),
      () => {
        const next = refs.map((ref) => viewOf(key, ref));
        return (views = next.some((view, index) => view != views[index]) ? next : views); // the same: nothing to render
      },
      () => empty,
    ] as const;
  }, [key, refs.length + refs.join("\n")]); // by content: the array may be a new one with every render
  return useSyncExternalStore(subscribe, read, readOnServer);
}
