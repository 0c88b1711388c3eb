// What every driver here shares: one JSON object a line for each event the library handed over, whatever it holds.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const tools = createRequire(new URL("../../tools/package.json", import.meta.url));

export const [url, until] = process.argv.slice(2); // until: "end" closes on the event `end`, "204" never closes

export const load = (name) => import(pathToFileURL(tools.resolve(name)));

export const report = (name, id, data) =>
  process.stdout.write(`${JSON.stringify({ name: name || "message", id: id || null, data: data ?? null })}\n`);

export const isLast = (name) => name === "end" && until === "end";
