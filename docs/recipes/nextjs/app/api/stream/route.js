// POST /api/stream {"task": "qingbo/YOUR_TASK_ID"} answers {"events": "https://bridge.example/v1/events?..."}.
//
// The page opens that address with EventSource. It holds a ticket: it reads this one task, for ten minutes. The page
// asks again when it is over. The token stays here.

import { mayRead, signedIn } from "../../../lib/session.js";

export const dynamic = "force-dynamic"; // every page its own

const TICKET_SECONDS = 600;

export async function POST(request) {
  const user = await signedIn(request);
  if (!user) return refusal(401, "sign in first");
  const { task } = (await request.json().catch(() => null)) ?? {};
  if (typeof task !== "string") return refusal(400, "which task?");
  if (!(await mayRead(user, task))) return refusal(404, "no such task"); // other people's look like none

  let answer;
  try {
    answer = await fetch(`${process.env.BRIDGE_URL}/v1/tickets`, {
      method: "POST",
      headers: { authorization: `Bearer ${process.env.BRIDGE_TOKEN}`, "content-type": "application/json" },
      body: JSON.stringify({ tasks: [task], seconds: TICKET_SECONDS }),
      signal: AbortSignal.timeout(10_000),
      cache: "no-store",
    });
  } catch {
    return refusal(503, "the bridge is out of reach");
  }
  if (answer.status !== 201) {
    console.error(`the bridge gives no ticket: ${answer.status}`); // our token, or our settings: nothing for the page
    return refusal(502, "the bridge gives no ticket");
  }
  const { links } = await answer.json();
  const events = (process.env.BRIDGE_PUBLIC_URL ?? process.env.BRIDGE_URL) + links.events;
  return Response.json({ events }, { headers: { "cache-control": "no-store" } });
}

function refusal(status, detail) {
  return Response.json({ detail }, { status, headers: { "cache-control": "no-store" } });
}
