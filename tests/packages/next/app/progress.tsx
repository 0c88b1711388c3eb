"use client";
import { useTask } from "task-event-bridge/react";

export function Progress({ task, url }: { task: string; url: string }) {
  const { state, error } = useTask(task, { url });
  return <p id="task">{error?.message ?? state?.status ?? "loading"}</p>;
}
