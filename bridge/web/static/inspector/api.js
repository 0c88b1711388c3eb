/** Requests to the bridge with the token, if any; problem documents become exceptions. */

import { BASE } from "./links.js";

const KEY = "bridge-inspector-token";

/** The user's token: kept for this tab and its reloads, never in a URL. */
export const token = {
  get value() {
    return sessionStorage.getItem(KEY);
  },
  set value(text) {
    if (text) sessionStorage.setItem(KEY, text);
    else sessionStorage.removeItem(KEY);
  },
};

/** An error response of the bridge, or of a proxy in front of it. */
export class Problem extends Error {
  constructor(status, code, message) {
    super(message);
    this.name = "Problem";
    this.status = status;
    this.code = code;
  }

  /** Whether a retry would fail the same way. */
  get permanent() {
    return this.status >= 400 && this.status < 500 && this.status !== 408 && this.status !== 429;
  }
}

/**
 * Sends a request to a path relative to the bridge's root.
 *
 * @throws {Problem} The response is neither 2xx nor 304.
 * @throws {TypeError} There was no response.
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

/** The same for a JSON response. */
export async function json(path, options) {
  return (await request(path, options)).json();
}

async function problemOf(response) {
  const text = await response.text().catch(() => "");
  try {
    const { code, detail, provider } = JSON.parse(text);
    const message = provider?.status ? `${detail} (the provider returned HTTP ${provider.status})` : detail;
    return new Problem(response.status, String(code), String(message));
  } catch {
    return new Problem(response.status, `http_${response.status}`, `A proxy in front of the bridge returned HTTP ${response.status}.`);
  }
}
