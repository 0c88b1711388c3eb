import { StrictMode, useState, version } from "react";
import { createRoot } from "react-dom/client";
import { useTask, useTasks } from "task-event-bridge/react";
import { described, type Props } from "./page.js";

// Callbacks, options and arrays are new ones with every render, as people write them.

function Row({ bridge, task, token }: { bridge?: string; task: string | null; token?: string }) {
  const view = useTask(task, {
    url: bridge,
    token: token ? async () => token : undefined,
    onState: (state) => window.heard.push(["state", state.task, state.status]),
    onNotice: (notice) => window.heard.push(["notice", String(notice.task), notice.code]),
  });
  return <li>{described(view)}</li>;
}

function Rows({ bridge, list, token }: { bridge?: string; list: string[]; token?: string }) {
  const views = useTasks([...list], { url: bridge, token: token ? () => token : undefined });
  return <p>{views.map(described).join(", ")}</p>;
}

function App() {
  const [props, setProps] = useState<Props>({ tasks: [] });
  window.show = setProps;
  const { bridge, tasks, list, token } = props;
  return (
    <>
      <h1>{version}</h1>
      <ul>
        {tasks.map((task, index) => (
          <Row key={index} bridge={bridge} task={task} token={token} />
        ))}
      </ul>
      {list && <Rows bridge={bridge} list={list} token={token} />}
    </>
  );
}

createRoot(document.querySelector("main")!).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
