import { shallowRef, toValue, watchEffect } from "vue";
import { watch } from "task-event-bridge";

/**
 * A task as it is now, as refs: `state`, `notice` and `error`, all of them null before anything is known.
 *
 * `state` is the newest state document. `notice` says what the provider or the connection has trouble with, null while
 * all is well. `error` ends it: there is no such task, or this page may not see it.
 *
 * @param {import("vue").MaybeRefOrGetter<string | null>} task its ref, `upstream/task_id`; null for none yet
 * @param {(task: string) => string | Promise<string>} address where its stream is. It is asked again before each
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
      onNotice: (next) => (notice.value = isTrouble(next) ? next : null),
    });
    finished.catch((reason) => (error.value = reason));
    onCleanup(() => close()); // another task, or the component is gone: the connection goes with it
  });

  return { state, notice, error };
}

function isTrouble({ code }) {
  return code !== "fresh" && code !== "connected" && code !== "closing";
}
