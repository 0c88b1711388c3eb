import { queryOptions } from "@tanstack/react-query";
import { subscribe, TaskFailed } from "task-event-bridge";

const isFinal = (state) => ["completed", "failed", "cancelled", "lost"].includes(state?.status);

/**
 * Returns the query of a task: `useQuery(taskQuery("qingbo/YOUR_TASK_ID"))`.
 *
 * `data` is the newest state: each one that arrives is put into the cache, so no component polls, and all components with
 * the same task share one connection. The query is fetching while the task is open. `error` is a TaskFailed when the
 * task failed, was cancelled or lost (`data` is that state), or a BridgeError when it cannot be followed.
 *
 * @param {string} task the task ref, `upstream/task_id`
 * @param {{ url?: string, token?: () => Promise<string> }} [bridge] the address of the bridge, unless it is the page's
 *   origin, and a token, as for `subscribe`
 */
export function taskQuery(task, bridge = {}) {
  const queryKey = ["task", task];
  return queryOptions({
    queryKey,
    queryFn: ({ client, signal }) =>
      subscribe(task, {
        ...bridge,
        signal, // aborted when the last component with this query is unmounted
        onState: (state) => client.setQueryData(queryKey, state),
      }),
    retry: (failures, error) => !(error instanceof TaskFailed) && error.retriable !== false && failures < 3,
    // An open task is followed again after an interruption; one that ended does not change.
    staleTime: ({ state }) => (isFinal(state.data) ? Infinity : 0),
    refetchOnWindowFocus: ({ state }) => !isFinal(state.data),
  });
}
