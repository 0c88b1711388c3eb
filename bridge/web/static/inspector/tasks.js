/** The tasks of the page: those the user watches, and those the bridge lists. */

import { isFinal } from "./deliveries.js";

const MAX_TIMELINE = 200;
const MAX_KEPT = 200; // ended tasks that the bridge no longer lists
const MAX_AUTOMATIC = 20; // followed without being asked for: 100 open pages must cost little

/** One task on the page. */
class Task {
  constructor(ref) {
    this.ref = ref;
    this.followed = false; // the user asked for it
    this.done = false;
    this.state = null; // the newest complete state, from a stream
    this.listed = null; // the bridge's summary row, refreshed every two seconds
    this.problem = null; // the error if it cannot be followed
    this.notices = new Map(); // by code
    this.timeline = []; // states, oldest first, each cursor once
    this.firstSeen = new Date().toISOString();
  }

  /** The newer of both: the state from the stream, or the row of the list. */
  get shown() {
    const { state, listed } = this;
    if (!state || !listed?.changed_at) return state ?? listed ?? { status: "unknown" };
    return listed.changed_at > state.changed_at ? listed : state;
  }

  /** What has the newest estimate: each poll makes one, and the list brings it also where no state is sent. */
  get estimated() {
    const { shown, listed } = this;
    return listed && listed.changed_at === shown.changed_at ? listed : shown;
  }

  get final() {
    return isFinal(this.shown.status);
  }

  /** Whether it is open and not polled: the state shown is the one from when its last viewer left. */
  get idle() {
    return this.listed?.watched === false && !this.final;
  }

  /** When the bridge first saw it; the page itself, where the bridge does not say. */
  get startedAt() {
    return this.listed?.first_seen_at ?? this.timeline[0]?.changed_at ?? this.firstSeen;
  }

  record(state) {
    if (!state.cursor || this.timeline.some((entry) => entry.cursor === state.cursor)) return;
    this.timeline.push(state);
    this.timeline.sort((first, second) => Date.parse(first.changed_at) - Date.parse(second.changed_at));
    if (this.timeline.length > MAX_TIMELINE) this.timeline.shift();
  }
}

/** All tasks, in the order of the table. */
export class Tasks {
  constructor() {
    this.byRef = new Map();
  }

  get(ref) {
    return this.byRef.get(ref) ?? null;
  }

  of(ref) {
    if (!this.byRef.has(ref)) this.byRef.set(ref, new Task(ref));
    return this.byRef.get(ref);
  }

  /** Watched tasks first, in the order added; then the open ones, then the ended ones, each newest first. */
  get rows() {
    const all = [...this.byRef.values()];
    const others = all.filter((task) => !task.followed);
    return [
      ...all.filter((task) => task.followed),
      ...newestFirst(others.filter((task) => !task.final), (task) => task.startedAt),
      ...newestFirst(others.filter((task) => task.final), (task) => task.shown.changed_at ?? ""),
    ];
  }

  get followed() {
    return [...this.byRef.values()].filter((task) => task.followed);
  }

  /** The tasks a connection must still deliver: those the user watches, else the newest that the bridge polls anyway. */
  get wanted() {
    const followed = this.followed;
    if (followed.length) return followed.filter((task) => !task.done && !task.problem);
    return this.rows.filter((task) => task.listed?.watched && !task.final && !task.problem).slice(0, MAX_AUTOMATIC);
  }

  follow(ref) {
    const task = this.of(ref);
    this.byRef.delete(ref); // to the end of the order
    this.byRef.set(ref, task);
    task.followed = true;
    task.problem = null;
    return task;
  }

  unfollow(ref) {
    const task = this.get(ref);
    if (!task) return;
    task.followed = false;
    task.problem = null;
    if (!task.listed) this.byRef.delete(ref);
  }

  update(state) {
    const task = this.of(state.task);
    task.state = state;
    task.done = isFinal(state.status);
    task.notices.delete("task_not_found");
    task.record(state);
    return task;
  }

  /** `fresh` clears all other notices of the task. */
  note(notice) {
    const task = this.get(notice.task);
    if (!task) return;
    if (notice.code === "fresh") task.notices.clear();
    else task.notices.set(notice.code, notice);
    if (notice.code === "task_not_found") task.problem = notice.message;
  }

  /** Removes what the user does not watch: the next list is of other tasks. */
  clearListed() {
    for (const task of [...this.byRef.values()]) if (!task.followed) this.byRef.delete(task.ref);
  }

  /** Applies the bridge's list. What has ended stays, up to a limit; other tasks that are neither listed nor watched are removed. */
  list(rows, keep) {
    const refs = new Set(rows.map((row) => row.task));
    for (const row of rows) this.of(row.task).listed = row;
    const gone = [...this.byRef.values()].filter((task) => !refs.has(task.ref) && !task.followed && task.ref !== keep);
    const ended = newestFirst(gone.filter((task) => task.final), (task) => task.shown.changed_at ?? "");
    const kept = new Set(ended.slice(0, MAX_KEPT));
    for (const task of gone) if (!kept.has(task)) this.byRef.delete(task.ref);
    for (const task of this.byRef.values()) if (!refs.has(task.ref) && !kept.has(task)) task.listed = null;
  }
}

function newestFirst(tasks, at) {
  const keyed = tasks.map((task) => [at(task), task]);
  keyed.sort(([first], [second]) => (first < second ? 1 : first > second ? -1 : 0));
  return keyed.map(([, task]) => task);
}
