/** The details of the selected task. */

import { byId, make, set, setText, show } from "./dom.js";
import { clock, clockTime, dateTime, duration, eta, gap, percent, since } from "./format.js";
import { renderOutputs, tickOutputs } from "./outputs.js";
import { statusText } from "./table.js";

/** @returns The rows of the fact list: name and value. */
function facts(state, listed) {
  return [
    ["Tags", listed?.tags?.join(", ")],
    ["Group", listed?.group],
    ["Provider status", state.upstream_status],
    ["Model", state.model],
    ["Action", state.action],
    ["Client id", state.alias],
    ["Queue position", state.queue_position === null ? null : String(state.queue_position)],
    ["First seen", dateTime(listed?.first_seen_at)],
    ["Created", dateTime(state.created_at)],
    ["Completed", dateTime(state.completed_at)],
    ["Cost", state.cost ? `${state.cost.credits_used ?? state.cost.credits_estimated} credits${state.cost.credits_used === null ? " (estimate)" : ""}` : null],
    ["Cursor", state.cursor],
  ].filter(([, value]) => value);
}

export class Details {
  constructor() {
    this.rendered = null; // the state on the screen, and the length of its timeline
    this.timeline = 0;
  }

  render(task, mayCancel) {
    show(byId("details-none"), !task);
    show(byId("details-body"), Boolean(task));
    if (!task) {
      this.rendered = null;
      return;
    }
    const state = task.state;
    const { status } = task.shown;
    setText(byId("details-heading"), task.ref);
    setText(byId("details-status"), statusText(status));
    set(byId("details-status"), "data-status", status);
    show(byId("cancel"), mayCancel && Boolean(state) && !task.final);
    this.renderRemarks(task);
    if (state !== this.rendered) this.renderState(task);
    if (this.timeline !== task.timeline.length || state !== this.rendered) this.renderTimeline(task.timeline);
    this.rendered = state;
    this.timeline = task.timeline.length;
    this.tick(task);
  }

  renderRemarks(task) {
    const remarks = [...new Set([...task.notices.values()].map((notice) => notice.message))];
    if (task.problem && !remarks.includes(task.problem)) remarks.push(task.problem);
    const list = byId("remarks");
    show(list, remarks.length > 0);
    if ([...list.children].map((item) => item.textContent).join("\n") === remarks.join("\n")) return;
    list.replaceChildren(...remarks.map((remark) => make("li", {}, remark)));
  }

  renderState(task) {
    const state = task.state;
    const error = byId("details-error");
    show(error, Boolean(state?.error));
    if (state?.error) {
      error.replaceChildren(...[state.error.code ? make("code", {}, state.error.code) : null, make("span", {}, state.error.message ?? "The provider returned no message.")].filter(Boolean));
    }
    show(byId("outputs-section"), Boolean(state?.outputs.length));
    const before = this.rendered?.task === task.ref ? JSON.stringify(this.rendered.outputs) : null;
    if (state && JSON.stringify(state.outputs) !== before) renderOutputs(byId("outputs"), state); // unchanged outputs stay, so that a video keeps playing
    byId("facts").replaceChildren(...(state ? facts(state, task.listed).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]) : []));
  }

  renderTimeline(states) {
    const list = byId("timeline");
    show(byId("timeline-section"), states.length > 0);
    list.replaceChildren(...states.map((state, index) => entry(state, states[index - 1])));
    list.scrollTop = list.scrollHeight;
  }

  tick(task) {
    if (!task) return;
    tickOutputs(byId("outputs"));
    const state = task.state;
    const parts = [];
    if (state && state.progress !== null) parts.push(percent(state.progress));
    const left = state && !task.final ? eta(task.estimated, clock()) : null;
    if (left) parts.push(left.startsWith("about") ? `${left} left` : left);
    if (state) parts.push(`changed ${duration(since(state.changed_at, clock()))} ago`);
    if (state) parts.push(`source: ${state.source}`);
    if (!state && !task.followed) parts.push("Watch this task to see more.");
    setText(byId("details-line"), parts.join(" · "));
    const poll = byId("details-poll");
    const text = task.final ? null : nextPoll(task.listed?.next_poll, clock());
    show(poll, Boolean(text));
    setText(poll, text ?? "");
  }
}

const GROUNDS = {
  first: "its first poll",
  wait: "when its queue ends",
  growth: "nothing known yet",
  poll_after: "the provider named the time",
  callback: "the provider calls back, polls are a safety net",
  stream: "the provider's stream reports, polls are a safety net",
  retry: "after a failure, or Retry-After",
  lost: "lost, polled rarely",
};
const LEARNED = { run: "how long such tasks take", work: "how long such tasks take", slope: "its progress", estimate: "the provider's estimate", eta: "the provider's time left" };

/** @returns When the task is polled next, why then, and how sharp the reason is; null if it is not polled. */
function nextPoll(poll, now) {
  if (!poll) return null;
  const seconds = (Date.parse(poll.at) - now) / 1000;
  const parts = [seconds > 0.5 ? `next poll in ${duration(seconds)}` : "next poll now"];
  parts.push(`reason: ${LEARNED[poll.why] ?? GROUNDS[poll.why] ?? poll.why}`);
  if (LEARNED[poll.why] && poll.samples !== null) parts.push(`learned from ${poll.samples === 1 ? "1 task" : `${poll.samples} tasks`}`);
  if (poll.sharpness !== null) parts.push(`spread ${Math.round(poll.sharpness * 100)} %`);
  return parts.join(" · ");
}

function entry(state, before) {
  const changed = !before || before.status !== state.status;
  const step = before ? gap(since(before.changed_at, Date.parse(state.changed_at))) : null;
  return make(
    "li",
    { data: { status: state.status, step: changed ? "status" : "progress" } },
    make("time", { datetime: state.changed_at }, clockTime(state.changed_at)),
    make("span.what", {}, changed ? statusText(state.status) : "", state.progress === null || state.status === "completed" ? "" : ` ${percent(state.progress)}`),
    make("span.muted", {}, [step, state.source].filter(Boolean).join(" · ")),
  );
}
