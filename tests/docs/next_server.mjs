// What Next.js does for a route handler, and no more: a Request goes in, a Response comes out.
// `node next_server.mjs ROUTES PAGE SCRIPT` serves the handlers, and a page with its script.

import { createReadStream } from "node:fs";
import http from "node:http";

const [module, page, script] = process.argv.slice(2);
const { renders, signIn, stream } = await import(module);
const handlers = { "/api/renders": renders, "/api/sign-in": signIn, "/api/stream": stream };
const files = { "/": [page, "text/html"], "/next.js": [script, "text/javascript"] };

const server = http.createServer(async (incoming, outgoing) => {
  const { pathname } = new URL(incoming.url, "http://page");
  if (files[pathname]) {
    const [path, type] = files[pathname];
    createReadStream(path).pipe(outgoing.setHeader("content-type", `${type}; charset=utf-8`));
    return;
  }
  if (incoming.method !== "POST" || !handlers[pathname]) return outgoing.writeHead(405).end();
  const { url, method, headers } = incoming;
  const request = new Request(`http://page${url}`, { method, headers, body: incoming, duplex: "half" });
  const response = await handlers[pathname](request);
  outgoing.writeHead(response.status, Object.fromEntries(response.headers)).end(await response.text());
});
server.listen(0, "127.0.0.1", () => console.log(`listening on http://127.0.0.1:${server.address().port}`));
