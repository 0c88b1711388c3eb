// On a server: nothing is connected, nothing is known, nothing needs a window.
import { createElement } from "react";
import { renderToString } from "react-dom/server";
import { useTask, useTasks } from "task-event-bridge/react";
import { createSSRApp, h } from "vue";
import { renderToString as renderVue } from "vue/server-renderer";
import { useTask as useVueTask } from "task-event-bridge/vue";

let opened = 0;
globalThis.fetch = () => {
  opened += 1;
  throw new Error("connected on a server");
};

function React() {
  const one = useTask("qingbo/a");
  const many = useTasks(["qingbo/a", null]);
  return createElement("p", null, JSON.stringify([one, many.length, many[1].state]));
}
const Vue = {
  setup() {
    const { state } = useVueTask("qingbo/a");
    return () => h("p", `state: ${state.value}`);
  },
};
console.log(renderToString(createElement(React)));
console.log(await renderVue(createSSRApp(Vue)));
await new Promise((resolve) => setTimeout(resolve, 50));
console.log(`opened ${opened}`);
