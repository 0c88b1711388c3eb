// Replicate's own library.

import { BRIDGE, LIFE, advance, library, report, script, told } from "./node.mjs";

const Replicate = library("replicate");
const replicate = new Replicate({ auth: "any", baseUrl: `${BRIDGE}/proxy/replicate/v1`, useFileOutput: false });
const MODEL = "black-forest-labs/flux-schnell";
const sim = LIFE;

const made = await replicate.predictions.create({ model: MODEL, input: { prompt: "a cat" }, sim });
const shown = await replicate.predictions.get(made.id);
const waiting = replicate.wait(made, { interval: 20 });
await advance(60);
const done = await waiting;

const progress = [];
const running = replicate.run(MODEL, { input: { prompt: "a cat" }, sim }, ({ status }) => progress.push(status));
const ticking = setInterval(() => advance(600), 50);
const output = await running;
const polledOutput = await replicate.run(MODEL, {
  input: { prompt: "a cat" },
  wait: { mode: "poll", interval: 20 },
  sim,
});
clearInterval(ticking);

const other = await replicate.predictions.create({ version: "a".repeat(64), input: {}, sim });
const cancelled = await replicate.predictions.cancel(other.id);
const again = await replicate.predictions.get(other.id);

const sad = await replicate.predictions.create({ model: MODEL, input: {}, sim });
await script("replicate", sad.id, { body: { ...sad, status: "failed", error: "out of memory" } });
const failed = await told(() => replicate.wait(sad, { interval: 20 }));

report({
  made: made.status,
  shown: shown.id === made.id,
  stream: made.urls.stream ?? null,
  done: [done.status, done.output.length > 0],
  output: [Array.isArray(output), Array.isArray(polledOutput)],
  progress: [progress.at(0), progress.at(-1)],
  cancelled: [cancelled.status, again.status],
  failed,
  missing: await told(() => replicate.predictions.get("nowhere")),
  list: await told(() => replicate.predictions.list()),
  upload: await told(() => replicate.run(MODEL, { input: { image: new Blob(["x"]) } })),
});
