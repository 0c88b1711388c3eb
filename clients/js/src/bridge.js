// Follows tasks of a task event bridge until each of them is final, in a browser or in Node.
//
// Rule 1: `makeWatchState` decides which states are new, for every delivery.
// Rule 2: a connection lives as long as its `attempt`; to end it, abort that with the reason.
// Rule 3: what happens after the end of a connection is decided only in `follow`.
//
// Kept small on purpose: minified and gzipped it must stay under 3 KB, which a test checks.

const MAX_EVENT = 8e6; // characters
const MAX_WAIT = 300e3; // ms, also for `retry:` and Retry-After
const ASLEEP = 5e3; // ms by which the clocks diverge when the machine slept

// Reasons of a connection that ended without an error of the bridge. A string is retried; a BridgeError decides itself.
const CLOSED = "closed";
const SILENT = "silent";
const WOKEN = "woken";

/** The error that ended a watch, with the fields of the bridge's problem document if there was one. */
export class BridgeError extends Error {
  constructor(message, fields) {
    super(message);
    Object.assign(this, { name: "BridgeError" }, fields);
  }
}

/** Calls back with each new state of the tasks at `url`, until all of them are final. */
export function watch(url, options = {}) {
  const { onState, onDone, onNotice, signal, token, share, credentials, silenceSeconds = 45, firstByteSeconds = 10 } =
    options;
  const { EventSource, BroadcastChannel, document, location, navigator } = globalThis;
  const [newest, finals, isNew] = makeWatchState();
  const [setRetry, resetBackoff, nextDelay] = makeBackoff();
  const life = new AbortController();
  let attempt = life; // the AbortController of the newest connection
  let native = EventSource && !token;
  let cursor = options.lastEventId;
  let tasks = []; // the tasks named in the address; empty when it is not an address of a bridge
  let firstByteTimeout = firstByteSeconds;
  let refused = false; // whether the newest response rejected the credential
  let connected = false; // ever
  let ended, polling, suspect, sent, received, wall, steady, resume, channel;

  // ---- callbacks

  // In a microtask: an exception in a callback is reported like one of any event listener, and the watch continues.
  const call = (listener, value) => queueMicrotask(() => life.signal.aborted || listener?.(value));

  const notice = (code, more) => {
    const note = { code, task: null, retriable: true, message: null, ...more };
    channel?.postMessage({ note });
    call(onNotice, note);
  };

  const accept = (state) => {
    if (!isNew(state)) return;
    call(onState, state);
    if (finals.has(state.task)) call(onDone, state);
  };

  const settled = () => ended || (tasks[0] && tasks.every((task) => finals.has(task)));

  /** Handles one event, of any delivery. */
  const receive = (name, data, id = "") => {
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return attempt.abort("not JSON");
    }
    resetBackoff();
    if (/^[\w.~-]{1,128}$/.test(id)) cursor = id;  // anything else would break a reconnect
    if (name == "message") {
      accept(event);
      channel?.postMessage({ states: [event], cursor });
      return;
    }
    if (name == "done" || event.code == "task_not_found") finals.add(event.task);
    ended ||= name == "end";
    if (name == "notice" || name == "reset") notice(event.code ?? name, event);
    if (settled()) {
      ended = true;
      channel?.postMessage({ ended });
      attempt.abort(CLOSED);
    }
  };

  // ---- silence, sleep and wake-up
  // Two clocks: Date also runs while the machine sleeps, performance.now() cannot be set. Timers of a hidden tab fire
  // late, but received bytes reset both clocks, so that a throttled tab is not taken for a dead connection.

  const resetClocks = () => {
    wall = Date.now();
    steady = performance.now();
  };

  const checkSilence = () => {
    const awake = performance.now() - steady;
    if (Date.now() - wall - awake > ASLEEP) wake({ type: "online" });
    else if (awake > 1e3 * (received ? silenceSeconds : firstByteTimeout)) attempt.abort(SILENT);
  };

  const wake = ({ type }) => {
    if (document?.hidden) return;
    resume?.();
    if (type == "online" || Date.now() - wall > 333 * silenceSeconds) attempt.abort(WOKEN);
    resetClocks();
  };

  const pause = async (milliseconds) => {
    let timer;
    await new Promise((resolve) => {
      resume = resolve;
      timer = setTimeout(resolve, milliseconds);
    });
    clearTimeout(timer);
  };

  // ---- one connection; each returns when the server ends it

  const opened = () => {
    resetClocks();
    if (!received) notice("connected");
    received = connected = true;
  };

  /** With the browser's EventSource, which reconnects automatically and obeys `retry:`, which scripts cannot read. */
  const listen = (address, signal) => {
    if (cursor) address.searchParams.set("last_event_id", cursor);
    const source = new EventSource(address, { withCredentials: credentials == "include" });
    let losses = 0;
    source.onopen = () => {
      losses = 0;
      resetClocks();
      if (cursor) opened(); // else a state follows at once: headers alone do not rule out a buffering proxy
    };
    source.onerror = () => {
      resetClocks();
      if (source.readyState > 1 || losses++) attempt.abort(CLOSED);
    };
    for (const name of ["message", "done", "end", "notice", "reset"]) {
      source.addEventListener(name, (event) => {
        opened();
        receive(name, event.data, event.lastEventId);
      });
    }
    signal.onabort = () => source.close();
    return new Promise(() => {}); // pending until aborted
  };

  /** With fetch, which exposes status codes and keepalives, and allows headers. */
  const read = async (address, signal, headers) => {
    const resuming = cursor && { "Last-Event-ID": cursor };
    const response = await request(address, signal, { Accept: "text/event-stream", ...resuming, ...headers });
    if (response.status == 204) return (ended = true);
    if (!/event-stream/.test(response.headers.get("Content-Type"))) {
      throw new BridgeError("not an event stream", { retriable: connected });
    }
    const parse = makeParser(receive, setRetry);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let piece; !(piece = await reader.read()).done; ) {
      opened();
      parse(piece.value);
    }
  };

  /** With long polls, where a proxy buffers streams. Four at once: a browser allows six connections per host. */
  const poll = async (address, signal, headers) => {
    while (!settled()) {
      if (received) await pause(1e3); // a proxy may drop `Prefer`, and then every response is immediate
      const open = tasks.filter((task) => !finals.has(task));
      const wait = !received ? 0 : open[1] ? 2 : 25;
      while (open[0]) {
        resetClocks();
        const some = open.splice(0, 4);
        await Promise.all(some.map((task) => pollOne(task, address, signal, { Prefer: `wait=${wait}`, ...headers })));
      }
    }
  };

  const pollOne = async (task, address, signal, headers) => {
    const known = newest.get(task);
    if (known) headers["If-None-Match"] = `"${known.cursor}"`;
    try {
      const response = await request(stateOf(address, task), signal, headers);
      opened();
      if (response.status != 304) receive("message", await response.text());
    } catch (error) {
      if (error.retriable !== false || error.status == 401 || !tasks[1]) throw error;
      finals.add(task); // as on a stream: a rejected task does not end the others
      notice(error.code, { task, retriable: false, message: error.message });
    }
  };

  const request = async (address, signal, headers) => {
    const response = await fetch(address, { headers, credentials, signal, cache: "no-store" });
    const { status } = response;
    if (response.ok || status == 304) {
      refused = false;
      return response;
    }
    const problem = await response.json().catch(() => {}); // an HTML page of a load balancer is not JSON
    throw new BridgeError(problem?.detail ?? `HTTP ${status}`, {
      code: problem?.code,
      status,
      retriable: problem?.retriable ?? (/4(08|29)|5../.test(status) || (status == 404 && connected)),
      wait: response.headers.get("Retry-After") * 1e3 || 0,
    });
  };

  // ---- reconnecting

  /** Resolves an option that is a value or a function; the argument says whether the bridge rejected the last token. */
  const resolved = (value) => (value instanceof Function ? value(refused) : value);

  const connect = async (signal) => {
    const address = new URL(await resolved(url), location?.href);
    const credential = await resolved(token);
    signal.throwIfAborted(); // closed meanwhile, as by React's StrictMode
    tasks = tasksOf(address);
    sent = address;
    resetClocks();
    await (polling ? poll : native ? listen : read)(
      address,
      signal,
      credential && { Authorization: `Bearer ${credential}` },
    );
  };

  const follow = async () => {
    const ticks = setInterval(checkSilence, 1e3);
    for (const type of ["online", "pageshow", "visibilitychange"]) {
      globalThis.addEventListener?.(type, wake, { signal: life.signal });
    }
    try {
      while (!settled()) {
        life.signal.throwIfAborted();
        attempt = new AbortController();
        sent = received = null;
        resetClocks();
        const { signal: current } = attempt;
        const failure = await new Promise((resolve) => {
          // A token callback may never settle, nor may reading a body that was cut off: the abort must win.
          current.addEventListener("abort", () => resolve(current.reason));
          connect(current).then(() => resolve(CLOSED), resolve);
        });
        attempt.abort();
        if (life.signal.aborted || settled() || failure == WOKEN) continue;
        if (failure.status == 401 && !refused) {
          refused = true; // the token may just have expired: request a new one and retry once
          continue;
        }
        if (!(failure.retriable ?? (sent || connected || failure.length))) throw failure;
        const silent = sent && failure == SILENT;
        const unexplained = native && !connected; // EventSource hides the status: retry with fetch at once
        if (polling) polling = failure.status;
        else if (silent && (!received || suspect)) {
          polling = tasks[0] && !/[?&]ticket=/.test(sent); // a ticket opens only streams
          if (polling) notice("buffered");
          else firstByteTimeout *= 2; // a buffering proxy may release the stream at its end
        }
        suspect = silent && !native; // with EventSource, keepalives are invisible
        native = false;
        if (unexplained) continue;
        notice("reconnecting", { message: failure.message ?? failure });
        await pause(nextDelay(failure.wait));
      }
    } finally {
      clearInterval(ticks);
    }
  };

  /** Only the tab that holds the lock connects and broadcasts to the others; one of them takes over after it. */
  const shareConnection = async () => {
    const name = `bridge.js ${share} ${url}`;
    const others = new BroadcastChannel(name);
    let whole; // a cursor is only usable with all states before it
    others.onmessage = ({ data }) => {
      if (channel) return data.hello && others.postMessage({ states: [...newest.values()], cursor, whole: true });
      whole ||= data.whole;
      data.states?.forEach(accept);
      if (whole) cursor = data.cursor ?? cursor;
      if (data.note) call(onNotice, data.note);
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
      await (shared ? shareConnection() : follow());
    } catch (error) {
      if (signal?.aborted || !life.signal.aborted) throw error; // otherwise it was closed, which is not an error
    } finally {
      leave();
    }
    return [...newest.values()];
  };

  const finished = run();
  finished.catch(() => {}); // no unhandled rejection if the caller ignores `finished`
  return { close: leave, finished };
}

/** Yields each new state, or only the newest per task while the loop is busy. Leaving the loop disconnects. */
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
    await finished; // throws the error that ended the watch
  } finally {
    close();
  }
}

/** The newest state of each task, and the tasks that are finished. */
function makeWatchState() {
  const newest = new Map();
  const finals = new Set();
  const isNew = (state) => {
    const { task, status, cursor } = state;
    const final = /completed|failed|cancelled|lost/.test(status);
    const known = newest.get(task);
    // A final state is a latch; only `lost` is replaced by a real final state.
    const latched = finals.has(task) && !(final && known?.status == "lost");
    if (known && (latched || !newer(cursor, known.cursor))) return;
    newest.set(task, state);
    if (final) finals.add(task);
    return true;
  };
  return [newest, finals, isNew];
}

/** Delays between connections in ms: `retry:` first, then decorrelated jitter. */
function makeBackoff() {
  let base = 1e3;
  let last = 0;
  const setRetry = (retry) => (base = Math.max(retry, 100));
  const reset = () => (last = 0);
  const next = (atLeast = 0) => {
    const top = Math.max(last * 3, base * 1.5); // `retry:` is jittered already: stay near it
    last = Math.min(base + Math.random() * (top - base), Math.max(30e3, base));
    return Math.min(Math.max(last, atLeast + Math.random() * base), MAX_WAIT);
  };
  return [setRetry, reset, next];
}

/** Parses a stream in chunks of any size; calls `onEvent(name, data, id)` and `onRetry(milliseconds)`. */
function makeParser(onEvent, onRetry) {
  let rest = "";
  return (text) => {
    rest += text;
    if (rest.length > MAX_EVENT) throw "too large";
    if (!/[\r\n]/.test(text)) return; // inside a long line: searching it with each chunk would be quadratic
    // A CR at the end may be the first half of a CRLF.
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

/** Whether `cursor` is past `than`. Cursors without a known order count as newer unless equal. */
function newer(cursor, than) {
  const [[epoch, position], [oldEpoch, oldPosition]] = [cursor, than].map((text) => text.split(/-(?=\d+$)/));
  return epoch != oldEpoch || +position > oldPosition;
}

/** Returns the tasks named in the address of a stream. */
function tasksOf({ pathname, searchParams }) {
  const [, ref] = pathname.split(/\/v1\/tasks\/|\/events$/);
  return ref ? [decodeURIComponent(ref)] : searchParams.getAll("task");
}

/** Returns the address of the state of one of a stream's tasks. */
function stateOf(address, task) {
  const state = new URL(address);
  state.pathname = state.pathname.replace(/(tasks\/.+\/)?events$/, `tasks/${encodeURIComponent(task).replace("%2F", "/")}`);
  state.searchParams.delete("task");
  return state;
}
