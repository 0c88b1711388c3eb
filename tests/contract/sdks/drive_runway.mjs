// Runway's own library, which asks every six seconds: here the wait between two looks is shorter.

import { BRIDGE, FAILING, LIFE, advance, library, report, told } from "./node.mjs";

const patient = globalThis.setTimeout;
globalThis.setTimeout = (work, ms, ...rest) => patient(work, ms > 4000 && ms < 8000 ? 20 : ms, ...rest);

const RunwayML = library("@runwayml/sdk");
const { TaskFailedError } = RunwayML;
const client = new RunwayML({ apiKey: "any", baseURL: `${BRIDGE}/proxy/runway` });
const wish = { model: "veo3.1", promptText: "a cat", ratio: "1280:720", duration: 4 };

const creating = client.textToVideo.create({ ...wish, sim: LIFE });
const made = await creating;
const shown = await client.tasks.retrieve(made.id);
const waiting = creating.waitForTaskOutput();
await advance(60);
const done = await waiting;

const failing = client.textToVideo.create({ ...wish, sim: FAILING });
await failing;
await advance(60);
const failed = await told(() => failing.waitForTaskOutput());

const other = client.textToVideo.create({ ...wish, sim: LIFE });
const { id } = await other;
await client.tasks.delete(id);
const gone = await client.tasks.retrieve(id);
const cancelled = await told(() => other.waitForTaskOutput());

report({
  shown: shown.status,
  done: [done.status, done.output.length > 0],
  failed,
  typed: typeof TaskFailedError,
  gone: gone.status,
  cancelled,
  missing: await told(() => client.tasks.retrieve("17f20503-6c24-4c16-946b-35dbbce2af2f")),
  upload: await told(() => client.post("/v1/uploads", { body: { filename: "a.png" } })),
});
