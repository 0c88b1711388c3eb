// fal's own library in Node, where its `proxyUrl` is used only if it is told so.

import { BRIDGE, LIFE, advance, library, report, told } from "./node.mjs";

const { fal } = library("@fal-ai/client");
fal.config({ proxyUrl: { url: `${BRIDGE}/proxy/fal`, when: "always" } });

const ticking = setInterval(() => advance(600), 50);
const seen = [];
const result = await fal.subscribe("fal-ai/flux/dev", {
  input: { prompt: "a cat", sim: LIFE },
  logs: true,
  pollInterval: 20,
  onQueueUpdate: ({ status, logs }) => seen.push([status, Array.isArray(logs)]),
});
clearInterval(ticking);
report({
  images: result.data.images.length > 0,
  id: result.requestId.length > 0,
  seen,
  upload: await told(() => fal.storage.upload(new Blob(["x"], { type: "text/plain" }))),
});
