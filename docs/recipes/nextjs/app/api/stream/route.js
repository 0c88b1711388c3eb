// POST /api/stream {"task": "qingbo/YOUR_TASK_ID"} returns {"events": "https://bridge.example/v1/events?..."}.
//
// The page opens that address with EventSource. It contains a ticket, which can read this one task for ten minutes; then
// the page requests a new one. The token stays on the server.

import { mayRead, signedIn } from "../../../lib/session.js";

export const dynamic = "force-dynamic"; // never cached: the response depends on the user

const TICKET_SECONDS = 600;

export async function POST(request) {
  const user = await signedIn(request);
  if (!user) return refusal(401, "sign in first");
  const { task } = (await request.json().catch(() => null)) ?? {};
  if (typeof task !== "string") return refusal(400, "task is required");
  if (!(await mayRead(user, task))) return refusal(404, "no such task"); // the same response for tasks of other users

  let response;
  try {
    response = await fetch(`${process.env.BRIDGE_URL}/v1/tickets`, {
      method: "POST",
      headers: { authorization: `Bearer ${process.env.BRIDGE_TOKEN}`, "content-type": "application/json" },
      body: JSON.stringify({ tasks: [task], seconds: TICKET_SECONDS }),
      signal: AbortSignal.timeout(10_000),
      cache: "no-store",
    });
  } catch {
    return refusal(503, "the bridge is unreachable");
  }
  if (response.status !== 201) {
    console.error(`the bridge issued no ticket: ${response.status}`); // our token or configuration is wrong; no details for the page
    return refusal(502, "the bridge issued no ticket");
  }
  const { links } = await response.json();
  const events = (process.env.BRIDGE_PUBLIC_URL ?? process.env.BRIDGE_URL) + links.events;
  return Response.json({ events }, { headers: { "cache-control": "no-store" } });
}

function refusal(status, detail) {
  return Response.json({ detail }, { status, headers: { "cache-control": "no-store" } });
}
