// Builds pages with the hooks for a tag or group: `node hooks.mjs OUT` writes react.js, vue.js and server.cjs.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const { build } = createRequire(here("../../tools/package.json"))("esbuild");
const out = process.argv[2];

// The selection and the options are new objects with every render, as people write them. `show` renders with others.
const REACT = `
  import { StrictMode, useState } from "react";
  import { createRoot } from "react-dom/client";
  import { useTasks } from "HOOKS/react.js";
  window.heard = [];
  window.views = new Set();
  window.renders = 0;
  function Tasks({ selection, url }) {
    const view = useTasks(selection && { ...selection }, { url, onState: ({ task, status }) => window.heard.push([task, status]) });
    const again = useTasks(selection && { ...selection }, { url });
    window.views.add(view);
    window.renders++;
    const lines = [...view.tasks].map(([ref, { status }]) => ref + " " + status);
    return <pre>{[...lines, JSON.stringify(view.counts), view.notice?.code ?? "-", view.error?.code ?? "-", String(view === again)].join("\\n")}</pre>;
  }
  function App() {
    const [props, show] = useState({});
    window.show = show;
    return props.gone ? null : <Tasks {...props} />;
  }
  createRoot(document.querySelector("main")).render(<StrictMode><App /></StrictMode>);
`;
const VUE = `
  import { createApp, defineComponent, h, shallowRef } from "vue";
  import { useTasks } from "HOOKS/vue.js";
  window.heard = [];
  const Tasks = defineComponent({
    props: ["selection", "url"],
    setup(props) {
      const options = () => ({ url: props.url, onState: ({ task, status }) => window.heard.push([task, status]) });
      const { tasks, counts, notice, error } = useTasks(() => props.selection && { ...props.selection }, options);
      const again = useTasks(() => props.selection, () => ({ url: props.url }));
      return () => {
        const lines = [...tasks.value].map(([ref, { status }]) => ref + " " + status);
        const same = tasks.value === again.tasks.value;
        return h("pre", [...lines, JSON.stringify(counts.value), notice.value?.code ?? "-", error.value?.code ?? "-", String(same)].join("\\n"));
      };
    },
  });
  const props = shallowRef({});
  window.show = (next) => (props.value = next);
  createApp(() => (props.value.gone ? null : h(Tasks, props.value))).mount("main");
`;
const SERVER = `
  import { createElement } from "react";
  import { renderToString } from "react-dom/server";
  import { createSSRApp, h } from "vue";
  import { renderToString as renderVue } from "vue/server-renderer";
  import { useTasks } from "HOOKS/react.js";
  import { useTasks as useTasksInVue } from "HOOKS/vue.js";
  globalThis.fetch = () => { throw new Error("nothing is connected on a server"); };
  const selection = { tag: "user:7" };
  const Tasks = () => createElement("p", null, useTasks(selection).tasks.size);
  const InVue = { setup: () => { const { tasks } = useTasksInVue(selection); return () => h("p", tasks.value.size); } };
  const html = renderToString(createElement(Tasks));
  renderVue(createSSRApp(InVue)).then((vue) => console.log(JSON.stringify([html, vue])));
`;
const common = {
  bundle: true,
  logLevel: "error",
  nodePaths: [here("../../tools/node_modules")],
  define: { "process.env.NODE_ENV": '"development"', __VUE_OPTIONS_API__: "true", __VUE_PROD_DEVTOOLS__: "false", __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false" },
  jsx: "automatic",
};
const bundle = (name, contents, more) =>
  build({
    ...common,
    ...more,
    outfile: `${out}/${name}`,
    stdin: { contents: contents.replaceAll("HOOKS", here("../../../clients/js/dist").slice(0)), resolveDir: here("."), loader: "jsx" },
  });
await Promise.all([
  bundle("react.js", REACT, { format: "esm" }),
  bundle("vue.js", VUE, { format: "esm" }),
  bundle("server.cjs", SERVER, { format: "cjs", platform: "node" }),
]);
