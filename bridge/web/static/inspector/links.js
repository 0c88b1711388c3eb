/** The address of the bridge; task refs, paths and the page's own URL. */

/** The bridge's root, relative to this file, so that the page also works under a path prefix of a proxy. */
export const BASE = new URL("..", import.meta.url);

const UPSTREAM = /^[a-z][a-z0-9-]{0,31}$/;
const CONTROL = /[\p{Cc}\p{Cs}]/u;
const TASK_PATH = /\/v1\/tasks\/([^/?#]+)\/([^/?#]+)/;
const MAX_ID = 1024;

/** Encodes a path segment; the result is also safe in shell quotes. */
export function encoded(text) {
  return encodeURIComponent(text).replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
}

/**
 * Parses user input: a task ref `upstream/task_id`, or a URL of the bridge that names one task.
 *
 * @throws {RangeError} The input is neither; the message states the reason.
 */
export function parseRef(text) {
  const pasted = text.trim();
  const inPath = TASK_PATH.exec(pasted);
  const ref = inPath ? `${decoded(inPath[1])}/${decoded(inPath[2])}` : pasted;
  const slash = ref.indexOf("/");
  if (slash < 1 || !UPSTREAM.test(ref.slice(0, slash))) {
    throw new RangeError("A task ref has the form upstream/task_id, for example qingbo/task-1.");
  }
  const taskId = ref.slice(slash + 1);
  if (!taskId || taskId.length > MAX_ID || CONTROL.test(taskId)) {
    throw new RangeError("A task id must have 1 to 1,024 characters and no control characters.");
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

/** Returns the path of a task relative to the bridge's root, such as `v1/tasks/qingbo/a%2Fb/events`. */
export function taskPath(ref, rest = "") {
  const slash = ref.indexOf("/");
  return `v1/tasks/${ref.slice(0, slash)}/${encoded(ref.slice(slash + 1))}${rest}`;
}

/** Returns the query of a many-task stream: `task=a/1&task=a/2`. */
export function taskQuery(refs) {
  return refs.map((ref) => `task=${ref.split("/").map(encoded).join("/")}`).join("&");
}

/** Reads the URL fragment: `#via=sse&watch=qingbo/1&watch=qingbo/2`. It never leaves the browser. */
export function readHash(hash) {
  const params = new URLSearchParams(hash.replace(/^#/, ""));
  const refs = params.getAll("watch").flatMap((text) => {
    try {
      return [parseRef(text)];
    } catch {
      return [];
    }
  });
  return { refs: [...new Set(refs)], via: params.get("via"), task: params.get("task") };
}

export function writeHash({ refs, via, task }) {
  const parts = [];
  if (via !== "sse") parts.push(`via=${via}`);
  parts.push(...refs.map((ref) => `watch=${ref.split("/").map(encoded).join("/")}`));
  if (task && refs.length > 1) parts.push(`task=${task.split("/").map(encoded).join("/")}`);
  return parts.length ? `#${parts.join("&")}` : "";
}
