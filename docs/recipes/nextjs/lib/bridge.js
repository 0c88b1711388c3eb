// Calls the bridge from our backend. The token stays on the server.

const BRIDGE_URL = process.env.BRIDGE_URL ?? "http://127.0.0.1:8080";

export const publicUrl = process.env.BRIDGE_PUBLIC_URL ?? BRIDGE_URL; // as browsers reach it
export const withTokens = Boolean(process.env.BRIDGE_TOKEN); // without, for trying out, the bridge has no authentication

/** Returns the bridge's response, or one of ours for the page that says what is wrong. */
export async function call(path, body, seconds) {
  const headers = { "content-type": "application/json" };
  if (withTokens) headers.authorization = `Bearer ${process.env.BRIDGE_TOKEN}`;
  let response;
  try {
    const signal = AbortSignal.timeout(seconds * 1000);
    response = await fetch(BRIDGE_URL + path, { method: "POST", headers, body: JSON.stringify(body), signal, cache: "no-store" });
  } catch {
    return { refused: answer(503, { detail: "the bridge is unreachable" }) };
  }
  const document = await response.json().catch(() => ({}));
  if (response.ok) return { document };
  console.error(`the bridge refused ${path}: ${response.status}`); // our token, our configuration, or the provider
  const detail = [401, 403].includes(response.status) ? "the bridge rejected this backend" : document.detail;
  return { refused: answer(502, { detail: detail ?? "the bridge returned no result" }) };
}

/** A response that no cache keeps: it depends on the user. */
export function answer(status, body, headers = {}) {
  return Response.json(body, { status, headers: { "cache-control": "no-store", ...headers } });
}
