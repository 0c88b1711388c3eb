/** The last minutes of the bridge as a whole, from its metrics, for those who may read them. */

import { Problem, request } from "./api.js";
import { byId, make, set, setText, show } from "./dom.js";
import { clockTime, count, duration, since } from "./format.js";

const PERIOD_MS = 2000;
const MOST = 300; // points: ten minutes
const HEIGHT = 110;

/** What each plot shows, out of two scrapes; null where there is nothing to show. */
const SERIES = [
  { id: "connections", title: "Open connections", unit: "", of: (now) => now.sum("bridge_connections") },
  {
    id: "latency",
    title: "Poll latency",
    unit: " ms",
    of: (now, before) => {
      const looks = now.since(before, "bridge_upstream_request_seconds_count", 'call="status"');
      const seconds = now.since(before, "bridge_upstream_request_seconds_sum", 'call="status"');
      return looks > 0 ? (seconds / looks) * 1000 : null;
    },
  },
  { id: "saved", title: "Saved polls", unit: "", of: (now) => now.sum("bridge_polls_saved_total") },
];

/** One scrape of `/metrics`: the sums of its series. */
export class Scrape {
  constructor(text) {
    this.lines = text.split("\n").filter((line) => line && !line.startsWith("#"));
  }

  /** The sum over all series of a name, or over those whose labels hold `label`. */
  sum(name, label = "") {
    let total = 0;
    for (const line of this.lines) {
      const rest = line.startsWith(name) ? line.slice(name.length) : "";
      if ((rest.startsWith("{") || rest.startsWith(" ")) && rest.includes(label)) total += Number(/[}\s]\s*(\S+)(\s+#.*)?$/.exec(rest)?.[1] ?? 0);
    }
    return total;
  }

  since(before, name, label) {
    return before ? this.sum(name, label) - before.sum(name, label) : 0;
  }
}

export class Plots {
  constructor() {
    this.data = [[], ...SERIES.map(() => [])];
    this.before = null;
    this.charts = [];
    this.timer = null;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    addEventListener("resize", () => this.redraw());
  }

  /** Begin or end to ask; nobody pays for what nobody sees. */
  run(visible) {
    clearInterval(this.timer);
    this.timer = visible ? setInterval(() => this.step(), PERIOD_MS) : null;
    if (visible) this.step();
  }

  async step() {
    if (document.visibilityState === "hidden") return;
    try {
      const [metrics, status] = await Promise.all([request("metrics"), request("status")]);
      this.take(new Scrape(await metrics.text()));
      this.renderUpstreams(await status.json());
      this.say(null);
    } catch (error) {
      this.say(error);
    }
  }

  say(error) {
    show(byId("plots-problem"), Boolean(error));
    show(byId("plots-shown"), !error);
    if (!error) return;
    const moved = error instanceof Problem && error.status === 404;
    const refused = error instanceof Problem && (error.status === 401 || error.status === 403);
    if (moved || refused) this.run(false);
    setText(
      byId("plots-problem"),
      moved
        ? "This bridge serves its metrics at an address of their own (admin_host, admin_port), which this page cannot read."
        : refused
          ? "To see the metrics you need a token with the scope admin."
          : "The metrics cannot be read at the moment.",
    );
  }

  take(now) {
    this.data[0].push(Date.now() / 1000);
    SERIES.forEach(({ of }, place) => this.data[place + 1].push(of(now, this.before)));
    if (this.data[0].length > MOST) for (const values of this.data) values.shift();
    this.before = now;
    if (!this.charts.length) this.draw();
    SERIES.forEach((series, place) => this.renderSeries(series, place));
  }

  renderSeries({ id, title, unit }, place) {
    const newest = this.data[place + 1].findLast((value) => value !== null);
    const words = newest === undefined ? "–" : `${Math.round(newest).toLocaleString()}${unit}`;
    setText(byId(`plot-${id}-value`), words);
    set(byId(`plot-${id}`), "aria-label", `${title}, now ${words}`);
    this.charts[place]?.setData([this.data[0], this.data[place + 1]]);
  }

  draw() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.charts = SERIES.map(({ id }, place) => {
      const box = byId(`plot-${id}`);
      box.replaceChildren();
      const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      const options = {
        width: Math.max(160, box.clientWidth),
        height: HEIGHT,
        legend: { show: false },
        cursor: { show: false },
        scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.15)] } },
        axes: [
          { ...axis, grid: { show: false }, size: 20, space: 90, values: (_, ticks) => ticks.map((tick) => clockTime(tick * 1000).slice(0, 8)) },
          { ...axis, size: 44, space: 28, values: (_, ticks) => ticks.map((tick) => tick.toLocaleString()) },
        ],
        series: [{}, { stroke: colour("--accent"), width: 1.5, fill: colour("--accent-faint"), points: { show: false }, spanGaps: true }],
      };
      return new window.uPlot(options, [this.data[0], this.data[place + 1]], box);
    });
  }

  redraw() {
    if (!this.charts.length || !byId("plots-shown").offsetParent) return;
    for (const chart of this.charts) chart.destroy();
    this.draw();
  }

  renderUpstreams(status) {
    const now = Date.now();
    setText(byId("bridge-line"), `Version ${status.version}, up for ${duration(since(status.since, now))}, ${count(status.connections, "open stream")}.`);
    byId("upstreams").replaceChildren(
      ...Object.entries(status.upstreams).map(([name, one]) =>
        make(
          "tr",
          {},
          make("th", { scope: "row" }, name),
          make("td", {}, make("span.status", { data: { status: HEALTH[one.state] ?? "unknown" } }, one.state.toLowerCase())),
          make("td.number", {}, String(one.watches)),
          make("td.number", {}, String(one.viewers)),
          make("td", {}, one.last_error ? `${one.last_error.message} (${duration(since(one.last_error.at, now))} ago)` : "none"),
        ),
      ),
    );
  }
}

const HEALTH = { VALID: "completed", INITIALIZING: "queued", INTERRUPTED: "failed", OFF: "unknown" };
