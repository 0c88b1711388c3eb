import { useEffect, useState } from "react";
import { watch } from "task-event-bridge";

const NOTHING = { state: null, notice: null, error: null };

/**
 * A task as it is now: `{ state, notice, error }`, and all of them null before anything is known.
 *
 * `state` is the newest state document. `notice` says what the provider or the connection has trouble with, null while
 * all is well. `error` ends it: there is no such task, or this page may not see it.
 *
 * @param {string | null} task its ref, `upstream/task_id`; null for none yet
 * @param {(task: string) => string | Promise<string>} address where its stream is. It is asked again before each
 *   reconnect, so it can fetch a new ticket. Define it outside of the component, or with `useCallback`.
 */
export function useTask(task, address) {
  const [seen, setSeen] = useState(NOTHING);

  useEffect(() => {
    setSeen(NOTHING);
    if (!task) return;
    const { close, finished } = watch(() => address(task), {
      onState: (state) => setSeen({ state, notice: null, error: null }),
      onNotice: (notice) => setSeen((before) => ({ ...before, notice: isTrouble(notice) ? notice : null })),
    });
    finished.catch((error) => setSeen((before) => ({ ...before, error })));
    return () => close(); // the connection goes with the component
  }, [task, address]);

  return seen;
}

function isTrouble({ code }) {
  return code !== "fresh" && code !== "connected" && code !== "closing";
}
