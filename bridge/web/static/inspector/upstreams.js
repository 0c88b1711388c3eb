/** The upstreams and what is wrong with them, above the tasks. */

import { byId, make, show } from "./dom.js";
import { duration, since } from "./format.js";

export const HEALTH = { VALID: "completed", INITIALIZING: "queued", INTERRUPTED: "failed", OFF: "cancelled" };
const WORDS = { VALID: "works", INITIALIZING: "not called yet", INTERRUPTED: "interrupted", OFF: "off" };

export class Upstreams {
  /** @param {(message: string) => void} announce Called when the health of an upstream changes. */
  constructor(announce) {
    this.announce = announce;
    this.rendered = "";
    this.states = new Map();
  }

  /** @param {object[]} upstreams `name`, `state`, `since` and `reason` of each, of those the user may know. */
  render(upstreams) {
    const list = byId("upstream-health");
    show(list, upstreams.length > 0);
    for (const { name, state, reason } of upstreams) {
      const before = this.states.get(name);
      if (before && before !== state && state === "INTERRUPTED") this.announce(`${name} is interrupted: ${reason}`);
      if (before === "INTERRUPTED" && state === "VALID") this.announce(`${name} works again.`);
      this.states.set(name, state);
    }
    const text = JSON.stringify(upstreams.map(({ name, state, reason }) => [name, state, reason]));
    if (text === this.rendered) return;
    this.rendered = text;
    list.replaceChildren(...upstreams.map(item));
  }
}

function item({ name, state, since: at, reason }) {
  const wrong = reason && state !== "OFF";
  return make(
    "li",
    { data: { state } },
    make("span.status", { data: { status: HEALTH[state] ?? "unknown" }, title: `${WORDS[state] ?? state} since ${at}` }, name),
    make("span.visually-hidden", {}, ` ${WORDS[state] ?? state}`),
    reason ? make(wrong ? "span.reason" : "span.muted", {}, wrong ? `${reason} (for ${duration(Math.max(0, since(at, Date.now())))})` : reason) : null,
  );
}
