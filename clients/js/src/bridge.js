// Follows tasks of a task event bridge until each of them is over, in a browser or in Node.
//
// Rule 1: which states are news is decided in `ledger`, whatever brought them.
// Rule 2: a connection lives as long as its `attempt`; whoever wants it gone aborts that and says why.
// Rule 3: what follows the end of a connection is decided in `follow`, once, and nowhere else.
//
// It is small on purpose: minified and gzipped it must stay under 3 KB, and a test holds it to that.

const LONGEST_EVENT = 8e6; // characters
const LONGEST_WAIT = 300e3; // ms, whatever anybody asks for
const ASLEEP = 5e3; // ms by which one clock outran the other: the machine slept

// How a connection can end without a word from the bridge. A text is never final; an error says whether it is.
const CLOSED = "closed";
const SILENT = "silent";
const WOKEN = "woken";

/** What ended a watch, in the words of the bridge's problem document where there was one. */
export class BridgeError extends Error {
  constructor(message, fields) {
    super(message);
    Object.assign(this, { name: "BridgeError" }, fields);
  }
}

/** Calls back with each new state of the tasks at `url`, until all of them are over. */
export function watch(url, options = {}) {
  const { onState, onDone, onNotice, signal, token, share, credentials, silenceSeconds = 45, firstByteSeconds = 10 } =
    options;
  const { EventSource, BroadcastChannel, document, location, navigator } = globalThis;
  const [newest, over, isNews] = ledger();
  const [retryIs, worked, nextWait] = backoff();
  const life = new AbortController();
  let attempt = life; // the AbortController of the newest connection
  let native = EventSource && !token;
  let cursor = options.lastEventId;
  let asked = []; // the tasks that the address names; none when it is not one of a bridge
  let patience = firstByteSeconds;
  let refused = false; // the credential, by the newest answer
  let connected = false; // ever
  let ended, polling, suspect, sent, heard, wall, steady, resume, channel;

  // ---- what is told

  // not from here, so that a listener's mistake is reported as any event listener's is, and the watch goes on
  const call = (listener, told) => queueMicrotask(() => life.signal.aborted || listener?.(told));

  const notice = (code, more) => {
    const told = { code, task: null, retriable: true, message: null, ...more };
    channel?.postMessage({ told });
    call(onNotice, told);
  };

  const take = (state) => {
    if (!isNews(state)) return;
    call(onState, state);
    if (over.has(state.task)) call(onDone, state);
  };

  const settled = () => ended || (asked[0] && asked.every((task) => over.has(task)));

  /** One event, whatever brought it. */
  const hear = (name, data, id = "") => {
    let told;
    try {
      told = JSON.parse(data);
    } catch {
      return attempt.abort("not JSON");
    }
    worked();
    if (/^[\w.~-]{1,128}$/.test(id)) cursor = id; // what a header can carry back
    if (name == "message") {
      take(told);
      channel?.postMessage({ states: [told], cursor });
      return;
    }
    if (name == "done" || told.code == "task_not_found") over.add(told.task);
    ended ||= name == "end";
    if (name == "notice" || name == "reset") notice(told.code ?? name, told);
    if (settled()) {
      ended = true;
      channel?.postMessage({ ended });
      attempt.abort(CLOSED);
    }
  };

  // ---- silence, sleep and waking
  // Two clocks: one goes on while the machine sleeps, nobody can set the other. Timers of a hidden tab come late, but
  // bytes move the clocks whenever they come, so a slowed-down tab is not taken for a dead line.

  const touch = () => {
    wall = Date.now();
    steady = performance.now();
  };

  const look = () => {
    const awake = performance.now() - steady;
    if (Date.now() - wall - awake > ASLEEP) wake({ type: "online" });
    else if (awake > 1e3 * (heard ? silenceSeconds : patience)) attempt.abort(SILENT);
  };

  const wake = ({ type }) => {
    if (document?.hidden) return;
    resume?.();
    if (type == "online" || Date.now() - wall > 333 * silenceSeconds) attempt.abort(WOKEN);
    touch();
  };

  const pause = async (milliseconds) => {
    let timer;
    await new Promise((resolve) => {
      resume = resolve;
      timer = setTimeout(resolve, milliseconds);
    });
    clearTimeout(timer);
  };

  // ---- one connection; ended by the other side it returns

  const opened = () => {
    touch();
    if (!heard) notice("connected");
    heard = connected = true;
  };

  /** By the browser's own EventSource, which comes back by itself and honours a `retry:` that scripts cannot see. */
  const listen = (address, signal) => {
    if (cursor) address.searchParams.set("last_event_id", cursor);
    const source = new EventSource(address, { withCredentials: credentials == "include" });
    let losses = 0;
    source.onopen = () => {
      losses = 0;
      touch();
      if (cursor) opened(); // else a state must come at once: headers do not prove that nobody holds it back
    };
    source.onerror = () => {
      touch();
      if (source.readyState > 1 || losses++) attempt.abort(CLOSED);
    };
    for (const name of ["message", "done", "end", "notice", "reset"]) {
      source.addEventListener(name, (event) => {
        opened();
        hear(name, event.data, event.lastEventId);
      });
    }
    signal.onabort = () => source.close();
    return new Promise(() => {}); // until it is aborted
  };

  /** By fetch, which shows statuses and keepalives, and takes headers. */
  const read = async (address, signal, headers) => {
    const resuming = cursor && { "Last-Event-ID": cursor };
    const answer = await ask(address, signal, { Accept: "text/event-stream", ...resuming, ...headers });
    if (answer.status == 204) return (ended = true);
    if (!/event-stream/.test(answer.headers.get("Content-Type"))) {
      throw new BridgeError("no event stream", { retriable: connected });
    }
    const parse = parser(hear, retryIs);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let piece; !(piece = await reader.read()).done; ) {
      opened();
      parse(piece.value);
    }
  };

  /** By long-polls, for where a proxy holds streams back. Four at once: a browser has six connections to a host. */
  const poll = async (address, signal, headers) => {
    while (!settled()) {
      if (heard) await pause(1e3); // not everybody between passes `Prefer` on
      const open = asked.filter((task) => !over.has(task));
      const wait = !heard ? 0 : open[1] ? 2 : 25;
      while (open[0]) {
        touch();
        const some = open.splice(0, 4);
        await Promise.all(some.map((task) => pollOne(task, address, signal, { Prefer: `wait=${wait}`, ...headers })));
      }
    }
  };

  const pollOne = async (task, address, signal, headers) => {
    const known = newest.get(task);
    if (known) headers["If-None-Match"] = `"${known.cursor}"`;
    try {
      const answer = await ask(stateOf(address, task), signal, headers);
      opened();
      if (answer.status != 304) hear("message", await answer.text());
    } catch (error) {
      if (error.retriable !== false || error.status == 401 || !asked[1]) throw error;
      over.add(task); // as on a stream: one that is refused does not end the others
      notice(error.code, { task, retriable: false, message: error.message });
    }
  };

  const ask = async (address, signal, headers) => {
    const answer = await fetch(address, { headers, credentials, signal, cache: "no-store" });
    const { status } = answer;
    if (answer.ok || status == 304) {
      refused = false;
      return answer;
    }
    const problem = await answer.json().catch(() => {}); // none in the HTML of a load balancer
    throw new BridgeError(problem?.detail ?? `answered ${status}`, {
      code: problem?.code,
      status,
      retriable: problem?.retriable ?? (/4(08|29)|5../.test(status) || (status == 404 && connected)),
      wait: answer.headers.get("Retry-After") * 1e3 || 0,
    });
  };

  // ---- one connection after the other

  /** What was given as a value, or as a function, which is told whether the bridge refused the one before. */
  const given = (value) => (value instanceof Function ? value(refused) : value);

  const connect = async (signal) => {
    const address = new URL(await given(url), location?.href);
    const credential = await given(token);
    signal.throwIfAborted(); // closed meanwhile, as React's StrictMode does at once
    asked = tasksOf(address);
    sent = address;
    touch();
    await (polling ? poll : native ? listen : read)(
      address,
      signal,
      credential && { Authorization: `Bearer ${credential}` },
    );
  };

  const follow = async () => {
    const ticks = setInterval(look, 1e3);
    for (const type of ["online", "pageshow", "visibilitychange"]) {
      globalThis.addEventListener?.(type, wake, { signal: life.signal });
    }
    try {
      while (!settled()) {
        life.signal.throwIfAborted();
        attempt = new AbortController();
        sent = heard = null;
        touch();
        const { signal: gone } = attempt;
        const failure = await new Promise((resolve) => {
          // who gives a token may take for ever, and so may a body that was cut off: do not rely on either
          gone.addEventListener("abort", () => resolve(gone.reason));
          connect(gone).then(() => resolve(CLOSED), resolve);
        });
        attempt.abort();
        if (life.signal.aborted || settled() || failure == WOKEN) continue;
        if (failure.status == 401 && !refused) {
          refused = true; // it may have expired just now: ask for another, and once more
          continue;
        }
        if (!(failure.retriable ?? (sent || connected || failure.length))) throw failure;
        const silent = sent && failure == SILENT;
        const unasked = native && !connected; // EventSource does not tell why: ask again at once
        if (polling) polling = failure.status;
        else if (silent && (!heard || suspect)) {
          polling = asked[0] && !/[?&]ticket=/.test(sent); // it opens streams and nothing else
          if (polling) notice("buffered");
          else patience *= 2; // who holds the stream back may let go at its end
        }
        suspect = silent && !native; // of an EventSource nobody hears the keepalives
        native = false;
        if (unasked) continue;
        notice("reconnecting", { message: failure.message ?? failure });
        await pause(nextWait(failure.wait));
      }
    } finally {
      clearInterval(ticks);
    }
  };

  /** Only the tab that holds the lock connects; it tells the others, one of which takes over when it is gone. */
  const takeTurns = async () => {
    const name = `bridge.js ${share} ${url}`;
    const others = new BroadcastChannel(name);
    let whole; // a cursor is good only to who knows the states before it
    others.onmessage = ({ data }) => {
      if (channel) return data.hello && others.postMessage({ states: [...newest.values()], cursor, whole: true });
      whole ||= data.whole;
      data.states?.forEach(take);
      if (whole) cursor = data.cursor ?? cursor;
      if (data.told) call(onNotice, data.told);
      ended ||= data.ended;
    };
    others.postMessage({ hello: true });
    try {
      await navigator.locks.request(name, { signal: life.signal }, () => {
        channel = others;
        return follow();
      });
    } finally {
      others.close();
    }
  };

  const leave = (reason) => {
    life.abort(reason);
    attempt.abort(reason);
    resume?.();
  };

  const run = async () => {
    try {
      signal?.throwIfAborted();
      signal?.addEventListener("abort", () => leave(signal.reason), { signal: life.signal });
      const shared = share && share !== (url instanceof Function) && BroadcastChannel && navigator?.locks;
      await (shared ? takeTurns() : follow());
    } catch (error) {
      if (signal?.aborted || !life.signal.aborted) throw error; // else it was closed, which is no error
    } finally {
      leave();
    }
    return [...newest.values()];
  };

  const finished = run();
  finished.catch(() => {}); // whoever does not ask how it ended need not handle it
  return { close: leave, finished };
}

/** Each new state, or only the newest of a task while the loop is busy. Leaving the loop disconnects. */
export async function* states(url, options) {
  const waiting = new Map();
  let wake;
  const { close, finished } = watch(url, {
    ...options,
    onState(state) {
      waiting.set(state.task, state);
      wake();
    },
  });
  const outcome = Promise.allSettled([finished]);
  try {
    for (let end; !end; ) {
      end = await Promise.race([outcome, new Promise((resolve) => (wake = resolve))]);
      for (const [task, state] of waiting) {
        if (options?.signal?.aborted) break;
        waiting.delete(task);
        yield state;
      }
    }
    await finished; // how it ended
  } finally {
    close();
  }
}

/** What is known: the newest state of each task, and the tasks nothing more is expected of. */
function ledger() {
  const newest = new Map();
  const over = new Set();
  const isNews = (state) => {
    const { task, status, cursor } = state;
    const final = /completed|failed|cancelled|lost/.test(status);
    const known = newest.get(task);
    // a final state is a latch, only `lost` gives way to a real ending
    const latched = over.has(task) && !(final && known?.status == "lost");
    if (known && (latched || !newer(cursor, known.cursor))) return;
    newest.set(task, state);
    if (final) over.add(task);
    return true;
  };
  return [newest, over, isNews];
}

/** The waits between connections: what the stream asked for, then longer and longer by chance. All in ms. */
function backoff() {
  let base = 1e3;
  let last = 0;
  const asked = (retry) => (base = Math.max(retry, 100));
  const worked = () => (last = 0);
  const next = (atLeast = 0) => {
    const top = Math.max(last * 3, base * 1.5); // `retry:` has its jitter already: stay near it
    last = Math.min(base + Math.random() * (top - base), Math.max(30e3, base));
    return Math.min(Math.max(last, atLeast + Math.random() * base), LONGEST_WAIT);
  };
  return [asked, worked, next];
}

/** Takes text in any pieces; calls `onEvent(name, data, id)` and `onRetry(milliseconds)`. */
function parser(onEvent, onRetry) {
  let rest = "";
  return (text) => {
    rest += text;
    if (rest.length > LONGEST_EVENT) throw "too large";
    if (!/[\r\n]/.test(text)) return; // the middle of a long line, which is not to be searched again and again
    // a return at the end may be half of a line's end
    const blocks = rest.replace(/\r\n|\r(?!$)/g, "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = { data: "" };
      for (const line of block.split("\n")) {
        const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        fields[field] = field == "data" ? `${fields.data}\n${value}` : value;
      }
      if (fields.retry > 0) onRetry(fields.retry);
      if (fields.data) onEvent(fields.event || "message", fields.data, fields.id);
    }
  };
}

/** Whether `cursor` is past `than`; of two whose order cannot be told, any other one is news. */
function newer(cursor, than) {
  const [[epoch, place], [oldEpoch, oldPlace]] = [cursor, than].map((one) => one.split(/-(?=\d+$)/));
  return epoch != oldEpoch || +place > oldPlace;
}

/** The tasks that the address of a stream names. */
function tasksOf({ pathname, searchParams }) {
  const [, one] = pathname.split(/\/v1\/tasks\/|\/events$/);
  return one ? [decodeURIComponent(one)] : searchParams.getAll("task");
}

/** Where the state of one of the tasks of a stream is read. */
function stateOf(address, task) {
  const state = new URL(address);
  state.pathname = state.pathname.replace(/(tasks\/.+\/)?events$/, `tasks/${encodeURIComponent(task).replace("%2F", "/")}`);
  state.searchParams.delete("task");
  return state;
}
