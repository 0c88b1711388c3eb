// What the hooks of every framework share: one connection for all tasks that the components of a page follow, and one
// for each tag or group.
//
// Rule 1: followers are counted, and connections opened and closed, in a microtask: a component that is unmounted and
// mounted again, as by React's StrictMode, changes nothing.
// Rule 2: a view is replaced as a whole, never changed.

import { BridgeError, subscribe, watch, type Notice, type Selection, type SubscribeOptions, type TaskState } from "../dist/index.js";

/** Callbacks may be new functions with every render; only another `url` or another text as `token` reconnects. */
export type TaskOptions = Pick<SubscribeOptions, "url" | "token" | "credentials" | "onState" | "onNotice">;

/** What is known about a task. */
export interface TaskView {
  /** The newest state; null until it arrives. */
  readonly state: TaskState | null;
  /** A problem of the provider or the connection that is being handled; null once it is resolved. */
  readonly notice: Notice | null;
  /** Why the task cannot be followed: it does not exist, or this page may not see it. A failed task is a state. */
  readonly error: Error | null;
}

/** What is known about everything with a tag, or in a group: with each change a new object, and a new map. */
export interface TasksView {
  /** The newest state of each task, by its ref, in the order in which they appeared. It only grows. */
  readonly tasks: ReadonlyMap<string, TaskState>;
  /** Of a group that is closed, once all of it is final: how many tasks ended how; else null. */
  readonly counts: Readonly<Record<string, number>> | null;
  /** A problem of the connection that is being handled; null once it is resolved. */
  readonly notice: Notice | null;
  /** Why it cannot be followed, such as a token that is rejected. A failed task is a state. */
  readonly error: Error | null;
}

/** A tag or group; null or undefined while there is none. */
export type MaybeSelection = Selection | null | undefined;

export const NO_TASKS: TasksView = { tasks: new Map(), counts: null, notice: null, error: null };

export const EMPTY: TaskView = { state: null, notice: null, error: null };

/** One use of a hook. A tuple, as the names of properties cannot be shortened by the build. */
export type Follower = readonly [refs: readonly string[], options: () => TaskOptions, changed: () => void];

/** fresh, connected or closing: no problem, or no longer. */
const isOver = /^f|^c[lo]/;

type Join = (follower: Follower) => () => void;

const views = new Map<string, TaskView>(); // by key and ref
const groups = new Map<string, Join>(); // by key

/** What has one connection: an address and a credential. Functions are not compared, only called. */
export const keyOf = ({ url, token }: TaskOptions): string => `${url} ${(token as any)?.call ? "" : token} `;

export const viewOf = (key: string, ref: string | null | undefined): TaskView => views.get(key + ref) ?? EMPTY;

/** Follows tasks until the function that it returns is called. */
export const follow = (key: string, follower: Follower): (() => void) => (groups.get(key) ?? makeGroup(key))(follower);

type Callback = "onState" | "onNotice";

/** The same for the same tag or group, also in another object. */
export const nameOf = (selection: MaybeSelection): string =>
  selection ? (selection.tag ? "tag " + selection.tag : "group " + selection.group) : "";

type SelectionFollower = readonly [options: () => TaskOptions, changed: () => void];
type JoinSelection = readonly [join: (follower: SelectionFollower) => () => void, read: () => TasksView];

const selections = new Map<string, JoinSelection>(); // by key and name

export const viewOfAll = (key: string, selection: MaybeSelection): TasksView =>
  selections.get(key + nameOf(selection))?.[1]() ?? NO_TASKS;

/** Follows a tag or group until the function that it returns is called. */
export const followAll = (key: string, selection: Selection, follower: SelectionFollower): (() => void) => {
  const name = key + nameOf(selection);
  const known = selections.get(name) ?? makeSelection(name, selection);
  selections.set(name, known);
  return known[0](follower);
};

function makeSelection(name: string, selection: Selection): JoinSelection {
  const followers = new Set<SelectionFollower>();
  const tasks = new Map<string, TaskState>();
  let view = NO_TASKS;
  let next: TasksView | undefined; // until it is shown: once for all states that arrive together
  let life: AbortController | undefined;
  let newest: () => TaskOptions; // the options of the follower that came last

  const show = (change: Partial<TasksView>, callback?: Callback, value?: unknown) => {
    if (!next) {
      queueMicrotask(() => {
        view = { ...next!, tasks: new Map(tasks) };
        next = undefined;
        for (const [, changed] of followers) changed();
      });
    }
    next = { ...(next ?? view), ...change };
    for (const [options] of followers) call(options, callback, value);
  };

  const settle = () => {
    if (!followers.size) {
      if (selections.get(name) == made) selections.delete(name);
      life?.abort();
    } else if (!life) {
      life = new AbortController();
      const { signal } = life;
      const options = newest();
      watch(selection, {
        ...options,
        token: (options.token as any)?.call ? (refused) => (newest().token as any)(refused) : options.token,
        signal,
        onState(state) {
          tasks.set(state.task, state);
          show({ notice: null }, "onState", state);
        },
        onNotice(notice) {
          const { code, task, counts } = notice;
          show(counts ? { counts } : task ? {} : { notice: isOver.test(code) ? null : notice }, "onNotice", notice);
        },
      }).finished.catch((error) => signal.aborted || show({ error }));
    }
  };

  const made: JoinSelection = [
    (follower) => {
      followers.add(follower);
      newest = follower[0];
      queueMicrotask(settle);
      for (const state of tasks.values()) call(newest, "onState", state);
      return () => {
        followers.delete(follower);
        queueMicrotask(settle);
      };
    },
    () => view,
  ];
  return made;
}

/** In a microtask, so that an exception is reported and stops nothing. */
const call = (options: () => TaskOptions, name?: Callback, value?: any) =>
  value && queueMicrotask(() => options()[name!]?.(value));

function makeGroup(key: string): Join {
  const followers = new Set<Follower>();
  let life: AbortController | undefined; // of the connection
  let connected: string[] = []; // the tasks on it
  let known = new Set<string>(); // the tasks that have views
  let newest: () => TaskOptions; // the options of the follower that came last

  const isOpen = (ref: string) => {
    const { state, error } = viewOf(key, ref);
    return !(error || /^[cfl]/.test(state?.status!));
  };

  const reconnect = () => {
    const wanted = new Set([...followers].flatMap(([refs]) => refs));
    const open = [...wanted].filter(isOpen);
    const before = connected.filter(isOpen);
    for (const ref of known) wanted.has(ref) || views.delete(key + ref);
    known = wanted;
    if (!followers.size) groups.delete(key);
    if (`${open.sort()}` == (before.sort() as unknown)) return; // as texts
    life?.abort();
    life = new AbortController();
    connected = open;
    connect(open, life.signal); // of an empty list nothing is opened
  };

  /** Opens one connection for these tasks. */
  const connect = (refs: string[], signal: AbortSignal) => {
    const show = (task: string | null, change: Partial<TaskView>, callback?: Callback, value?: unknown) => {
      const changed = refs.filter((ref) => (!task || canonical(ref) == task) && (change.state || isOpen(ref)));
      for (const ref of changed) views.set(key + ref, { ...viewOf(key, ref), ...change });
      for (const [refs, options, rerender] of followers) {
        if (!refs.some((ref) => changed.includes(ref))) continue;
        rerender();
        call(options, callback, value);
      }
    };
    const options = newest();
    subscribe(refs, {
      ...options,
      token: (options.token as any)?.call ? (refused) => (newest().token as any)(refused) : options.token,
      signal,
      onState: (state) => show(state.task, { state, notice: null }, "onState", state),
      onNotice: (notice) =>
        show(
          notice.task,
          notice.code == "task_not_found"
            ? { error: Object.assign(new BridgeError(), notice) }
            : { notice: isOver.test(notice.code) ? null : notice },
          "onNotice",
          notice,
        ),
    }).catch((error) => {
      if (signal.aborted || error.state) return;
      if (!refs[1] || error.status == 401) return show(null, { error });
      // One ref that the bridge rejects must not hide the others, nor must a list that is too long for it.
      connect(refs.slice(refs.length / 2), signal);
      connect(refs.slice(0, refs.length / 2), signal);
    });
  };

  const join: Join = (follower) => {
    const [refs, options] = follower;
    followers.add(follower);
    newest = options;
    queueMicrotask(reconnect);
    // A component mounted later receives the current state too, as with a connection of its own.
    for (const ref of refs) call(options, "onState", viewOf(key, ref).state);
    return () => {
      followers.delete(follower);
      queueMicrotask(reconnect);
    };
  };
  groups.set(key, join);
  return join;
}

/** The ref as states have it: without percent-encoding, except that of a percent sign. */
const canonical = (ref: string) => ref.replace(/(%(?!25)[\da-f]{2})+/gi, decodeURIComponent);
