"use client";

import { useState } from "react";
import { TaskProgress } from "../TaskProgress.jsx";
import { address } from "../lib/address.js";
import { ask } from "../lib/ask.js";

/** Sign in, render, watch. */
export default function Page() {
  const [task, setTask] = useState(null);
  const [message, setMessage] = useState("No render yet.");

  const onSubmit = (action) => (event) => {
    event.preventDefault();
    const fields = Object.fromEntries(new FormData(event.target));
    action(fields).then(setMessage, (error) => setMessage(error.message));
  };
  const signIn = async ({ user }) => {
    await ask("/api/sign-in", { user });
    return `Signed in as ${user}.`;
  };
  const render = async ({ prompt }) => {
    const created = await ask("/api/renders", { prompt });
    setTask(created.task);
    return created.task;
  };

  return (
    <main>
      <form id="sign-in" onSubmit={onSubmit(signIn)}>
        <input name="user" required defaultValue="ada" /> <button>Sign in</button>
      </form>
      <form id="render" onSubmit={onSubmit(render)}>
        <input name="prompt" required defaultValue="a lighthouse at night" /> <button>Render</button>
      </form>
      <p id="message">{message}</p>
      {task && <TaskProgress task={task} address={address} />}
    </main>
  );
}
