import type { TaskState } from "./bridge.js";
/** What the time left is counted from: a state as it came. */
export type Estimated = Pick<TaskState, "eta_seconds" | "eta_at" | "eta_by" | "observed_at">;
/**
 * Returns the seconds until `eta_at`, less than 0 once it has passed; null where nothing can be estimated.
 *
 * @param elapsed Seconds since the state arrived; by default since the first call with this object.
 */
export declare function secondsLeft(state: Estimated | null | undefined, elapsed?: number): number | null;
/**
 * Returns `about 40 s`; once `eta_at` has passed `should finish soon`, after `eta_by` `taking longer than usual`; null
 * where nothing can be estimated. Call it again each second: it counts on.
 *
 * @param elapsed Seconds since the state arrived; by default since the first call with this object.
 */
export declare function etaText(state: Estimated | null | undefined, elapsed?: number): string | null;
