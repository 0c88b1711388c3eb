// Builds the recipes as the build of an app would: `node bundle.mjs OUT` writes react.js, vue.js, next.js, routes.mjs.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const tools = createRequire(here("../tools/package.json"));
const { build } = tools("esbuild");
const { compileScript, parse } = tools("vue/compiler-sfc");

const RECIPES = here("../../docs/recipes");
const out = process.argv[2];

const singleFileComponents = {
  name: "vue",
  setup(plugin) {
    plugin.onLoad({ filter: /\.vue$/ }, async ({ path }) => {
      const { descriptor, errors } = parse(await readFile(path, "utf8"));
      if (errors.length) throw errors[0];
      return { contents: compileScript(descriptor, { id: path, inlineTemplate: true }).content, loader: "js" };
    });
  },
};

// What an app adds: it mounts the component, can take it away, and can show another task.
const REACT = `
  import { StrictMode, useState } from "react";
  import { createRoot } from "react-dom/client";
  import { TaskProgress } from "./react/TaskProgress.jsx";
  ADDRESS
  function App() {
    const [task, setTask] = useState(new URL(location).searchParams.get("task"));
    window.show = setTask;
    return task && <TaskProgress task={task} address={address} />;
  }
  createRoot(document.querySelector("main")).render(<StrictMode><App /></StrictMode>);
`;
const VUE = `
  import { createApp, h, ref } from "vue";
  import TaskProgress from "./vue/TaskProgress.vue";
  ADDRESS
  const task = ref(new URL(location).searchParams.get("task"));
  window.show = (next) => (task.value = next);
  createApp(() => task.value && h(TaskProgress, { task: task.value, address })).mount("main");
`;
const ROUTES = `
  export { POST as renders } from "./nextjs/app/api/renders/route.js";
  export { POST as signIn } from "./nextjs/app/api/sign-in/route.js";
  export { POST as stream } from "./nextjs/app/api/stream/route.js";
`;
const DIRECT = "const address = (task) => `${window.BRIDGE}/v1/events?task=${task}`;";
const BY_TICKET = 'import { address } from "./nextjs/lib/address.js";';

const common = {
  bundle: true,
  format: "esm",
  logLevel: "error",
  alias: {
    "task-event-bridge": here("../../clients/js/src/bridge.js"),
    "task-event-bridge/eta": here("../../clients/js/src/eta.ts"),
  },
  nodePaths: [here("../tools/node_modules")],
  define: { "process.env.NODE_ENV": '"development"' }, // StrictMode mounts everything twice
  jsx: "automatic",
  jsxDev: false,
  plugins: [singleFileComponents],
};
const page = (name, contents) =>
  build({ ...common, outfile: `${out}/${name}.js`, stdin: { contents, resolveDir: RECIPES, loader: "jsx" } });

await Promise.all([
  page("react", REACT.replace("ADDRESS", DIRECT)),
  page("vue", VUE.replace("ADDRESS", DIRECT)),
  page("next", REACT.replace("ADDRESS", BY_TICKET)),
  build({
    bundle: true,
    format: "esm",
    platform: "node",
    logLevel: "error",
    stdin: { contents: ROUTES, resolveDir: RECIPES },
    outfile: `${out}/routes.mjs`,
  }),
]);
