import {
  computed,
  getCurrentInstance,
  getCurrentScope,
  onMounted,
  shallowRef,
  toValue,
  watchEffect,
  type ComputedRef,
  type MaybeRefOrGetter,
} from "vue";
import {
  EMPTY,
  follow,
  followAll,
  keyOf,
  NO_TASKS,
  viewOf,
  viewOfAll,
  type MaybeSelection,
  type TaskOptions,
  type TasksView,
  type TaskView,
} from "./store.ts";

export type { MaybeSelection, TaskOptions, TasksView, TaskView } from "./store.ts";

/** What is known about a task, each part as a ref. */
export type TaskRefs = { readonly [Part in keyof TaskView]: ComputedRef<TaskView[Part]> };

/** What is known about a tag or group, each part as a ref. */
export type TasksRefs = { readonly [Part in keyof TasksView]: ComputedRef<TasksView[Part]> };

/**
 * Follows a task while the scope is active, and returns what is known about it.
 *
 * All tasks of a page share one connection. On a server nothing is connected, and nothing is known.
 *
 * @param ref The task ref, `upstream/task_id`, or a ref or getter of it; null or undefined while there is none.
 */
export function useTask(
  ref: MaybeRefOrGetter<string | null | undefined>,
  options: MaybeRefOrGetter<TaskOptions> = {},
): TaskRefs {
  return useView(EMPTY, options, (key, current) => {
    const task = toValue(ref);
    return [() => viewOf(key, task), (show) => task && follow(key, [[task], current, show])];
  });
}

/**
 * Follows everything with a tag, or in a group, also what comes later, while the scope is active.
 *
 * @param selection `{ tag }` or `{ group }`, or a ref or getter of it; null or undefined while there is none.
 */
export function useTasks(
  selection: MaybeRefOrGetter<MaybeSelection>,
  options: MaybeRefOrGetter<TaskOptions> = {},
): TasksRefs {
  // By content: a getter may return a new object each time.
  const tag = computed(() => toValue(selection)?.tag);
  const group = computed(() => toValue(selection)?.group);
  return useView(NO_TASKS, options, (key, current) => {
    const wanted = tag.value ? { tag: tag.value } : group.value ? { group: group.value } : null;
    return [() => viewOfAll(key, wanted), (show) => wanted && followAll(key, wanted, [current, show])];
  });
}

type Bound<View> = [read: () => View, join: (show: () => void) => (() => void) | null | undefined | ""];

function useView<View extends object>(
  empty: View,
  options: MaybeRefOrGetter<TaskOptions>,
  bind: (key: string, current: () => TaskOptions) => Bound<View>,
): { readonly [Part in keyof View]: ComputedRef<View[Part]> } {
  const view = shallowRef(empty);
  const key = computed(() => keyOf(toValue(options)));
  const start = () =>
    watchEffect(
      (onCleanup) => {
        const [read, join] = bind(key.value, () => toValue(options));
        const show = () => (view.value = read());
        const leave = join(show);
        if (leave) onCleanup(leave);
        show();
      },
      { flush: "sync" },
    );
  // A component on a server is never mounted. A store may call this in a scope that outlives the component.
  const scope = getCurrentScope();
  if (getCurrentInstance()) onMounted(() => void scope?.run(start));
  else start();
  const parts = Object.keys(empty).map((part) => [part, computed(() => view.value[part as keyof View])]);
  return Object.fromEntries(parts);
}
