/** The webhooks and their deliveries, for operators. URLs and errors of receivers are external data: always text. */

import { json } from "./api.js";
import { byId, make, set, setText, show, visible } from "./dom.js";
import { clock, clockTime, count, duration, since } from "./format.js";
import { encoded } from "./links.js";

const PERIOD_MS = 3000;
const REASONS = {
  operator: "disabled by an operator",
  gone: "disabled: it responded with 410",
  failing: "disabled: nothing could be delivered for 24 hours",
  full: "disabled: too many deliveries were waiting",
};
const STATES = { delivered: "completed", waiting: "processing", failed: "failed", gone: "failed", dropped: "cancelled" };

/** The rows of a table body by key, changed in place: a button keeps the focus while the table is renewed. */
class Rows {
  constructor(body) {
    this.body = body;
    this.rows = new Map();
  }

  /** @param {(key: string) => {row: Element, update: (item: object) => void}} create Called for a new key. */
  render(items, keyOf, create) {
    const keys = new Set(items.map(keyOf));
    for (const [key, { row }] of this.rows) {
      if (keys.has(key)) continue;
      row.remove();
      this.rows.delete(key);
    }
    items.forEach((item, index) => {
      const key = keyOf(item);
      if (!this.rows.has(key)) this.rows.set(key, create(key));
      const { row, update } = this.rows.get(key);
      update(item);
      if (this.body.children[index] !== row) this.body.insertBefore(row, this.body.children[index] ?? null);
    });
  }

  clear() {
    this.body.replaceChildren();
    this.rows.clear();
  }
}

export class Webhooks {
  constructor() {
    this.timer = null;
    this.shown = null; // the id of the webhook whose deliveries are listed
    this.endpoints = new Rows(byId("webhooks"));
    this.deliveries = new Rows(byId("attempts"));
    byId("attempts-close").addEventListener("click", () => this.showDeliveries(null));
  }

  /** Starts or stops listing: a hidden panel sends no requests. */
  run(visible) {
    clearInterval(this.timer);
    this.timer = visible ? setInterval(() => this.list(), PERIOD_MS) : null;
    if (visible) this.list();
  }

  async list() {
    if (document.visibilityState === "hidden") return;
    try {
      const { webhooks } = await json("v1/webhooks");
      this.render(webhooks);
      if (this.shown !== null && !webhooks.some(({ id }) => id === this.shown)) this.showDeliveries(null);
      await this.listDeliveries();
      this.showProblem("");
    } catch (error) {
      this.showProblem(error.message);
    }
  }

  render(webhooks) {
    show(byId("webhooks-none"), webhooks.length === 0);
    show(byId("webhooks-shown"), webhooks.length > 0);
    this.endpoints.render(webhooks, ({ id }) => id, (id) => this.makeEndpoint(id));
  }

  makeEndpoint(id) {
    const cells = { url: make("span.url"), id: make("span.of"), events: make("td"), state: make("span.status"), reason: make("span.reason"), last: make("span.of"), waiting: make("td.number") };
    let enabled = true;
    const toggle = make("button.small", { type: "button", on: { click: () => this.setEnabled(id, !enabled) } });
    const button = (text, action) => make("button.small", { type: "button", "aria-label": `${text} ${id}`, on: { click: action } }, text);
    const row = make(
      "tr",
      { data: { webhook: id } },
      make("th", { scope: "row" }, cells.url, cells.id),
      cells.events,
      make("td", {}, cells.state, cells.reason, cells.last),
      cells.waiting,
      make("td", {}, button("Deliveries", () => this.showDeliveries(id)), button("Test", () => this.attempt(`v1/webhooks/${encoded(id)}/test`, "Test")), toggle),
    );
    const update = (webhook) => {
      enabled = webhook.enabled;
      setText(cells.url, webhook.url);
      set(cells.url, "title", visible(webhook.url));
      setText(cells.id, webhook.static ? `${id}, in the configuration` : id);
      setText(cells.events, [webhook.events.join(", "), ...restrictions(webhook)].join("; "));
      set(cells.state, "data-status", enabled ? (webhook.failing_since ? "failed" : "completed") : "cancelled");
      setText(cells.state, enabled ? (webhook.failing_since ? "failing" : "enabled") : "disabled");
      setText(cells.reason, reasonOf(webhook));
      setText(cells.last, lastResult(webhook));
      setText(cells.waiting, waitingOf(webhook));
      setText(toggle, enabled ? "Disable" : "Enable");
      set(toggle, "aria-label", `${enabled ? "Disable" : "Enable"} ${id}`);
    };
    return { row, update };
  }

  async setEnabled(id, enabled) {
    try {
      const headers = { "Content-Type": "application/json" };
      await json(`v1/webhooks/${encoded(id)}`, { method: "PATCH", headers, body: JSON.stringify({ enabled }) });
      this.showResult(`${id} is ${enabled ? "enabled" : "disabled"}.`);
    } catch (error) {
      this.showResult(error.message);
    }
    await this.list();
  }

  showDeliveries(id) {
    if (this.shown !== id) this.deliveries.clear();
    this.shown = id;
    show(byId("attempts-section"), id !== null);
    setText(byId("attempts-heading"), `Deliveries of ${id}`);
    this.list();
  }

  async listDeliveries() {
    const id = this.shown;
    if (id === null) return;
    const { deliveries } = await json(`v1/webhooks/${encoded(id)}/deliveries`);
    if (id !== this.shown) return;
    show(byId("attempts-none"), deliveries.length === 0);
    show(byId("attempts-shown"), deliveries.length > 0);
    this.deliveries.render(deliveries, (delivery) => delivery.id, (key) => this.makeDelivery(id, key));
  }

  makeDelivery(webhook, id) {
    const cells = { task: make("span.of"), type: make("td"), state: make("span.status"), next: make("span.of"), last: make("span"), error: make("span.reason") };
    const path = `v1/webhooks/${encoded(webhook)}/deliveries/${encoded(id)}/redeliver`;
    const again = make("button.small", { type: "button", "aria-label": `Redeliver ${id}`, on: { click: () => this.attempt(path, "Delivery") } }, "Redeliver");
    const row = make("tr", { data: { delivery: id } }, make("th", { scope: "row" }, make("code", {}, id), cells.task), cells.type, make("td", {}, cells.state, cells.next), make("td", {}, cells.last, cells.error), make("td", {}, again));
    const update = (delivery) => {
      const [newest] = delivery.attempts;
      setText(cells.task, delivery.task ?? "");
      setText(cells.type, delivery.type);
      set(cells.state, "data-status", STATES[delivery.state] ?? "unknown");
      setText(cells.state, delivery.state);
      setText(cells.next, delivery.next_attempt_at ? `next at ${clockTime(delivery.next_attempt_at)}` : "");
      setText(cells.last, newest ? `${clockTime(newest.at)}, ${newest.status === null ? "no response" : `HTTP ${newest.status}`}, ${count(delivery.attempts.length, "attempt")}` : "–");
      setText(cells.error, newest?.error ?? "");
      show(again, delivery.redeliverable);
    };
    return { row, update };
  }

  /** Requests one attempt, and shows its result. */
  async attempt(path, name) {
    this.showResult(`${name}: waiting for the receiver…`);
    try {
      const { status, seconds, error } = await json(path, { method: "POST" });
      const response = status === null ? "no response" : `HTTP ${status}`;
      this.showResult(`${name}: ${response} after ${seconds.toFixed(2)} s${error ? ` (${error})` : ""}.`);
    } catch (error) {
      this.showResult(`${name}: ${error.message}`);
    }
    await this.list();
  }

  showResult(text) {
    setText(byId("webhooks-result"), text);
  }

  showProblem(text) {
    setText(byId("webhooks-problem"), text);
    show(byId("webhooks-problem"), Boolean(text));
  }
}

function restrictions({ upstreams, tags }) {
  return [upstreams.length ? `of ${upstreams.join(", ")}` : null, tags.length ? `with the tags ${tags.join(", ")}` : null].filter(Boolean);
}

function reasonOf({ enabled, disabled_reason: reason, failing_since: failing }) {
  if (!enabled) return REASONS[reason] ?? `disabled: ${reason}`;
  return failing ? `for ${duration(since(failing, clock()))}` : "";
}

function lastResult({ last_success_at: success, last_failure_at: failure }) {
  if (!success && !failure) return "";
  return !failure || success > failure ? `delivered at ${clockTime(success)}` : `failed at ${clockTime(failure)}`;
}

function waitingOf({ waiting, oldest_waiting_seconds: oldest }) {
  return oldest === null ? String(waiting) : `${waiting} (${duration(oldest)})`;
}
