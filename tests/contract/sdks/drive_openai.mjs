// OpenAI's own library: qingbo's tasks, videos, and responses in background.

import { BRIDGE, FAILING, LIFE, advance, library, report, script, told } from "./node.mjs";

const OpenAI = library("openai");
const at = (upstream) => new OpenAI({ baseURL: `${BRIDGE}/proxy/${upstream}/v1`, apiKey: "any" });

const qingbo = at("qingbo");
const task = await qingbo.post("/tasks", { body: { model: "veo3", prompt: "a cat", sim: LIFE } });
const first = await qingbo.get(`/tasks/${task.task_id}`);
await advance(60);
let last = first;
while (last.status !== "completed") last = await qingbo.get(`/tasks/${task.task_id}`);
const missing = await told(() => qingbo.get("/tasks/nowhere"));

const videos = at("openai-videos").videos;
const video = await videos.create({ model: "sora-2", prompt: "a cat" });
const queued = await videos.retrieve(video.id);
await advance(600);
const polled = await end_of(video.id);
const other = await videos.create({ model: "sora-2", prompt: "a cat" });
await script("openai-videos", other.id, {
  body: { ...other, status: "failed", error: { code: "moderation_blocked", message: "blocked" } },
});
const failed = await end_of(other.id);
const refused = {
  delete: await told(() => videos.delete(video.id)),
  list: await told(() => videos.list()),
  remix: await told(() => videos.remix(video.id, { prompt: "a dog" })),
};

const responses = at("openai").responses;
const made = await responses.create({ model: "o3", input: "hi", background: true, sim: LIFE });
const seen = [];
for await (const event of await responses.retrieve(made.id, { stream: true })) {
  if (!seen.length) await advance(60);
  seen.push([event.sequence_number, event.type, event.response.status]);
}
const rest = [];
for await (const event of await responses.retrieve(made.id, { stream: true, starting_after: 0 })) rest.push(event.type);
const cancellable = await responses.create({ model: "o3", input: "hi", background: true, sim: LIFE });
const cancelled = await responses.cancel(cancellable.id);
const sad = await responses.create({ model: "o3", input: "hi", background: true, sim: FAILING });
await advance(60);
let end = sad;
while (["queued", "in_progress"].includes(end.status)) end = await responses.retrieve(sad.id);
const streamed = await told(() => responses.create({ model: "o3", input: "hi", background: true, stream: true }));

// This library has no helper that waits.
async function end_of(id) {
  let video = await videos.retrieve(id);
  while (["queued", "in_progress"].includes(video.status)) video = await videos.retrieve(id);
  return video;
}

report({
  qingbo: [first.status, last.status, Object.keys(last.result).length > 0, missing],
  videos: [video.status, polled.status, failed.status, failed.error?.message, queued.progress],
  refused,
  responses: { made: made.status, seen, rest, cancelled: cancelled.status, end: end.status, why: !!end.error, streamed },
});
