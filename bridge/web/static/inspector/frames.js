/** The newest frames sent and received, unchanged. */

import { byId, make, set, setText } from "./dom.js";
import { count } from "./format.js";

const MAX_FRAMES = 200;
const MAX_CHARACTERS = 1500; // shown per frame

export class Frames {
  constructor() {
    this.list = byId("frames");
    this.paused = false;
    this.total = 0;
    this.waiting = [];
    this.startedAt = performance.now();
    byId("frames-pause").addEventListener("click", () => this.pause(!this.paused));
    byId("frames-clear").addEventListener("click", () => this.clear());
  }

  /** Frames are drawn in batches, at any rate. */
  add(text, sent) {
    this.total += 1;
    if (this.paused) return;
    this.waiting.push({ text, sent, at: performance.now() });
    if (this.waiting.length > MAX_FRAMES) this.waiting.shift();
    if (this.waiting.length === 1) setTimeout(() => this.draw(), 100);
  }

  draw() {
    const atEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
    this.list.append(...this.waiting.map((frame) => this.item(frame)));
    this.waiting = [];
    while (this.list.children.length > MAX_FRAMES) this.list.firstChild.remove();
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
    setText(byId("frames-count"), count(this.total, "frame"));
  }

  item({ text, sent, at }) {
    const cut = text.length > MAX_CHARACTERS ? `${text.slice(0, MAX_CHARACTERS)}\n… ${count(text.length - MAX_CHARACTERS, "more character")}` : text;
    const seconds = ((at - this.startedAt) / 1000).toFixed(2);
    return make(
      "li",
      { data: { way: sent ? "out" : "in" } },
      make("span.when", {}, `${seconds} s`),
      make("span.way", { "aria-label": sent ? "sent" : "received" }, sent ? "→" : "←"),
      make("pre", {}, cut),
    );
  }

  pause(paused) {
    this.paused = paused;
    set(byId("frames-pause"), "aria-pressed", String(paused));
  }

  clear() {
    this.waiting = [];
    this.total = 0;
    this.list.replaceChildren();
    setText(byId("frames-count"), count(0, "frame"));
  }
}
