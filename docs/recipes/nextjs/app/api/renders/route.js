// POST /api/renders {"prompt": "..."} submits and returns {"task": "qingbo/..."}. Never retried automatically: each submit
// may be billed.

import { answer, call } from "../../../lib/bridge.js";
import { own, signedIn } from "../../../lib/session.js";

const SUBMIT_SECONDS = 90; // the bridge waits up to 60 s for the provider

export async function POST(request) {
  const user = await signedIn(request);
  if (!user) return answer(401, { detail: "sign in first" });
  const { prompt } = (await request.json().catch(() => null)) ?? {};
  if (typeof prompt !== "string" || !prompt) return answer(400, { detail: "prompt is required" });

  const { document, refused } = await call("/v1/tasks/qingbo", { model: "veo3", prompt }, SUBMIT_SECONDS);
  if (refused) return refused;
  await own(user, document.state.task);
  return answer(201, { task: document.state.task });
}
