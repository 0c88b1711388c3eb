/** Formatting of times and numbers. */

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** `48 s`, `2 min 05 s`, `3 h 20 min`, `2 d 4 h`. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

/** The time between two steps, with tenths: `+0.4 s`, `+12 s`. */
export function gap(seconds) {
  return `+${seconds < 9.95 ? `${Math.max(0, seconds).toFixed(1)} s` : duration(seconds)}`;
}

export function clockTime(text) {
  return CLOCK.format(new Date(text));
}

export function dateTime(text) {
  return text ? DATE.format(new Date(text)) : null;
}

/** Seconds from `text` (RFC 3339) until `now` (milliseconds). */
export function since(text, now) {
  return text ? (now - Date.parse(text)) / 1000 : null;
}

let ahead = 0; // milliseconds: the clock of this machine may be wrong

/** Sets the clock of the bridge. */
export function setClock(text) {
  ahead = Date.parse(text) - Date.now();
}

/** The time by that clock, in milliseconds. */
export function clock() {
  return Date.now() + ahead;
}

/** How long a task will take, from its two estimates; null if unknown. */
export function eta({ eta_at: at, eta_by: by }, now) {
  if (!at) return null;
  const late = since(at, now);
  if (late < 0) return `about ${duration(Math.max(1, -late))}`;
  return by && since(by, now) >= 0 ? "taking longer than usual" : "should finish soon";
}

export function percent(progress) {
  return progress === null || progress === undefined ? "–" : `${Math.round(progress)} %`;
}

export function bytes(number) {
  if (number < 1000) return `${number} bytes`;
  return number < 1e6 ? `${(number / 1000).toFixed(1)} kB` : `${(number / 1e6).toFixed(1)} MB`;
}

export function count(number, singular, plural = `${singular}s`) {
  return `${number.toLocaleString()} ${number === 1 ? singular : plural}`;
}
