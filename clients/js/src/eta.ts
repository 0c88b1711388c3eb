// The words for the time a task will take, by the clock of the bridge: that of the page may be wrong.

import type { TaskState } from "../dist/index.js";

/** What the time left is counted from: a state as it came. */
export type Estimated = Pick<TaskState, "eta_seconds" | "eta_at" | "eta_by" | "observed_at">;

const seen = new WeakMap<object, number>();

/** Seconds since this state was asked about first. */
function age(state: object): number {
  const now = performance.now() / 1000;
  if (!seen.has(state)) seen.set(state, now);
  return now - seen.get(state)!;
}

/**
 * Returns the seconds until `eta_at`, less than 0 once it has passed; null where nothing can be estimated.
 *
 * @param elapsed Seconds since the state arrived; by default since the first call with this object.
 */
export function secondsLeft(state: Estimated | null | undefined, elapsed?: number): number | null {
  if (!state?.eta_at) return null;
  // Where it had passed already, the state was sent when the provider confirmed it, or later.
  const left = state.eta_seconds ?? Math.min(seconds(state.observed_at, state.eta_at), 0);
  return left - (elapsed ?? age(state));
}

/**
 * Returns `about 40 s`; once `eta_at` has passed `should finish soon`, after `eta_by` `taking longer than usual`; null
 * where nothing can be estimated. Call it again each second: it counts on.
 *
 * @param elapsed Seconds since the state arrived; by default since the first call with this object.
 */
export function etaText(state: Estimated | null | undefined, elapsed?: number): string | null {
  const left = secondsLeft(state, elapsed);
  if (left === null) return null;
  if (left > 0) return `about ${duration(Math.max(1, Math.round(left)))}`;
  const { eta_at: at, eta_by: by } = state!;
  return by && left + seconds(at!, by) <= 0 ? "taking longer than usual" : "should finish soon";
}

/** `40 s`, `2 min 05 s`, `3 h 20 min`. */
function duration(whole: number): string {
  if (whole < 60) return `${whole} s`;
  const two = (number: number): string => `${Math.floor(number)}`.padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two((whole % 3600) / 60)} min`;
}

const seconds = (from: string, to: string): number => (Date.parse(to) - Date.parse(from)) / 1000;
