// Shows a task: /?task=qingbo/YOUR_TASK_ID, with tokens also #ticket=TICKET

import { createApp, h } from "vue";
import TaskProgress from "./TaskProgress.vue";

const BRIDGE = "http://127.0.0.1:8080"; // `allowed_origins` of the bridge must name this page's origin

const task = new URL(location).searchParams.get("task");
const ticket = new URLSearchParams(location.hash.slice(1)).get("ticket");

function address(ref) {
  const url = new URL("/v1/events", BRIDGE);
  url.searchParams.set("task", ref);
  if (ticket) url.searchParams.set("ticket", ticket); // a real page asks its own backend for one
  return url.href;
}

const hint = "Add ?task=upstream/task_id to the address of this page.";
createApp(() => (task ? h(TaskProgress, { task, address }) : h("p", hint))).mount("main");
