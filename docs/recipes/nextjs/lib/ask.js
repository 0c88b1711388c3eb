// Calls our own backend from the page.

export async function ask(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const result = await response.json().catch(() => ({}));
  if (response.ok) return result;
  // For `watch`: a permanent error ends it; others are retried.
  const retriable = response.status >= 500;
  throw Object.assign(new Error(result.detail ?? response.statusText), { retriable });
}
