/** The table of tasks: rows are changed in place to keep focus and reading position. */

import { byId, make, set, setText, show } from "./dom.js";
import { clock, duration, eta, percent, since } from "./format.js";

const CELL = { role: "cell" };

export class Table {
  /** @param {object} act Callbacks: `select(ref)`, `follow(ref)`, `unfollow(ref)`. */
  constructor(act) {
    this.act = act;
    this.body = byId("rows");
    this.rows = new Map();
    this.selected = null;
    this.active = null; // the row in the order of the Tab key: with all of them, nothing behind the table could be reached
    this.body.addEventListener("focusin", ({ target }) => this.activate(target.closest("tr")?.dataset.task));
    this.body.addEventListener("keydown", (event) => this.step(event));
  }

  render(tasks, selected) {
    const refs = new Set(tasks.map((task) => task.ref));
    for (const [ref, row] of this.rows) {
      if (refs.has(ref)) continue;
      row.node.remove();
      this.rows.delete(ref);
    }
    let next = this.body.firstChild;
    for (const task of tasks) {
      if (!this.rows.has(task.ref)) this.rows.set(task.ref, new Row(task.ref, this.act));
      const row = this.rows.get(task.ref);
      row.render(task, task.ref === selected);
      if (row.node === next) next = next.nextSibling;
      else move(this.body, row.node, next);
    }
    if (selected !== this.selected && refs.has(selected)) this.activate(selected);
    if (!refs.has(this.active)) this.activate(tasks[0]?.ref);
    this.selected = selected;
    show(byId("empty"), tasks.length === 0);
    show(byId("table"), tasks.length > 0);
  }

  activate(ref) {
    if (ref === undefined || ref === this.active) return;
    this.rows.get(this.active)?.reachable(false);
    this.active = ref;
    this.rows.get(ref)?.reachable(true);
  }

  /** The arrow keys move between rows, Home and End to the first and the last. */
  step(event) {
    const { body } = this;
    const row = event.target.closest("tr");
    const next = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling, Home: body.firstElementChild, End: body.lastElementChild }[event.key];
    if (!next) return;
    event.preventDefault();
    next.querySelector(".ref").focus();
  }

  /** Updates the elapsed times. */
  tick(tasks) {
    for (const task of tasks) this.rows.get(task.ref)?.tick(task);
  }
}

/** Inserts a row before another; a row that has the focus keeps it. */
function move(body, node, before) {
  const focused = node.contains(document.activeElement) ? document.activeElement : null;
  body.insertBefore(node, before);
  focused?.focus({ preventScroll: true });
}

class Row {
  constructor(ref, act) {
    const name = splitRef(ref);
    this.name = make("button.ref", { type: "button", title: ref, tabindex: -1, on: { click: () => act.select(ref) } }, name);
    this.status = make("span.status");
    this.bar = make("progress", { max: 100 });
    this.percent = make("span.number");
    this.eta = make("td.number.optional", CELL);
    this.age = make("td.number.optional", CELL);
    this.source = make("td.optional.wide", CELL);
    this.viewers = make("td.number.optional", CELL);
    this.toggle = make("button.small", { type: "button", tabindex: -1, on: { click: () => (this.followed ? act.unfollow(ref) : act.follow(ref)) } });
    this.node = make(
      "tr",
      { role: "row", data: { task: ref } }, // explicit roles: on narrow screens the CSS layout would remove the table semantics
      make("th.name", { scope: "row", role: "rowheader" }, this.name),
      make("td.state", CELL, this.status),
      make("td", CELL, make("div.progress", {}, this.bar, this.percent)),
      this.eta,
      this.age,
      this.source,
      this.viewers,
      make("td.action", CELL, this.toggle),
    );
    this.ref = ref;
  }

  reachable(yes) {
    for (const button of [this.name, this.toggle]) set(button, "tabindex", yes ? "0" : "-1");
  }

  render(task, selected) {
    const { status, progress, source } = task.shown;
    this.followed = task.followed;
    this.idle = task.idle;
    set(this.node, "data-followed", task.followed);
    set(this.node, "data-idle", this.idle);
    set(this.node, "data-selected", selected);
    set(this.name, "aria-current", selected ? "true" : null);
    setText(this.status, task.problem ? "rejected" : statusText(status));
    set(this.status, "data-status", task.problem ? "failed" : status);
    set(this.status, "title", task.problem ?? task.shown.error?.message ?? null);
    set(this.bar, "data-status", status);
    const known = progress ?? (status === "completed" ? 100 : null);
    set(this.bar, "value", known); // without a value it is indeterminate
    show(this.bar, known !== null || !task.final);
    set(this.bar, "aria-label", `Progress of ${task.ref}`);
    setText(this.percent, percent(progress));
    setText(this.source, source ?? "–");
    setText(this.viewers, String(task.listed?.viewers ?? (task.followed && !task.done ? 1 : 0)));
    const label = task.followed ? (task.done || task.problem ? "Remove" : "Stop") : "Watch";
    setText(this.toggle, label);
    set(this.toggle, "aria-label", `${label} ${task.ref}`);
    show(this.toggle, task.followed || !task.final);
    this.tick(task);
  }

  tick(task) {
    const { changed_at: changed } = task.shown;
    const now = clock();
    set(this.eta, "title", this.idle ? "Its last viewer left, so the bridge does not poll it. Watch it to continue." : null);
    if (this.idle) setText(this.eta, "not polled");
    else setText(this.eta, (!task.final && eta(task.estimated, now)) || "–");
    const age = since(task.startedAt, task.final ? Date.parse(changed) : now);
    setText(this.age, task.final && age <= 0 ? "–" : duration(age)); // it had ended when the bridge first saw it
  }
}

/** Splits a ref so that CSS can shorten the id in the middle but never the upstream. */
export function splitRef(ref) {
  const slash = ref.indexOf("/") + 1;
  const id = ref.slice(slash);
  const keep = Math.min(8, Math.floor(id.length / 2));
  return make(
    "span.ref-parts",
    {},
    make("span.upstream", {}, ref.slice(0, slash)),
    make("span.head", {}, id.slice(0, id.length - keep)),
    make("span.tail", {}, id.slice(id.length - keep)),
  );
}

export function statusText(status) {
  return status.replaceAll("_", " ");
}
