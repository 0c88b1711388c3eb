// Replace with your own sign-in and database: the user of a request, and the owner of a task.

const SESSIONS = new Map([["session-of-ada", "ada"], ["session-of-bob", "bob"]]);
const OWNERS = new Map([["qingbo/of-ada", "ada"]]);

export async function signedIn(request) {
  const [, session] = /(?:^|;\s*)session=([^;]+)/.exec(request.headers.get("cookie") ?? "") ?? [];
  return SESSIONS.get(session);
}

export async function mayRead(user, task) {
  return OWNERS.get(task) === user;
}
