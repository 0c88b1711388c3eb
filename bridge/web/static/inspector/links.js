/** Where the bridge is, and how task refs, paths and the page's own address are written. */

/** The bridge's root: two steps up from this file, so the page also works under a path of a proxy. */
export const BASE = new URL("..", import.meta.url);

const UPSTREAM = /^[a-z][a-z0-9-]{0,31}$/;
const CONTROL = /[\p{Cc}\p{Cs}]/u;
const TASK_PATH = /\/v1\/tasks\/([^/?#]+)\/([^/?#]+)/;
const LONGEST_ID = 256;

/** A path segment, with nothing left that a shell or a URL could take for its own. */
export function encoded(text) {
  return encodeURIComponent(text).replace(/[!'()*]/g, (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`);
}

/**
 * The task ref that somebody pasted: `upstream/task_id`, or an address of the bridge that names one task.
 *
 * @throws {RangeError} It is neither; the message says what is wrong.
 */
export function parseRef(text) {
  const pasted = text.trim();
  const inPath = TASK_PATH.exec(pasted);
  const ref = inPath ? `${decoded(inPath[1])}/${decoded(inPath[2])}` : pasted;
  const slash = ref.indexOf("/");
  if (slash < 1 || !UPSTREAM.test(ref.slice(0, slash))) {
    throw new RangeError("A task ref is upstream/task_id, for example qingbo/task-1.");
  }
  const taskId = ref.slice(slash + 1);
  if (!taskId || taskId.length > LONGEST_ID || CONTROL.test(taskId)) {
    throw new RangeError("A task id is 1 to 256 characters without controls.");
  }
  return ref;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The path of a task below the bridge's root, such as `v1/tasks/qingbo/a%2Fb/events`. */
export function taskPath(ref, rest = "") {
  const slash = ref.indexOf("/");
  return `v1/tasks/${ref.slice(0, slash)}/${encoded(ref.slice(slash + 1))}${rest}`;
}

/** `task=a/1&task=a/2`, for the streams of many tasks. */
export function taskQuery(refs) {
  return refs.map((ref) => `task=${ref.split("/").map(encoded).join("/")}`).join("&");
}

/** What the page's address asks for: `#via=sse&watch=qingbo/1&watch=qingbo/2`. It never leaves the browser. */
export function readHash(hash) {
  const wishes = new URLSearchParams(hash.replace(/^#/, ""));
  const refs = wishes.getAll("watch").flatMap((text) => {
    try {
      return [parseRef(text)];
    } catch {
      return [];
    }
  });
  return { refs: [...new Set(refs)], via: wishes.get("via"), task: wishes.get("task") };
}

export function writeHash({ refs, via, task }) {
  const parts = [];
  if (via !== "sse") parts.push(`via=${via}`);
  parts.push(...refs.map((ref) => `watch=${ref.split("/").map(encoded).join("/")}`));
  if (task && refs.length > 1) parts.push(`task=${task.split("/").map(encoded).join("/")}`);
  return parts.length ? `#${parts.join("&")}` : "";
}
