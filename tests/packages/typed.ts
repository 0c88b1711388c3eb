// What people write with the package, for the type checker alone.

import { BridgeError, TaskFailed, states, subscribe, watch } from "task-event-bridge";
import type { Notice, Status, TaskState, Watching } from "task-event-bridge";
import { useTask, useTasks } from "task-event-bridge/react";
import type { TaskOptions, TasksView, TaskView } from "task-event-bridge/react";
import { useTask as useTaskInVue, useTasks as useTasksInVue } from "task-event-bridge/vue";
import { computed, ref, type ComputedRef } from "vue";

export async function core(): Promise<Status[]> {
  const watching: Watching = watch("/v1/events?task=qingbo/a", { onState: (state: TaskState) => console.log(state.status) });
  for await (const state of watching) console.log(state.outputs[0]?.url);
  for await (const state of states("/v1/events?task=qingbo/a")) console.log(state.progress?.toFixed());
  try {
    const one: TaskState = await subscribe("qingbo/a", { url: "https://bridge.example", token: async () => "token" });
    const all: TaskState[] = await subscribe(["qingbo/a", one.task], { signal: AbortSignal.timeout(1000) });
    return all.map(({ status }) => status);
  } catch (error) {
    if (error instanceof TaskFailed) return [error.state.status];
    if (error instanceof BridgeError) console.log(error.code, error.status);
    throw error;
  }
}

export function Component({ task }: { task?: string }): string {
  const options: TaskOptions = { url: "/bridge", token: (refused) => (refused ? null : "token"), onNotice: (notice: Notice) => console.log(notice.code) };
  const { state, error, notice }: TaskView = useTask(task, options);
  const views = useTasks(["qingbo/a", null, task] as const);
  // @ts-expect-error - null until it arrives
  state.status;
  // @ts-expect-error - no such option
  useTask(task, { uri: "/bridge" });
  const everything: TasksView = useTasks(task ? { tag: task } : null, options);
  const batch = useTasks({ group: "batch-1" });
  // @ts-expect-error - a map by ref, not a list
  everything.tasks[0];
  console.log([...everything.tasks.values()].map(({ status }) => status), batch.counts?.completed);
  return error?.message ?? notice?.message ?? state?.status ?? `${views.length}`;
}

export function setup(): () => string {
  const task = ref<string>();
  const { state, error } = useTaskInVue(task, () => ({ url: new URL("https://bridge.example") }));
  useTaskInVue("qingbo/a");
  useTaskInVue(computed(() => task.value));
  useTaskInVue(() => null, { onState: ({ status }) => console.log(status) });
  const { tasks, counts } = useTasksInVue(() => (task.value ? { tag: task.value } : null));
  console.log(tasks.value.size, counts.value?.failed);
  const typed: ComputedRef<TaskState | null> = state;
  return () => error.value?.message ?? typed.value?.status ?? "";
}
