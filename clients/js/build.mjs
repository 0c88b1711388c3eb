// Makes what is shipped from what is written: the minified module and the types.
//
//   node build.mjs           writes
//   node build.mjs --check   says what differs, and exits 1
//
// Prints the sizes of the module. Needs terser, from here (npm install) or from the tools of the tests.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { gzipSync } from "node:zlib";

const at = (path) => new URL(path, import.meta.url);
const read = (path) => readFileSync(at(path), "utf8");
const STATIC = "../../bridge/web/static/";

/** The module without what only people read. */
async function minified() {
  const require = createRequire(import.meta.url);
  const terser = require(require.resolve("terser", { paths: [at(".").pathname, at("../../tests/tools/").pathname] }));
  const compress = { passes: 3, unsafe_arrows: true, keep_fargs: false };
  const { code } = await terser.minify(read("src/bridge.js"), { module: true, ecma: 2022, compress, mangle: true });
  return `${code}\n`;
}

/** The types: those of the functions as written, those of the state document from its schema. */
function types() {
  const schema = JSON.parse(read(`${STATIC}api/state.schema.json`));
  const documents = { [schema.title]: schema, ...schema.$defs };
  const made = Object.entries(documents).map(([name, one]) => declared(name, one));
  return `// Made by build.mjs; edit src/head.d.ts, or the schema of the state document.\n\n${[read("src/head.d.ts").trim(), ...made].join("\n\n")}\n`;
}

function declared(name, schema) {
  const head = commented(schema.description, "");
  if (schema.type !== "object") return `${head}export type ${name} = ${typeOf(schema)};`;
  const keys = Object.entries(schema.properties).map(([key, one]) => {
    const optional = schema.required.includes(key) ? "" : "?";
    return `${commented(one.description, "  ")}  ${key}${optional}: ${typeOf(one)};`;
  });
  return `${head}export interface ${name} {\n${keys.join("\n")}\n}`;
}

function typeOf(schema) {
  if (schema.$ref) return schema.$ref.replace("#/$defs/", "");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (Array.isArray(schema.type)) return schema.type.map((type) => typeOf({ ...schema, type })).join(" | ");
  if (schema.type === "array") return `${typeOf(schema.items)}[]`;
  const plain = { string: "string", number: "number", integer: "number", boolean: "boolean", null: "null", object: "Record<string, unknown>" };
  if (!(schema.type in plain)) throw new Error(`no type for ${JSON.stringify(schema)}`);
  return plain[schema.type];
}

function commented(text, indent) {
  return text ? `${indent}/** ${text} */\n` : "";
}

const module = await minified();
const declarations = types();
const made = {
  [`${STATIC}bridge.js`]: module,
  [`${STATIC}bridge.d.ts`]: declarations,
  "bridge.d.ts": declarations,
};
const stale = Object.entries(made).filter(([path, text]) => {
  try {
    return read(path) !== text;
  } catch {
    return true; // not there yet
  }
});
const size = gzipSync(module, { level: 9 }).length;
console.log(JSON.stringify({ minified: module.length, gzipped: size, stale: stale.map(([path]) => path) }));
if (process.argv.includes("--check")) process.exitCode = stale.length ? 1 : 0;
else for (const [path, text] of stale) writeFileSync(at(path), text);
