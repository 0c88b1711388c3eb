/** Plots of the bridge's metrics over the last ten minutes, for users with access to them. */

import { Problem, request } from "./api.js";
import { byId, make, set, setText, show } from "./dom.js";
import { clockTime, count, duration, since } from "./format.js";
import { HEALTH } from "./upstreams.js";

const PERIOD_MS = 2000;
const MAX_POINTS = 300; // ten minutes
const HEIGHT = 110;

/** The value of each plot, computed from two scrapes; null if there is none. */
const SERIES = [
  { id: "connections", title: "Open connections", unit: "", of: (now) => now.sum("bridge_connections") },
  {
    id: "latency",
    title: "Poll latency",
    unit: " ms",
    of: (now, before) => {
      const polls = now.since(before, "bridge_upstream_request_seconds_count", 'call="status"');
      const seconds = now.since(before, "bridge_upstream_request_seconds_sum", 'call="status"');
      return polls > 0 ? (seconds / polls) * 1000 : null;
    },
  },
  { id: "saved", title: "Polls avoided", unit: "", of: (now) => now.sum("bridge_polls_saved_total") },
];

/** One scrape of `/metrics`: the sums of its series. */
export class Scrape {
  constructor(text) {
    this.lines = text.split("\n").filter((line) => line && !line.startsWith("#"));
  }

  /** Returns the sum of all series of a name, or of those whose labels contain `label`. */
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

  /** Starts or stops scraping: a hidden panel sends no requests. */
  run(visible) {
    clearInterval(this.timer);
    this.timer = visible ? setInterval(() => this.step(), PERIOD_MS) : null;
    if (visible) this.step();
  }

  async step() {
    if (document.visibilityState === "hidden") return;
    try {
      const [metrics, status] = await Promise.all([request("metrics"), request("status")]);
      this.add(new Scrape(await metrics.text()));
      this.renderUpstreams(await status.json());
      this.showError(null);
    } catch (error) {
      this.showError(error);
    }
  }

  showError(error) {
    show(byId("plots-problem"), Boolean(error));
    show(byId("plots-shown"), !error);
    if (!error) return;
    const moved = error instanceof Problem && error.status === 404;
    const refused = error instanceof Problem && (error.status === 401 || error.status === 403);
    if (moved || refused) this.run(false);
    setText(
      byId("plots-problem"),
      moved
        ? "This bridge serves its metrics on a separate admin port (admin_host, admin_port), which this page cannot read."
        : refused
          ? "The metrics require a token with the scope admin."
          : "The metrics are currently unavailable.",
    );
  }

  add(now) {
    this.data[0].push(Date.now() / 1000);
    SERIES.forEach(({ of }, index) => this.data[index + 1].push(of(now, this.before)));
    if (this.data[0].length > MAX_POINTS) for (const values of this.data) values.shift();
    this.before = now;
    if (!this.charts.length) this.draw();
    SERIES.forEach((series, index) => this.renderSeries(series, index));
  }

  renderSeries({ id, title, unit }, index) {
    const newest = this.data[index + 1].findLast((value) => value !== null);
    const text = newest === undefined ? "–" : `${Math.round(newest).toLocaleString()}${unit}`;
    setText(byId(`plot-${id}-value`), text);
    set(byId(`plot-${id}`), "aria-label", `${title}, now ${text}`);
    this.charts[index]?.setData([this.data[0], this.data[index + 1]]);
  }

  draw() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.charts = SERIES.map(({ id }, index) => {
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
      return new window.uPlot(options, [this.data[0], this.data[index + 1]], box);
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
      ...Object.entries(status.upstreams).map(([name, upstream]) =>
        make(
          "tr",
          {},
          make("th", { scope: "row" }, name),
          make("td", {}, make("span.status", { data: { status: HEALTH[upstream.state] ?? "unknown" } }, upstream.state.toLowerCase())),
          make("td.number", {}, String(upstream.watches)),
          make("td.number", {}, String(upstream.viewers)),
          make("td", {}, upstream.last_error ? `${upstream.last_error.message} (${duration(since(upstream.last_error.at, now))} ago)` : "none"),
        ),
      ),
    );
  }
}
