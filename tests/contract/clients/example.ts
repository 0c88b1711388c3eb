// What people write with `/bridge.js`, for the type checker alone.

import { BridgeError, states, subscribe, TaskFailed, watch } from "../../../clients/js/dist/index.js";
import type { Notice, Output, Status, TaskState, Watching } from "../../../clients/js/dist/index.js";

const told: Notice[] = [];
const watching: Watching = watch("/v1/events?task=qingbo/a", {
  onState(state) {
    const status: Status = state.status;
    const percent: number = state.progress ?? 0;
    console.log(status, percent, state.error?.message ?? "", state.cost?.credits_used);
  },
  onDone: (state: TaskState) => state.outputs.map((output: Output) => output.url),
  onNotice: (notice) => told.push(notice),
  token: async (refused: boolean) => (refused ? "new" : "kept"),
  signal: new AbortController().signal,
  lastEventId: "e-1",
  credentials: "include",
  share: "user-1",
  silenceSeconds: 45,
  firstByteSeconds: 10,
});
const newest: TaskState[] = await watching.finished;
watching.close();

for await (const state of states(async () => new URL("https://bridge.example/v1/events"), { token: () => null })) {
  if (state.status === "completed") break;
}

for await (const state of watch("/v1/events?task=qingbo/a", { onNotice: () => {} })) console.log(state.progress);

const one: TaskState = await subscribe("qingbo/a", { url: new URL("https://bridge.example"), token: () => "t" });
const refs = ["qingbo/a", "vapi/b"] as const;
const all: TaskState[] = await subscribe(refs, { onState: (state) => console.log(state.task) });
console.log(one.outputs[0]?.url, all.length);

try {
  await watch("/x").finished;
} catch (error) {
  if (error instanceof TaskFailed) console.log(error.state.error?.message, error.states[0]?.status);
  if (error instanceof BridgeError) console.log(error.code?.length, error.status === 404, newest);
}

// @ts-expect-error - a word that is no status
const wrong: Status = "done";
// @ts-expect-error - a list resolves with a list
const single: TaskState = await subscribe(["qingbo/a"]);
// @ts-expect-error - no such option
subscribe("qingbo/a", { urls: "" });
// @ts-expect-error - null is possible
const length: number = newest[0]!.model.length;
// @ts-expect-error - no such option
watch("/x", { onstate: () => {} });
// @ts-expect-error - a loop has no callback for states
states("/x", { onState: () => {} });
console.log(wrong, length, single);
