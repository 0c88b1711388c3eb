// POST /api/stream {"task": "qingbo/YOUR_TASK_ID"} returns {"events": "https://bridge.example/v1/events?..."}.
//
// The page opens that address with EventSource. With tokens it contains a ticket, which can read this one task for ten
// minutes; then the page requests a new one.

import { answer, call, publicUrl, withTokens } from "../../../lib/bridge.js";
import { mayRead, signedIn } from "../../../lib/session.js";

const TICKET_SECONDS = 600;

export async function POST(request) {
  const user = await signedIn(request);
  if (!user) return answer(401, { detail: "sign in first" });
  const { task } = (await request.json().catch(() => null)) ?? {};
  if (typeof task !== "string") return answer(400, { detail: "task is required" });
  if (!(await mayRead(user, task))) return answer(404, { detail: "no such task" }); // the same response for tasks of other users

  if (!withTokens) return answer(200, { events: `${publicUrl}/v1/events?task=${encodeURIComponent(task)}` });
  const { document, refused } = await call("/v1/tickets", { tasks: [task], seconds: TICKET_SECONDS }, 10);
  return refused ?? answer(200, { events: publicUrl + document.links.events });
}
