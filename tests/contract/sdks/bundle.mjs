// Builds a page's script as an app's build would: `node bundle.mjs ENTRY OUT`.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const { build } = createRequire(here("../../tools/package.json"))("esbuild");

await build({
  entryPoints: [process.argv[2]],
  outfile: process.argv[3],
  bundle: true,
  format: "iife",
  logLevel: "error",
  nodePaths: [here("../../tools/sdks/node_modules")],
});
console.log("{}");
