import { createApp, defineComponent, h, shallowRef } from "vue";
import { useTask } from "task-event-bridge/vue";
import { described, type Props } from "./page.js";

const Row = defineComponent({
  props: { bridge: String, task: String, token: String },
  setup(props) {
    const { state, notice, error } = useTask(
      () => props.task,
      () => ({
        url: props.bridge,
        token: props.token ? async () => props.token : undefined,
        onState: (state) => window.heard.push(["state", state.task, state.status]),
        onNotice: (notice) => window.heard.push(["notice", String(notice.task), notice.code]),
      }),
    );
    return () => h("li", described({ state: state.value, notice: notice.value, error: error.value }));
  },
});

const props = shallowRef<Props>({ tasks: [] });
window.show = (next) => (props.value = next);

createApp(() => {
  const { bridge, tasks, token } = props.value;
  return h("ul", tasks.map((task, index) => h(Row, { key: index, bridge, task: task ?? undefined, token })));
}).mount("main");
