// npm `eventsource`, as in a browser. It reconnects for ever; a 204 stops it, and so does close().

import { isLast, load, report, url } from "./report.mjs";

const { EventSource } = await load("eventsource");
const source = new EventSource(url);

const hear = ({ type, lastEventId, data }) => {
  report(type, lastEventId, data);
  if (isLast(type)) source.close();
};
source.onmessage = hear;
for (const name of ["done", "end", "notice", "reset"]) source.addEventListener(name, hear);
