/** What the page knows about tasks: those it follows live, and those the bridge lists. */

import { isFinal } from "./deliveries.js";

const LONGEST_TIMELINE = 200;

/** One task on the page. */
class Task {
  constructor(ref) {
    this.ref = ref;
    this.followed = false;
    this.done = false;
    this.state = null; // the newest whole state, as a stream told it
    this.listed = null; // the bridge's short row, refreshed every few seconds
    this.problem = null; // why it cannot be followed
    this.notices = new Map(); // by code
    this.timeline = []; // states, oldest first, each cursor once
    this.seen = new Date().toISOString();
  }

  /** The newest of what is known, with the keys a table row needs: without a stream that is the list. */
  get shown() {
    const [first, second] = this.followed ? [this.state, this.listed] : [this.listed, this.state];
    return first ?? second ?? { status: "unknown" };
  }

  get final() {
    return isFinal(this.shown.status);
  }

  /** When it was created, or first seen by anybody. */
  get began() {
    return this.shown.created_at ?? this.timeline[0]?.changed_at ?? this.seen;
  }

  record(state) {
    if (!state.cursor || this.timeline.some((one) => one.cursor === state.cursor)) return;
    this.timeline.push(state);
    this.timeline.sort((one, other) => Date.parse(one.changed_at) - Date.parse(other.changed_at));
    if (this.timeline.length > LONGEST_TIMELINE) this.timeline.shift();
  }
}

/** All of them, in the order of the table. */
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

  /** Those that are followed first, in the order they were asked for; then what the bridge lists. */
  get rows() {
    const all = [...this.byRef.values()];
    return [...all.filter((task) => task.followed), ...all.filter((task) => !task.followed)];
  }

  get followed() {
    return [...this.byRef.values()].filter((task) => task.followed);
  }

  /** What a connection must still carry. */
  get wanted() {
    return this.followed.filter((task) => !task.done && !task.problem);
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
    if (!task.listed || task.done) this.byRef.delete(ref);
  }

  take(state) {
    const task = this.of(state.task);
    task.state = state;
    task.done = isFinal(state.status);
    task.notices.delete("task_not_found");
    task.record(state);
    return task;
  }

  /** `fresh` takes back every other notice of the task. */
  note(notice) {
    const task = this.get(notice.task);
    if (!task) return;
    if (notice.code === "fresh") task.notices.clear();
    else task.notices.set(notice.code, notice);
    if (notice.code === "task_not_found") task.problem = notice.message;
  }

  /** The bridge's list; what is neither listed nor followed any more leaves the page. */
  list(rows, keep) {
    const refs = new Set(rows.map((row) => row.task));
    for (const row of rows) this.of(row.task).listed = row;
    for (const task of [...this.byRef.values()]) {
      if (refs.has(task.ref)) continue;
      task.listed = null;
      if (!task.followed && task.ref !== keep) this.byRef.delete(task.ref);
    }
  }
}
