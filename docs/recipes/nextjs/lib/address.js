// For `useTask(task, address)` of the React recipe: where the stream of a task is, with a new ticket each time.

export async function address(task) {
  const answer = await fetch("/api/stream", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ task }),
  });
  const said = await answer.json();
  // What will not get better ends the watch; anything else is tried again.
  if (!answer.ok) throw Object.assign(new Error(said.detail), { retriable: answer.status >= 500 });
  return said.events;
}
