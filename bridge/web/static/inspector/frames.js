/** What crosses the wire, as it comes: the newest few hundred frames. */

import { byId, make, set, setText } from "./dom.js";
import { count } from "./format.js";

const MOST = 200;
const LONGEST = 1500; // characters shown of one frame

export class Frames {
  constructor() {
    this.list = byId("frames");
    this.paused = false;
    this.told = 0;
    this.waiting = [];
    this.began = performance.now();
    byId("frames-pause").addEventListener("click", () => this.pause(!this.paused));
    byId("frames-clear").addEventListener("click", () => this.clear());
  }

  /** Frames are drawn once a picture, however many come. */
  add(text, sent) {
    this.told += 1;
    if (this.paused) return;
    this.waiting.push({ text, sent, at: performance.now() });
    if (this.waiting.length > MOST) this.waiting.shift();
    if (this.waiting.length === 1) setTimeout(() => this.draw(), 100);
  }

  draw() {
    const atEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 40;
    this.list.append(...this.waiting.map((frame) => this.item(frame)));
    this.waiting = [];
    while (this.list.children.length > MOST) this.list.firstChild.remove();
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
    setText(byId("frames-count"), count(this.told, "frame"));
  }

  item({ text, sent, at }) {
    const cut = text.length > LONGEST ? `${text.slice(0, LONGEST)}\n… ${count(text.length - LONGEST, "more character")}` : text;
    const seconds = ((at - this.began) / 1000).toFixed(2);
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
    this.told = 0;
    this.list.replaceChildren();
    setText(byId("frames-count"), count(0, "frame"));
  }
}
