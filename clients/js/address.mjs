// Makes the links of README.md absolute while `npm pack` reads it, and relative again afterwards (--undo). The public
// address of the project is only in [project.urls] of pyproject.toml; while there is none, nothing changes.
import { readFileSync, writeFileSync } from "node:fs";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const urls = /^\[project\.urls\]\n([^[]*)/m.exec(read("../../pyproject.toml"))?.[1] ?? "";
const address = /^Repository\s*=\s*"([^"]+?)\/*"/m.exec(urls)?.[1];

if (address) {
  const { version } = JSON.parse(read("package.json"));
  const at = (kind) => `${address}/${kind}/v${version}/`;
  const page = read("README.md");
  const changed = process.argv.includes("--undo")
    ? page.replaceAll(at("blob"), "../../").replaceAll(at("raw"), "../../")
    : page.replace(/\]\(\.\.\/\.\.\/([^)\s]+)\)/g, (_, path) => `](${at(/\.(png|svg|jpe?g|gif|webp)$/.test(path) ? "raw" : "blob")}${path})`);
  writeFileSync(new URL("README.md", import.meta.url), changed);
}
