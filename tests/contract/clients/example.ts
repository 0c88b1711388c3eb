// What people write with `/bridge.js`, for the type checker alone.

import { BridgeError, states, subscribe, TaskFailed, watch } from "../../../clients/js/dist/index.js";
import { forget, group, list, listPage, register, submit, ticket, webhooks } from "../../../clients/js/dist/api.js";
import type { ClosedGroup, ListPage, WebhookEvent } from "../../../clients/js/dist/api.js";
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

const created: TaskState = await submit("qingbo", { prompt: "x" }, { url: "/", idempotencyKey: "k", retrySeconds: 60 });
const endpoint = await webhooks({ token: () => "t" }).create({ url: new URL("https://a.example/"), events: ["task.status"] });
const secret: string | undefined = endpoint.secret;
const received = (event: WebhookEvent): Status => event.data.status;
// @ts-expect-error - no such event
webhooks().create({ url: "https://a.example/", events: ["task.done"] });
// @ts-expect-error - no such option
submit("qingbo", {}, { idempotency_key: "k" });
console.log(created.task, secret, received);

const everything: Watching = watch({ tag: "user:7" }, { url: "https://bridge.example", onState: ({ task }) => console.log(task) });
for await (const state of states({ group: "batch-1" }, { url: "/bridge" })) console.log(state.status);
watch({ group: "batch-1" }, { onNotice: ({ code, counts }) => code === "group_done" && console.log(counts?.completed) });
// @ts-expect-error - one of both
watch({ tag: "a", group: "b" });
// @ts-expect-error - neither
watch({});
await submit("qingbo", {}, { tags: ["user:7"], group: "batch-1" });
for await (const { task } of list({ tag: "user:7", status: "completed", limit: 20 })) console.log(task);
// @ts-expect-error - a word that is no status
list({ status: "done" });
const page: ListPage = await listPage({ before: "x" });
const registered: TaskState = await register("qingbo/a", { tags: ["user:7"], deadlineSeconds: 600 });
const closed: ClosedGroup = await group("batch-1", { token: () => "t" }).close();
await forget(registered.task);
console.log(everything, page.next, closed.open);
const { links } = await ticket({ tags: ["user:7"], seconds: 600 });
list({ status: ["open", "failed"] });
console.log(links.events?.length);
