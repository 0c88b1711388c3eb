/** Server-sent events over fetch: EventSource exposes neither comments nor error statuses, and cannot send a token. */

/**
 * Yields the blocks of a stream. A comment is a block of its own, so that keepalives are visible.
 *
 * @yields {{raw: string, event: string, data: string|null, id: string|null, retry: number|null}}
 */
export async function* blocks(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const block = new Block();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return; // an incomplete block is discarded
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines.map((text) => text.replace(/\r$/, ""))) {
        if (line.startsWith(":")) yield { raw: line, event: "", data: null, id: null, retry: null };
        else if (line) block.add(line);
        else if (block.begun) yield block.finish();
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

class Block {
  constructor() {
    this.begin();
  }

  get begun() {
    return this.lines.length > 0;
  }

  begin() {
    this.lines = [];
    this.fields = { event: "message", data: null, id: null, retry: null };
  }

  add(line) {
    this.lines.push(line);
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.fields.data = this.fields.data === null ? value : `${this.fields.data}\n${value}`;
    else if (name === "retry") this.fields.retry = /^\d+$/.test(value) ? Number(value) : null;
    else if (name === "id" || name === "event") this.fields[name] = value;
  }

  finish() {
    const finished = { raw: this.lines.join("\n"), ...this.fields };
    this.begin();
    return finished;
  }
}
