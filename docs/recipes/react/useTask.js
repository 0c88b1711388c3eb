import { useEffect, useState } from "react";
import { watch } from "task-event-bridge";

const EMPTY = { state: null, notice: null, error: null };

/**
 * Returns the current state of a task: `{ state, notice, error }`, each null until known.
 *
 * `state` is the newest state document. `notice` describes a problem of the provider or the connection; null if
 * there is none. `error` is permanent: the task does not exist, or this page may not see it.
 *
 * @param {string | null} task the task ref, `upstream/task_id`; null if there is none yet
 * @param {(task: string) => string | Promise<string>} address returns the address of its stream. It is called before each
 *   reconnect, so it can fetch a new ticket. Define it outside of the component, or with `useCallback`.
 */
export function useTask(task, address) {
  const [current, setCurrent] = useState(EMPTY);

  useEffect(() => {
    setCurrent(EMPTY);
    if (!task) return;
    const { close, finished } = watch(() => address(task), {
      onState: (state) => setCurrent({ state, notice: null, error: null }),
      onNotice: (notice) => setCurrent((previous) => ({ ...previous, notice: isProblem(notice) ? notice : null })),
    });
    finished.catch((error) => setCurrent((previous) => ({ ...previous, error })));
    return () => close(); // close the connection with the component
  }, [task, address]);

  return current;
}

function isProblem({ code }) {
  return code !== "fresh" && code !== "connected" && code !== "closing";
}
