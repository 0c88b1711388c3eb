// What was received, in a file: one line of JSON per delivery, and one when its work is done. No dependencies.

import { open, readFile, rename, writeFile } from "node:fs/promises";

const KEPT_MS = 3 * 86_400_000; // the bridge repeats a delivery for at most a day; redelivery by hand may come later

export class Inbox {
  #file;
  #ids = new Map(); // webhook-id -> a promise: recorded
  #writing = Promise.resolve();

  /** Opens the file; `inbox.waiting` has the deliveries that were received and not worked on before the last end. */
  static async open(path) {
    const inbox = new Inbox();
    const text = await readFile(path, "utf8").catch((error) => {
      if (error.code !== "ENOENT") throw error;
      return "";
    });
    const found = new Map();
    for (const line of text.split("\n")) {
      try {
        const { id, at, body, done } = JSON.parse(line);
        if (done) delete found.get(id)?.body;
        else if (!found.has(id)) found.set(id, { id, at, body });
      } catch {
        // The last line may be half written: that delivery was not answered, and is sent again.
      }
    }
    const kept = [...found.values()].filter(({ at, body }) => body !== undefined || at > Date.now() - KEPT_MS);
    for (const { id } of kept) inbox.#ids.set(id, Promise.resolve());
    inbox.waiting = kept.filter(({ body }) => body !== undefined);
    await writeFile(`${path}.new`, kept.map((entry) => JSON.stringify(entry) + "\n").join(""), { flush: true });
    await rename(`${path}.new`, path);
    inbox.#file = await open(path, "a");
    return inbox;
  }

  /** Records a delivery; resolves when it would survive a power failure, with whether it is new. */
  async add(id, body) {
    const known = this.#ids.get(id);
    if (known) return known.then(() => false);
    const recorded = this.#write({ id, at: Date.now(), body });
    this.#ids.set(id, recorded);
    try {
      await recorded;
    } catch (error) {
      this.#ids.delete(id); // the disk is full, for instance: the bridge sends it again
      throw error;
    }
    return true;
  }

  /** Records that the work on a delivery is done. */
  done(id) {
    return this.#write({ id, done: true });
  }

  #write(entry) {
    const written = this.#writing.then(async () => {
      await this.#file.appendFile(JSON.stringify(entry) + "\n");
      await this.#file.datasync();
    });
    this.#writing = written.catch(() => {});
    return written;
  }
}
