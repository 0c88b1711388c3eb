// Replace with your own sign-in and database: the user of a request, and the owner of a task.

// In `globalThis`, because Next.js loads this module once for each route.
const sessions = (globalThis.sessions ??= new Map());
const owners = (globalThis.owners ??= new Map());

/** Accepts any name: a real sign-in checks a password. Returns the `set-cookie` header. */
export async function signIn(user) {
  const session = crypto.randomUUID();
  sessions.set(session, user);
  return `session=${session}; Path=/; HttpOnly; SameSite=Lax`;
}

export async function signedIn(request) {
  const [, session] = /(?:^|;\s*)session=([^;]+)/.exec(request.headers.get("cookie") ?? "") ?? [];
  return sessions.get(session);
}

export async function own(user, task) {
  owners.set(task, user);
}

export async function mayRead(user, task) {
  return owners.get(task) === user;
}
