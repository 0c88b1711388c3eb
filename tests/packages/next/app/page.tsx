// A server component: it may import the hooks' module, and wait for a task itself.
import { subscribe } from "task-event-bridge";
import * as hooks from "task-event-bridge/react";
import { Progress } from "./progress";

export const dynamic = "force-dynamic";

export default async function Page({ searchParams }: { searchParams: Promise<{ task: string; done?: string }> }) {
  const { task, done } = await searchParams;
  const url = process.env.BRIDGE_URL!;
  const state = done ? await subscribe(done, { url, signal: AbortSignal.timeout(20_000) }) : null;
  return (
    <main>
      <h1>{Object.keys(hooks).length ? "hooks" : "nothing"}</h1>
      <p id="done">{state?.status}</p>
      <Progress task={task} url={url} />
    </main>
  );
}
