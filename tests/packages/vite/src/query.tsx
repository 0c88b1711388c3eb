import { QueryClient, QueryClientProvider, useQuery } from "@tanstack/react-query";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { described, type Props } from "./page.js";
import { taskQuery } from "./taskQuery.js"; // docs/recipes/tanstack-query, which the test copies here

function Row({ bridge, task }: { bridge?: string; task: string }) {
  const { data, error, fetchStatus } = useQuery(taskQuery(task, { url: bridge }));
  return (
    <li>
      {described({ state: data ?? null, notice: null, error })} {fetchStatus}
    </li>
  );
}

function App() {
  const [{ bridge, tasks }, setProps] = useState<Props>({ tasks: [] });
  window.show = setProps;
  return <ul>{tasks.map((task, index) => task && <Row key={index} bridge={bridge} task={task} />)}</ul>;
}

createRoot(document.querySelector("main")!).render(
  <StrictMode>
    <QueryClientProvider client={new QueryClient()}>
      <App />
    </QueryClientProvider>
  </StrictMode>,
);
