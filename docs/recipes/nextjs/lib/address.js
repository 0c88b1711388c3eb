// For `useTask(task, address)` of the React recipe: returns the address of a task's stream, with a new ticket each time.

export async function address(task) {
  const response = await fetch("/api/stream", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ task }),
  });
  const result = await response.json();
  // A permanent error ends the watch; others are retried.
  if (!response.ok) throw Object.assign(new Error(result.detail), { retriable: response.status >= 500 });
  return result.events;
}
