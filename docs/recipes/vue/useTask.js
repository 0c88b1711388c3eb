import { shallowRef, toValue, watchEffect } from "vue";
import { watch } from "task-event-bridge";

/**
 * Returns the current state of a task as refs: `state`, `notice` and `error`, each null until known.
 *
 * `state` is the newest state document. `notice` describes a problem of the provider or the connection; null if
 * there is none. `error` is permanent: the task does not exist, or this page may not see it.
 *
 * @param {import("vue").MaybeRefOrGetter<string | null>} task the task ref, `upstream/task_id`; null if there is none yet
 * @param {(task: string) => string | Promise<string>} address returns the address of its stream. It is called before each
 *   reconnect, so it can fetch a new ticket.
 */
export function useTask(task, address) {
  const state = shallowRef(null);
  const notice = shallowRef(null);
  const error = shallowRef(null);

  watchEffect((onCleanup) => {
    const ref = toValue(task);
    state.value = notice.value = error.value = null;
    if (!ref) return;
    const { close, finished } = watch(() => address(ref), {
      onState: (next) => {
        state.value = next;
        notice.value = null;
      },
      onNotice: (next) => (notice.value = isProblem(next) ? next : null),
    });
    finished.catch((reason) => (error.value = reason));
    onCleanup(() => close()); // another task, or the component was unmounted: close the connection
  });

  return { state, notice, error };
}

function isProblem({ code }) {
  return code !== "fresh" && code !== "connected" && code !== "closing";
}
