// npm `eventsource-client`. It reconnects for ever; a 204 stops it, and so does close().

import { isLast, load, report, url } from "./report.mjs";

const { createEventSource } = await load("eventsource-client");
const source = createEventSource(url);

for await (const { event, id, data } of source) {
  report(event, id, data);
  if (isLast(event)) source.close();
}
