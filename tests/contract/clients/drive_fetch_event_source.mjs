// npm `@microsoft/fetch-event-source`. By itself it takes a clean end for the last one: to come back after
// `closing` its user throws in onclose. It retries a 204 for ever, so its user aborts on `end`.

import { isLast, load, report, url } from "./report.mjs";

globalThis.window = globalThis; // it knows browsers only
globalThis.document = { removeEventListener() {} };
const { fetchEventSource } = await load("@microsoft/fetch-event-source");
const leaving = new AbortController();

await fetchEventSource(url, {
  signal: leaving.signal,
  openWhenHidden: true,
  onmessage({ event, id, data }) {
    report(event, id, data);
    if (isLast(event)) leaving.abort();
  },
  onclose() {
    throw new Error("come back");
  },
});
