// POST /api/sign-in {"user": "ada"} sets the session cookie.

import { answer } from "../../../lib/bridge.js";
import { signIn } from "../../../lib/session.js";

export async function POST(request) {
  const { user } = (await request.json().catch(() => null)) ?? {};
  if (typeof user !== "string" || !user) return answer(400, { detail: "user is required" });
  return answer(200, { user }, { "set-cookie": await signIn(user) });
}
