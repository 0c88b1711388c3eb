// Follows tasks of a task event bridge until each of them is final, in a browser or in Node.
//
// Rule 1: `accept` decides which states are new, for every delivery.
// Rule 2: a connection lives as long as its `attempt`; to end it, abort that with the reason.
// Rule 3: what happens after the end of a connection is decided only in `follow`.
//
// Kept small on purpose: minified and gzipped it must stay under 3,200 bytes, which the build enforces.

const MAX_EVENT = 8e6; // characters
const MAX_TASKS = 1e4; // whose states are kept, of a tag that is followed for weeks
const MAX_WAIT = 300e3; // ms, also for `retry:` and Retry-After
const ASLEEP = 5e3; // ms by which the clocks diverge when the machine slept

// Reasons of a connection that ended without an error of the bridge. A string is retried; a BridgeError decides itself.
const CLOSED = "closed";
const SILENT = "silent";
const WOKEN = 0;
const NOT_FOUND = "task_not_found";

const fail = (message, fields, Failure = BridgeError) => Object.assign(new Failure(message), { retriable: false }, fields);

/** The error that ended a watch, with the fields of the bridge's problem document if there was one. */
export class BridgeError extends Error {
  name = "BridgeError";
}

/** A task that `subscribe` waited for is final, and not `completed`. */
export class TaskFailed extends Error {
  name = "TaskFailed";
}

/** Returns the ref in the form that states have: without percent-encoding, except that of a percent sign. */
const canonical = (ref) => `${ref}`.replace(/(%(?!25)[\da-f]{2})+/gi, decodeURIComponent);

/** completed, failed, cancelled or lost; not queued, processing, input_required or unknown. */
const isFinal = (state) => /^[cfl]/.test(state?.status);

/** The address of a stream of the bridge at `url`. */
const streamAt = (url, query) => `${url}`.replace(/\/*$/, `/v1/events?${query}`);

/** Resolves with the final state of a task, or of each task of a list, once all of them are completed. */
export async function subscribe(refs, { url = "", ...options } = {}) {
  if (!url && !globalThis.location) throw fail("url is required");
  const tasks = [refs].flat().map(canonical);
  const query = tasks.map(encodeURIComponent).join("&task=");
  const newest = tasks[0] ? await watch(streamAt(url, `task=${query}`), options).finished : [];
  const states = tasks.map((task) => newest.find((state) => state.task == task));
  states.map((state, index) => {
    if (!isFinal(state)) {
      throw fail(`${tasks[index]} was not found`, { code: NOT_FOUND, states });
    }
    if (state.status != "completed") throw fail(state.error?.message ?? state.status, { state, states }, TaskFailed);
  });
  return refs.map ? states : states[0];
}

/** Calls back with each new state of the tasks at an address, or of a tag or group, until all of them are final. */
export function watch(target, options = {}) {
  const { tag, group = tag } = target;
  const url = group ? streamAt(options.url ?? "", (tag ? "tag=" : "group=") + encodeURIComponent(group)) : target;
  let { signal, token, share, credentials, silenceSeconds = 45, firstByteSeconds = 10, lastEventId: cursor } = options;
  const newest = new Map(); // the newest state of each task
  const finals = new Set(); // the tasks that are finished
  const life = new AbortController();
  const { signal: over } = life;
  let attempt; // the AbortController of the newest connection
  let native = globalThis.EventSource && !token;
  let tasks = []; // the tasks named in the address; empty when it is not an address of a bridge
  let retry = 1e3; // ms, from `retry:`
  let delay = 0; // ms, the last one
  let refused = false; // whether the newest response rejected the credential
  let connected = false; // ever
  let root, ref, ended, polling, suspect, sent, received, credential, wall, steady; // of the connection
  let resume, timer, ticks, others, channel, announce, news;
  const loops = new Set(); // what each loop has not yielded yet

  // ---- what arrives

  // In a microtask: an exception in a callback is reported like one of any event listener, and the watch continues.
  const call = (name, value) => queueMicrotask(() => over.aborted || options[name]?.(value));

  /** Wakes the loops that wait for `news`. */
  const renew = () => {
    announce?.();
    news = null;
  };

  const openTasks = () => tasks.filter((task) => !finals.has(task));

  const settled = () => ended || (tasks[0] && !openTasks()[0]);

  /** Handles one event, of any delivery, in every tab that shares the connection. */
  const handle = (name, event, id = "") => {
    const { task } = event;
    channel?.postMessage([name, event]);
    if (/^[!-~]{1,128}$/.test(id)) cursor = id; // anything else would break a reconnect
    if (name == "message") {
      const known = newest.get(task);
      if (known) {
        // Cursors without a known order count as newer unless equal.
        const [[epoch, position], old] = [event, known].map(({ cursor }) => cursor.split(/-(?=\d+$)/));
        if (epoch == old[0] && !(+position > old[1])) return;
        // A final state is a latch; only `lost` is replaced by a real final state.
        if (finals.has(task) && !(isFinal(event) && known.status == "lost")) return;
      }
      for (const states of [newest, ...loops]) {
        states.delete(task); // in the order of arrival
        states.set(task, event);
      }
      if (newest.size > MAX_TASKS) newest.delete(newest.keys().next().value);
      renew();
      call("onState", event);
      if (isFinal(event)) {
        finals.add(task);
        call("onDone", event);
      }
      return;
    }
    if (name == "done" || event.code == NOT_FOUND) finals.add(task);
    ended ||= /^end|^group/.test(name);
    if (/^notice|^reset|^group/.test(name)) {
      call("onNotice", { code: name, task: null, retriable: true, message: null, ...event });
    }
    if (settled()) attempt?.abort(CLOSED);
  };

  const notice = (code, more) => handle("notice", { code, ...more });

  /** Throws what is not JSON. */
  const receive = (name, data, id) => {
    handle(name, JSON.parse(data), id);
    delay = 0;
  };

  // ---- silence, sleep and wake-up
  // Two clocks: Date also runs while the machine sleeps, performance.now() cannot be set. Timers of a hidden tab fire
  // late, but received bytes reset both clocks, so that a throttled tab is not taken for a dead connection.

  const resetClocks = () => {
    wall = Date.now();
    steady = performance.now();
  };

  /** Called every second, and with the events of the browser. */
  const check = ({ type } = {}) => {
    const elapsed = Date.now() - wall;
    const awake = performance.now() - steady;
    const slept = type == "online" || elapsed - awake > ASLEEP;
    if (type || slept) {
      if (globalThis.document?.hidden) return;
      skip();
      if (slept || elapsed > 333 * silenceSeconds) attempt.abort(WOKEN);
      resetClocks();
    } else if (awake > 1e3 * (received ? silenceSeconds : firstByteSeconds)) attempt.abort(SILENT);
  };

  const pause = (milliseconds) =>
    new Promise((resolve) => {
      timer = setTimeout((resume = resolve), milliseconds);
    });

  const skip = () => {
    clearTimeout(timer);
    resume?.();
  };

  // ---- one connection; each returns when the server ends it

  const opened = () => {
    resetClocks();
    if (!received) notice("connected");
    received = connected = true;
  };

  /** With the browser's EventSource, which reconnects automatically and obeys `retry:`, which scripts cannot read. */
  const listen = (address, signal) => {
    if (cursor) address.searchParams.set("lastEventId", cursor);
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
    for (const name of ["message", "done", "end", "notice", "reset", "group_done"]) {
      source.addEventListener(name, (event) => {
        opened();
        try {
          receive(name, event.data, event.lastEventId);
        } catch (error) {
          attempt.abort(error);
        }
      });
    }
    return new Promise((resolve) => signal.addEventListener("abort", () => resolve(source.close())));
  };

  /** With fetch, which exposes status codes and keepalives, and allows headers. */
  const read = async (address, signal) => {
    const response = await request(address, signal, {
      Accept: "text/event-stream",
      ...(cursor && { "Last-Event-ID": cursor }),
    });
    if (response.status == 204) return (ended = true);
    if (!/event-stream/.test(response.headers.get("Content-Type"))) {
      throw fail("no event stream", { retriable: connected });
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let event = { data: "" };
    for (let piece; !(piece = await reader.read()).done; ) {
      opened();
      rest += piece.value;
      if ((rest + event.data).length > MAX_EVENT) throw CLOSED;
      if (!/[\r\n]/.test(piece.value)) continue; // inside a long line: searching it with each piece would be quadratic
      const lines = rest.split(/\r\n|\n|\r(?!$)/); // a CR at the end may be the first half of a CRLF
      rest = lines.pop();
      for (const line of lines) {
        const [, field, value] = line.match(/([^:]*):? ?(.*)/s);
        if (line) {
          event[field] = field == "data" ? event.data + value + "\n" : value;
          continue;
        }
        if (event.retry > 99) retry = +event.retry;
        if (event.data) receive(event.event || "message", event.data, event.id);
        event = { data: "" };
      }
    }
  };

  /** With long polls, where a proxy buffers streams. Four at once: a browser allows six connections per host. */
  const poll = async (address, signal) => {
    const pollOne = async (task, wait) => {
      const state = new URL(address);
      state.pathname = `${root}/v1/tasks/${encodeURIComponent(task).replace("%2F", "/")}`;
      state.searchParams.delete("task");
      const known = newest.get(task);
      const headers = { Prefer: `wait=${wait}`, ...(known && { "If-None-Match": `"${known.cursor}"` }) };
      try {
        const response = await request(state, signal, headers);
        opened();
        if (response.ok) receive("message", await response.text());
      } catch (error) {
        if (error.retriable !== false || error.status == 401 || !tasks[1]) throw error;
        finals.add(task); // as on a stream: a rejected task does not end the others
        notice(error.code, { task, retriable: false, message: error.message });
      }
    };
    while (!settled()) {
      if (received) await pause(1e3); // a proxy may drop `Prefer`, and then every response is immediate
      const open = openTasks();
      const wait = !received ? 0 : open[1] ? 2 : 25;
      while (open[0]) {
        resetClocks();
        await Promise.all(open.splice(0, 4).map((task) => pollOne(task, wait)));
      }
    }
  };

  const request = async (address, signal, headers) => {
    if (credential) headers.Authorization = `Bearer ${credential}`;
    const response = await fetch(address, { headers, credentials, signal, cache: "no-store" });
    const { status } = response;
    if (response.ok || status == 304) {
      refused = false;
      return response;
    }
    const problem = await response.json().catch(() => {}); // an HTML page of a load balancer is not JSON
    throw fail(problem?.detail ?? `HTTP ${status}`, {
      status,
      retriable: /4(08|29)|5../.test(status) || (status == 404 && connected),
      wait: response.headers.get("Retry-After") * 1e3,
      ...problem,
    });
  };

  // ---- reconnecting

  /** Resolves an option that is a value or a function; the argument says whether the bridge rejected the last token. */
  const resolved = (value) => (value?.call ? value(refused) : value);

  const connect = async (signal) => {
    const address = new URL(await resolved(url), globalThis.location);
    credential = await resolved(token);
    signal.throwIfAborted(); // closed meanwhile, as by React's StrictMode
    [root, ref] = address.pathname.split(/\/v1\/(?:tasks\/|events$)|\/events$/);
    tasks = (ref ? [decodeURIComponent(ref)] : address.searchParams.getAll("task")).map(canonical);
    sent = address;
    native &&= !/[?&](tag|group)=/.test(address); // quiet for long: only fetch sees the keepalives
    resetClocks();
    await (polling ? poll : native ? listen : read)(address, signal);
  };

  const follow = async () => {
    ticks = setInterval(check, 1e3);
    for (const type of ["online", "visibilitychange"]) {
      globalThis.addEventListener?.(type, check, { signal: over });
    }
    while (!settled()) {
      over.throwIfAborted();
      attempt = new AbortController();
      sent = received = 0;
      resetClocks();
      const { signal: current } = attempt;
      const failure = await new Promise((resolve) => {
        // A token callback may never settle, nor may reading a body that was cut off: the abort must win.
        current.addEventListener("abort", () => resolve(current.reason));
        connect(current).then(() => resolve(CLOSED), resolve);
      });
      attempt.abort();
      if (over.aborted || settled() || failure == WOKEN) continue;
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
        else firstByteSeconds *= 2; // a buffering proxy may release the stream at its end
      }
      suspect = silent && !native; // with EventSource, keepalives are invisible
      native = false;
      if (unexplained) continue;
      notice("reconnecting", { message: failure.message ?? failure });
      // `retry:` first, which is jittered already, then decorrelated jitter
      delay = Math.min(retry + Math.random() * Math.max(delay * 3 - retry, retry / 2), Math.max(30e3, retry));
      await pause(Math.min(Math.max(delay, (failure.wait || 0) + Math.random() * retry), MAX_WAIT));
    }
  };

  /** Only the tab that holds the lock connects and broadcasts to the others; one of them takes over after it. */
  const shareConnection = (locks) => {
    const name = `${share} ${url}`;
    others = new BroadcastChannel(name);
    others.onmessage = ({ data }) => {
      // The cursor of a state says nothing of other tasks, while that of a stream needs all states before it.
      if (data) channel || handle(...data, data[1].cursor);
      else for (const state of newest.values()) channel?.postMessage(["message", state]);
    };
    others.postMessage(0); // asks for the states
    return locks.request(name, { signal: over }, () => follow((channel = others)));
  };

  const leave = (reason) => {
    life.abort(reason);
    attempt?.abort(reason);
    clearTimeout(ticks);
    others?.close();
    skip();
    renew();
  };

  const run = async () => {
    try {
      signal?.throwIfAborted();
      signal?.addEventListener("abort", () => leave(signal.reason), { signal: over });
      const shared = share && share !== !!url.call && globalThis.navigator?.locks;
      await (shared ? shareConnection(shared) : follow());
    } catch (error) {
      if (over.reason != CLOSED) throw error; // otherwise it was closed, which is not an error
    } finally {
      leave(0);
    }
    return [...newest.values()];
  };

  const finished = run();
  finished.catch(() => {}); // no unhandled rejection if the caller ignores `finished`
  return {
    finished,
    close() {
      leave(CLOSED);
    },
    /** Yields each new state, or only the newest of each task while the loop is busy. Leaving the loop disconnects. */
    async *[Symbol.asyncIterator]() {
      const pending = new Map(newest);
      loops.add(pending);
      try {
        for (let last, next; !last; await (last || next)) {
          next = news ??= new Promise((resolve) => (announce = resolve)); // before reading, so that nothing is missed
          last = over.aborted;
          for (const [task, state] of pending) {
            pending.delete(task);
            if (!over.reason) yield state; // neither closed nor aborted, while 0 is the end
          }
        }
        await finished; // throws the error that ended the watch
      } finally {
        loops.delete(pending);
        leave(CLOSED);
      }
    },
  };
}

/** Yields each new state of the tasks at `url`, as a loop over `watch` does; connects with the first step of the loop. */
export async function* states(target, options) {
  yield* watch(target, options);
}
