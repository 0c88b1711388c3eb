/** The page: the tasks the user watches, their state, and one connection for all of them. */

import { Problem, json, request, token } from "./api.js";
import { Connection } from "./connection.js";
import { DELIVERIES, NAMES } from "./deliveries.js";
import { Details } from "./details.js";
import { byId, copy, set, setText, show } from "./dom.js";
import { count, setClock } from "./format.js";
import { Frames } from "./frames.js";
import { parseRef, readHash, taskPath, writeHash } from "./links.js";
import { Plots } from "./plots.js";
import { makeSelfTest } from "./selftest.js";
import { snippets } from "./snippets.js";
import { blocks } from "./sse.js";
import { Submit } from "./submit.js";
import { Table, statusText } from "./table.js";
import { makeTabs } from "./tabs.js";
import { Tasks } from "./tasks.js";
import { Upstreams } from "./upstreams.js";
import { Webhooks } from "./webhooks.js";

const LISTING_MS = 2000;
const HISTORY_TIMEOUT_MS = 1500;
const MAX_FOLLOWED = 200;
const REGROUP_MS = 3000; // between two connections that differ only in the tasks followed automatically
const HIDDEN_MS = 60_000; // a hidden page follows nothing automatically for longer

class Page {
  constructor() {
    this.tasks = new Tasks();
    this.selected = null;
    this.selectedByPage = null;
    this.via = "sse";
    this.connection = null;
    this.regroupedAt = -Infinity;
    this.hidden = false;
    this.etag = null;
    this.word = ""; // the tag or group that the list is limited to
    this.phase = "idle";
    this.admitted = false; // whether the bridge has accepted the user; no other request is sent before
    this.about = { caller: { scopes: [], submits: [] }, bridge: { keepalive_seconds: 15, max_tasks_per_connection: MAX_FOLLOWED } };
    this.table = new Table({
      select: (ref) => this.select(ref),
      follow: (ref) => this.follow([ref]),
      unfollow: (ref) => this.unfollow(ref),
    });
    this.details = new Details();
    this.frames = new Frames();
    this.plots = new Plots();
    this.webhooks = new Webhooks();
    this.upstreams = new Upstreams((message) => this.announce(message));
    this.submit = new Submit((ref) => this.follow([ref], { select: true }));
    this.drawing = false;
  }

  start() {
    this.listen();
    this.readAddress();
    this.keepListing();
    setInterval(() => this.tick(), 1000);
  }

  listen() {
    byId("filter-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.filter(byId("filter").value.trim());
    });
    byId("watch-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.watchTyped();
    });
    byId("watch-all").addEventListener("click", () => this.follow(this.tasks.rows.filter((task) => !task.followed && !task.final).map((task) => task.ref)));
    for (const choice of document.querySelectorAll("[name=via]")) {
      choice.addEventListener("change", () => this.deliverBy(choice.value));
    }
    byId("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      token.value = byId("token").value.trim();
      byId("token").value = "";
      this.etag = null;
      this.list();
    });
    byId("token-forget").addEventListener("click", () => {
      token.value = null;
      location.reload();
    });
    byId("cancel").addEventListener("click", () => this.confirmCancel());
    byId("cancel-dialog").addEventListener("close", ({ target }) => target.returnValue === "cancel" && this.cancel());
    for (const button of document.querySelectorAll("[data-copies]")) {
      button.addEventListener("click", () => copy(byId(button.dataset.copies).textContent, byId(button.dataset.copies), button));
    }
    for (const choice of document.querySelectorAll("[name=code-of]")) choice.addEventListener("change", () => this.draw());
    makeTabs(byId("tabs"), (panel) => {
      this.plots.run(panel === "panel-bridge");
      this.webhooks.run(panel === "panel-webhooks");
    });
    makeSelfTest(() => ({ keepalive: this.about.bridge.keepalive_seconds, task: this.selected ?? this.tasks.rows[0]?.ref ?? null }));
    addEventListener("hashchange", () => this.readAddress());
    document.addEventListener("visibilitychange", () => this.showOrHide());
  }

  // User input

  readAddress() {
    const { refs, via, task } = readHash(location.hash);
    if (via in DELIVERIES && via !== this.via) this.deliverBy(via);
    const requested = new Set(refs);
    for (const task of this.tasks.followed) if (!requested.has(task.ref)) this.tasks.unfollow(task.ref);
    this.follow(refs);
    if (task && requested.has(task)) this.select(task);
    if (!refs.length) this.reconnect();
  }

  writeAddress() {
    const hash = writeHash({ refs: this.tasks.followed.map((task) => task.ref), via: this.via, task: this.selected });
    history.replaceState(null, "", hash || location.pathname + location.search);
  }

  watchTyped() {
    const input = byId("ref");
    try {
      const ref = parseRef(input.value);
      this.showProblem("");
      set(input, "aria-invalid", null);
      input.value = "";
      this.follow([ref], { select: true });
    } catch (error) {
      set(input, "aria-invalid", "true");
      this.showProblem(error.message);
      input.focus();
    }
  }

  follow(refs, { select = false } = {}) {
    const room = (this.about.bridge.max_tasks_per_connection || MAX_FOLLOWED) - this.tasks.followed.length;
    const fresh = [...new Set(refs)].filter((ref) => !this.tasks.get(ref)?.followed || this.tasks.get(ref).problem);
    if (fresh.length > room) this.showProblem(`A connection is limited to ${count(room + this.tasks.followed.length, "task")}; the others are ignored.`);
    for (const ref of fresh.slice(0, Math.max(0, room))) this.tasks.follow(ref);
    if (refs.length && (select || !this.selected)) this.select(refs[0]);
    if (fresh.length) this.reconnect();
    this.writeAddress();
  }

  unfollow(ref) {
    const wasWanted = this.tasks.wanted.some((task) => task.ref === ref);
    this.tasks.unfollow(ref);
    if (this.selected === ref && !this.tasks.get(ref)) this.selected = this.tasks.followed[0]?.ref ?? null;
    if (wasWanted) this.reconnect();
    this.writeAddress();
    this.draw();
  }

  select(ref) {
    this.selected = ref;
    this.selectedByPage = null;
    this.readHistory(ref);
    this.writeAddress();
    this.draw();
  }

  /**
   * Without a selection by the user, shows the newest open task, or else the one that ended last. A task selected like
   * that is left when it ends without a result and another is open.
   */
  selectNewest() {
    const shown = this.tasks.get(this.selected);
    const over = this.selected === this.selectedByPage && shown?.final && !shown.state?.outputs.length;
    if (this.selected && !over) return;
    const task = this.tasks.rows.find((row) => (row.final && !over) || (!row.final && row.listed?.watched));
    if (!task) return;
    this.selected = this.selectedByPage = task.ref;
    this.readHistory(task.ref);
  }

  deliverBy(via) {
    this.via = via;
    for (const choice of document.querySelectorAll("[name=via]")) choice.checked = choice.value === via;
    this.reconnect();
    this.writeAddress();
  }

  // State

  /** Lists every two seconds while the page is visible, each time after the last response. */
  async keepListing() {
    if (document.visibilityState === "visible") await this.list();
    setTimeout(() => this.keepListing(), LISTING_MS);
  }

  /** Lists the newest tasks, the upstreams and the user's permissions: the first request of all. */
  async list() {
    const word = this.word;
    try {
      const response = await request(`inspector/tasks${word ? `?word=${encodeURIComponent(word)}` : ""}`, { headers: this.etag ? { "If-None-Match": this.etag } : {} });
      const listing = response.status === 200 ? await response.json() : null;
      if (word !== this.word) return; // the list of the word typed since is on its way
      if (listing) {
        this.take(listing);
        this.etag = response.headers.get("ETag");
      }
      this.requestToken(false);
      this.enterBridge();
      this.selectNewest();
      this.regroup();
    } catch (error) {
      if (word !== this.word) return;
      if (error instanceof Problem && error.status === 401) this.requestToken(true, error.message);
      else if (error instanceof Problem && error.permanent) this.showProblem(error.message);
      else if (!this.admitted) this.setPhase("waiting", LISTING_MS / 1000);
    }
    this.draw();
  }

  /** Lists only what has this tag or is in this group; empty for all. */
  filter(word) {
    this.word = word;
    show(byId("empty-all"), !word);
    show(byId("empty-filtered"), Boolean(word));
    setText(byId("empty-word"), word);
    this.etag = null;
    this.tasks.clearListed();
    this.showProblem("");
    void this.list();
  }

  take(listing) {
    this.about = listing;
    if (listing.now) setClock(listing.now);
    const selected = this.tasks.get(this.selected);
    const seen = selected?.shown.changed_at;
    this.tasks.list(listing.tasks, this.selected);
    if (selected && selected.shown.changed_at !== seen && selected.shown === selected.listed) this.readHistory(selected.ref);
    this.upstreams.render(listing.upstreams);
    this.submit.render(listing.caller.submits);
    show(byId("tab-webhooks"), listing.caller.scopes.includes("admin"));
    show(byId("more"), listing.more);
    show(byId("docs-link"), listing.bridge.documents);
  }

  /** Nothing was asked for: the page follows the newest open tasks, and ones that come later. */
  get automatic() {
    return this.tasks.followed.length === 0;
  }

  /** Follows tasks that were listed since the connection was opened; not more often than every few seconds. */
  regroup() {
    if (!this.automatic || this.hidden || this.phase === "refused") return;
    const missing = this.tasks.wanted.some((task) => !this.connection?.tasks.includes(task.ref));
    const busy = this.phase === "live" || this.phase === "waiting";
    if (missing && (!busy || performance.now() - this.regroupedAt > REGROUP_MS)) this.reconnect();
  }

  showOrHide() {
    clearTimeout(this.hiding);
    if (document.visibilityState === "visible") {
      this.hidden = false;
      this.list();
      return;
    }
    this.hiding = setTimeout(() => {
      if (!this.automatic) return;
      this.hidden = true;
      this.connection?.stop();
      this.connection = null;
      this.setPhase("idle");
    }, HIDDEN_MS);
  }

  enterBridge() {
    if (this.admitted) return;
    this.admitted = true;
    this.reconnect();
    if (this.selected) this.readHistory(this.selected);
  }

  requestToken(needed, why = "") {
    if (needed) this.admitted = false;
    const first = needed && byId("token-section").hidden;
    show(byId("token-section"), needed);
    show(byId("workspace"), !needed);
    show(byId("token-forget"), !needed && Boolean(token.value));
    setText(byId("token-why"), token.value ? `Token rejected: ${why}` : "This bridge requires a token.");
    if (first) byId("token").focus();
  }

  /** Opens one connection for all unfinished tasks. */
  reconnect() {
    this.regroupedAt = performance.now();
    this.connection?.stop();
    this.connection = null;
    const refs = this.tasks.wanted.map((task) => task.ref);
    if (!this.admitted) return;
    if (!refs.length) {
      this.setPhase(this.tasks.followed.length ? "ended" : "idle");
      return;
    }
    const connection = new Connection(
      this.via,
      refs,
      {
        event: (event) => this.connection === connection && this.accept(event),
        frame: (text, sent) => this.frames.add(text, sent),
        phase: (name, detail) => this.connection === connection && this.enter(name, detail, refs),
      },
      () => Math.max(30, this.about.bridge.keepalive_seconds * 2.5 + 5),
    );
    this.connection = connection;
    connection.start();
  }

  accept(event) {
    if (event.kind === "state") this.takeState(event.state);
    else if (event.kind === "notice" && event.notice.task) this.tasks.note(event.notice);
    else if (event.kind === "refused") this.refuse(event.task, event.problem);
    this.draw();
  }

  takeState(state) {
    const before = this.tasks.get(state.task);
    const ended = before?.state && !before.done;
    const task = this.tasks.update(state);
    if (ended && task.done) this.announce(`${state.task}: ${statusText(state.status)}`);
  }

  refuse(ref, problem) {
    const task = this.tasks.get(ref);
    if (task) task.problem = problem;
  }

  enter(phase, detail, refs) {
    if (phase === "refused") {
      this.findRefused(refs, detail);
      return;
    }
    if (phase === "waiting" && this.phase === "live") this.announce("Connection lost; reconnecting.");
    if (phase === "live" && this.phase === "waiting") this.announce("Reconnected.");
    if (phase === "connecting" && this.phase === "live" && this.automatic) return; // only more tasks
    if (phase === "connecting" && this.phase === "waiting") return; // keep "Connection lost" until an attempt succeeds
    this.setPhase(phase, detail);
  }

  /** A connection for many tasks was rejected because of one: find that task, and continue with the others. */
  async findRefused(refs, problem) {
    this.setPhase("refused", problem);
    if (problem.status === 401) {
      this.requestToken(true, problem.message);
      return;
    }
    if (refs.length === 1) {
      this.refuse(refs[0], problem.message);
      this.reconnect();
      this.draw();
      return;
    }
    const results = await Promise.all(refs.map((ref) => request(taskPath(ref)).then(() => null, (error) => error)));
    const refused = refs.filter((ref, index) => results[index] instanceof Problem && results[index].permanent);
    for (const ref of refused) this.refuse(ref, results[refs.indexOf(ref)].message);
    if (refused.length) this.reconnect();
    else this.showProblem(problem.message);
    this.draw();
  }

  /** Reads the recorded states of one task, until the end or until no state arrives for a moment. */
  async readHistory(ref) {
    if (!this.admitted) return;
    this.reading?.abort();
    const reading = (this.reading = new AbortController());
    const startTimer = () => setTimeout(() => reading.abort(), HISTORY_TIMEOUT_MS);
    let timer = startTimer();
    try {
      const response = await request(`${taskPath(ref, "/events")}?history=1`, { headers: { Accept: "text/event-stream" }, signal: reading.signal });
      for await (const block of blocks(response.body)) {
        if (block.event === "end") break;
        if (block.event !== "message" || block.data === null) continue; // a keepalive does not extend the timeout
        clearTimeout(timer);
        timer = startTimer();
        const state = JSON.parse(block.data);
        const task = this.tasks.of(ref);
        task.record(state);
        if (!task.followed) this.tasks.update(state);
        this.draw();
      }
    } catch {
      // An incomplete timeline is acceptable; the connection shows the error.
    } finally {
      clearTimeout(timer);
      reading.abort();
    }
  }

  // Actions

  confirmCancel() {
    setText(byId("cancel-ref"), this.selected);
    byId("cancel-dialog").returnValue = "";
    byId("cancel-dialog").showModal();
  }

  async cancel() {
    const ref = this.selected;
    try {
      this.takeState(await json(taskPath(ref, "/cancel"), { method: "POST" }));
      this.showProblem("");
    } catch (error) {
      this.showProblem(`Could not cancel ${ref}: ${error.message}`);
    }
    this.draw();
  }

  // Rendering

  setPhase(phase, detail) {
    this.phase = phase;
    const open = this.tasks.wanted.filter((task) => this.connection?.tasks.includes(task.ref)).length;
    const texts = {
      idle: "Waiting for tasks",
      connecting: "Connecting…",
      live: `Live via ${NAMES[this.via]}, ${count(open, "task")}`,
      waiting: `Connection lost, reconnecting in ${Math.ceil(detail ?? 0)} s`,
      ended: this.automatic ? "Waiting for tasks" : "All watched tasks are final",
      refused: "Rejected",
    };
    setText(byId("connection"), texts[phase]);
    set(byId("connection"), "data-phase", phase);
  }

  showProblem(message) {
    setText(byId("problem"), message);
    show(byId("problem"), Boolean(message));
  }

  announce(message) {
    setText(byId("announcer"), message);
  }

  /** Renders once per animation frame, regardless of the number of events. */
  draw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.render();
    });
  }

  render() {
    const rows = this.tasks.rows;
    this.table.render(rows, this.selected);
    this.details.render(this.tasks.get(this.selected), this.about.caller.scopes.includes("cancel"));
    if (this.phase === "live") this.setPhase("live");
    show(byId("watch-all"), rows.some((task) => !task.followed && !task.final && !(this.automatic && this.connection?.tasks.includes(task.ref))));
    this.renderSnippets();
  }

  renderSnippets() {
    const followed = this.tasks.followed.map((task) => task.ref);
    const all = document.querySelector("[name=code-of]:checked").value === "all";
    const everything = followed.length ? followed : (this.connection?.tasks ?? []);
    const refs = all && everything.length ? everything : [this.selected ?? followed[0]].filter(Boolean);
    show(byId("code-shown"), refs.length > 0);
    show(byId("code-none"), refs.length === 0);
    if (!refs.length) return;
    const lines = snippets(this.via, refs, Boolean(token.value));
    for (const [language, text] of Object.entries(lines)) setText(byId(`code-${language}`), text);
  }

  tick() {
    this.table.tick(this.tasks.rows);
    this.upstreams.tick();
    this.details.tick(this.tasks.get(this.selected));
  }
}

new Page().start();
