// Verifies deliveries with the npm package: reads one JSON array of {secret, headers, body}, writes what each brought.

import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const require = createRequire(new URL("../../tools/package.json", import.meta.url));
const { Webhook } = require("standardwebhooks");

const results = JSON.parse(await text(process.stdin)).map(({ secret, headers, body }) => {
  try {
    return { event: new Webhook(secret).verify(Buffer.from(body, "base64"), headers) };
  } catch (error) {
    return { error: error.message };
  }
});
process.stdout.write(JSON.stringify(results));
