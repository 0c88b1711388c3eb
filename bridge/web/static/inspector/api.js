/** Requests to the bridge, with the token where there is one, and its problems as errors. */

import { BASE } from "./links.js";

const KEY = "bridge-inspector-token";

/** The caller's token: for this tab and its reloads, never in an address. */
export const token = {
  get value() {
    return sessionStorage.getItem(KEY);
  },
  set value(text) {
    if (text) sessionStorage.setItem(KEY, text);
    else sessionStorage.removeItem(KEY);
  },
};

/** What the bridge, or something before it, answered instead of what was asked for. */
export class Problem extends Error {
  constructor(status, code, message) {
    super(message);
    this.name = "Problem";
    this.status = status;
    this.code = code;
  }

  /** Whether asking again would get the same answer. */
  get permanent() {
    return this.status >= 400 && this.status < 500 && this.status !== 408 && this.status !== 429;
  }
}

/**
 * One request to a path below the bridge's root.
 *
 * @throws {Problem} The answer is neither 2xx nor 304.
 * @throws {TypeError} There was no answer.
 */
export async function request(path, { headers = {}, ...options } = {}) {
  const credential = token.value ? { Authorization: `Bearer ${token.value}` } : {};
  const response = await fetch(new URL(path, BASE), {
    cache: "no-store",
    referrerPolicy: "no-referrer",
    ...options,
    headers: { ...credential, ...headers },
  });
  if (response.ok || response.status === 304) return response;
  throw await problemOf(response);
}

/** The same, for an answer that is JSON. */
export async function json(path, options) {
  return (await request(path, options)).json();
}

async function problemOf(response) {
  const text = await response.text().catch(() => "");
  try {
    const { code, detail, provider } = JSON.parse(text);
    const said = provider?.status ? `${detail} (the provider answered ${provider.status})` : detail;
    return new Problem(response.status, String(code), String(said));
  } catch {
    return new Problem(response.status, `http_${response.status}`, `Something before the bridge answered ${response.status}.`);
  }
}
