// What the drivers share: the libraries, the clock of the simulator, and what a call comes to.

import { createRequire } from "node:module";

export const library = createRequire(new URL("../../tools/sdks/package.json", import.meta.url));
export const { BRIDGE, SIMULATOR } = process.env;

export const advance = (seconds) =>
  fetch(`${SIMULATOR}/_sim/clock`, { method: "POST", body: JSON.stringify({ advance: seconds }) });

// Replaces the answers of a task.
export const script = (provider, id, ...answers) =>
  fetch(`${SIMULATOR}/_sim/${provider}/tasks/${id}`, { method: "PUT", body: JSON.stringify({ answers }) });

export const LIFE = { queue_seconds: 2, run_seconds: 8, outcome: "completed" };
export const FAILING = { ...LIFE, outcome: "failed" };

export async function told(work) {
  try {
    return { value: await work() };
  } catch (error) {
    const { name, message, status, code } = error;
    const retry = error.headers?.get?.("x-should-retry") ?? error.response?.headers?.get("x-should-retry");
    return { kind: error.constructor.name, name, message, status: status ?? error.response?.status, code, retry };
  }
}

export const report = (outcome) => console.log(JSON.stringify(outcome));
