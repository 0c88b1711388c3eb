// For `useTask(task, address)` of the React recipe: returns the address of a task's stream, with a new ticket each time.

import { ask } from "./ask.js";

export async function address(task) {
  return (await ask("/api/stream", { task })).events;
}
