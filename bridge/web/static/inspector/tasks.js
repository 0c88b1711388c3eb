/** The tasks of the page: those it follows live, and those the bridge lists. */

import { isFinal } from "./deliveries.js";

const MAX_TIMELINE = 200;

/** One task on the page. */
class Task {
  constructor(ref) {
    this.ref = ref;
    this.followed = false;
    this.done = false;
    this.state = null; // the newest complete state, from a stream
    this.listed = null; // the bridge's summary row, refreshed every few seconds
    this.problem = null; // the error if it cannot be followed
    this.notices = new Map(); // by code
    this.timeline = []; // states, oldest first, each cursor once
    this.firstSeen = new Date().toISOString();
  }

  /** The newest state with the keys of a table row: from the stream, or else from the list. */
  get shown() {
    const [first, second] = this.followed ? [this.state, this.listed] : [this.listed, this.state];
    return first ?? second ?? { status: "unknown" };
  }

  get final() {
    return isFinal(this.shown.status);
  }

  /** When it was created, or first seen. */
  get startedAt() {
    return this.shown.created_at ?? this.timeline[0]?.changed_at ?? this.firstSeen;
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

  /** Followed tasks first, in the order added; then the tasks the bridge lists. */
  get rows() {
    const all = [...this.byRef.values()];
    return [...all.filter((task) => task.followed), ...all.filter((task) => !task.followed)];
  }

  get followed() {
    return [...this.byRef.values()].filter((task) => task.followed);
  }

  /** The tasks a connection must still deliver. */
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

  /** Applies the bridge's list; tasks neither listed nor followed are removed. */
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
