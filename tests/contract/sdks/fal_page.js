// fal's own client on a page, as its README uses it.

import { fal, ApiError, ValidationError } from "@fal-ai/client";

window.fal = fal;

// What a promise comes to, in a form that leaves the page.
window.told = async (work) => {
  try {
    return { value: await work() };
  } catch (error) {
    const { name, message, status, body } = error;
    const kind = error instanceof ValidationError ? "ValidationError" : error instanceof ApiError ? "ApiError" : "Error";
    return { kind, name, message, status, body };
  }
};

window.subscribe = async (input, options = {}) => {
  const seen = (window.seen = []);
  const logs = [];
  const outcome = await window.told(() =>
    fal.subscribe("fal-ai/flux/dev", {
      input,
      logs: true,
      onEnqueue: (id) => (window.enqueued = id),
      onQueueUpdate: (update) => {
        seen.push(update.status);
        if (update.status === "IN_PROGRESS") update.logs.map((log) => log.message).forEach((text) => logs.push(text));
      },
      ...options,
    }),
  );
  return { ...outcome, seen, logs };
};
