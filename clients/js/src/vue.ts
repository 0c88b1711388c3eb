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
import { EMPTY, follow, keyOf, viewOf, type TaskOptions, type TaskView } from "./store.ts";

export type { TaskOptions, TaskView } from "./store.ts";

/** What is known about a task, each part as a ref. */
export type TaskRefs = { readonly [Part in keyof TaskView]: ComputedRef<TaskView[Part]> };

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
  const view = shallowRef(EMPTY);
  const start = () =>
    watchEffect(
      (onCleanup) => {
        const task = toValue(ref);
        const key = keyOf(toValue(options));
        const show = () => (view.value = viewOf(key, task));
        if (task) onCleanup(follow(key, [[task], () => toValue(options), show]));
        show();
      },
      { flush: "sync" },
    );
  // A component on a server is never mounted. A store may call this in a scope that outlives the component.
  const scope = getCurrentScope();
  if (getCurrentInstance()) onMounted(() => void scope?.run(start));
  else start();
  return { state: computed(() => view.value.state), notice: computed(() => view.value.notice), error: computed(() => view.value.error) };
}
