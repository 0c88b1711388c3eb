/**
 * Results and their previews. They come through the bridge, which has the provider's key and the copies; where it cannot
 * get one, from the provider's URL, which is not trusted.
 */

import { json, token } from "./api.js";
import { make, setText } from "./dom.js";
import { bytes, duration } from "./format.js";
import { BASE, taskPath } from "./links.js";

const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;
const LOAD_SECONDS = 20; // a player without a first frame after that is replaced by a sentence
const TICKET_SECONDS = 900; // the longest: a player asks for parts of the file for as long as it is open
const SHOWABLE = /^data:(image|video|audio)\/[\w.+-]+;base64,/;

/** Returns the URL if it is http or https, else null: `javascript:` and other schemes are never followed. */
export function webAddress(url) {
  try {
    const parsed = new URL(url);
    return parsed.protocol === "https:" || parsed.protocol === "http:" ? parsed : null;
  } catch {
    return null;
  }
}

/**
 * Whether a result is loaded without a click. A plain http URL could point at a device in the viewer's network,
 * such as a router, so it waits for a click.
 */
function loadsWithoutClick(address) {
  if (address.origin === location.origin) return true;
  return address.protocol === "https:" || (LOOPBACK.test(address.hostname) && LOOPBACK.test(location.hostname));
}

export function renderOutputs(list, state) {
  let issued; // one ticket for all of them
  const ticket = () => (issued ??= token.value ? newTicket(state.task) : null);
  list.replaceChildren(...state.outputs.map((output, index) => card(state, output, index, ticket)));
}

/** Updates the remaining validity of links. */
export function tickOutputs(list) {
  for (const node of list.querySelectorAll("[data-expires]")) setText(node, expiry(node.dataset.expires));
}

function card(state, output, index, ticket) {
  const address = output.url ? webAddress(output.url) : null;
  const frame = make("div.preview");
  if (output.bytes && !output.stored_url) previewBytes(frame, state, output, index);
  else if (output.type === "file" || (output.url && !address)) show(frame, make("span.muted", {}, output.type));
  else previewFile(frame, output.type, address, () => fileAddress(state.task, index, ticket));
  return make("li.output", {}, frame, make("div.facts", {}, name(output, address), facts(output)));
}

/** A player for the file as the bridge sends it; where it cannot, for the provider's URL. */
async function previewFile(frame, type, address, fromBridge) {
  const fromProvider = () => {
    if (!address) return sentence(type, null);
    if (loadsWithoutClick(address)) return media(type, address.href);
    const place = make("div");
    showOnClick(place, `Load this ${type} from ${address.host}`, () => media(type, address.href));
    return place;
  };
  show(frame, make("span.muted", {}, type));
  try {
    show(frame, media(type, await fromBridge(), fromProvider));
  } catch {
    show(frame, fromProvider()); // no ticket, such as without a `ticket_secret`
  }
}

async function fileAddress(task, index, ticket) {
  const address = new URL(taskPath(task, `/outputs/${index}`), BASE);
  const credential = await ticket();
  if (credential) address.searchParams.set("ticket", credential);
  return address.href;
}

/** An element sends no headers, so a short-lived ticket replaces the token, as for a WebSocket. */
async function newTicket(task) {
  const body = JSON.stringify({ tasks: [task], seconds: TICKET_SECONDS });
  const headers = { "Content-Type": "application/json" };
  return (await json("v1/tickets", { method: "POST", body, headers })).ticket;
}

/** Content inside the provider's response; loaded on request, since it may be large. */
function previewBytes(frame, state, output, index) {
  showOnClick(frame, `Show this ${output.type}, ${bytes(output.bytes)}`, async () => {
    const whole = await json(`${taskPath(state.task)}?include=data`);
    const url = whole.outputs[index]?.url ?? "";
    return SHOWABLE.test(url) ? media(output.type, url) : make("span.muted", {}, "cannot be displayed");
  });
}

function showOnClick(frame, label, load) {
  const button = make("button.small", { type: "button" }, label);
  button.addEventListener("click", async () => {
    try {
      show(frame, await load());
    } catch (problem) {
      show(frame, make("span.muted", {}, problem.message));
    }
  });
  show(frame, button);
}

function show(frame, node) {
  frame.replaceChildren(node);
}

/** A player or an image; where it cannot be loaded, what `instead` returns: a sentence and the link, unless given. */
function media(type, url, instead = () => sentence(type, url)) {
  const kind = { audio, video }[type] ?? picture;
  return kind(type, url, instead);
}

function picture(type, url, instead) {
  const image = make("img", { src: url, alt: `Result: ${type}`, loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
  return orInstead(image, "load", instead);
}

function video(type, url, instead) {
  const player = make("video", { controls: true, preload: "metadata", playsinline: true, src: url, "aria-label": "Result: video" });
  // Some providers return animated images as videos.
  return orInstead(player, "loadedmetadata", () => picture(type, url, instead), instead);
}

function audio(type, url, instead) {
  const player = make("audio", { controls: true, preload: "metadata", src: url, "aria-label": "Result: audio" });
  return orInstead(player, "loadedmetadata", instead);
}

/** Replaces an element that failed, or that shows nothing for too long: a black player explains nothing. */
function orInstead(element, loaded, afterError, afterSilence = afterError) {
  const finish = (replacement) => {
    clearTimeout(timer);
    if (replacement) element.replaceWith(replacement());
  };
  const timer = setTimeout(() => element.isConnected && element.loading !== "lazy" && finish(afterSilence), LOAD_SECONDS * 1000);
  element.addEventListener(loaded, () => finish(null), { once: true });
  element.addEventListener("error", () => finish(afterError), { once: true });
  return element;
}

function sentence(type, url) {
  const address = webAddress(url);
  return make("p.unloaded", {}, `This ${type} cannot be shown here.`, address ? " " : null, address ? link(address, "Open it") : null);
}

function link(address, text) {
  return make("a", { href: address.href, target: "_blank", rel: "noopener noreferrer", referrerpolicy: "no-referrer" }, text);
}

function name(output, address) {
  if (address) {
    return link(address, `${address.host}${address.pathname}`);
  }
  if (output.url) return make("span", {}, "not an http URL: ", make("code", {}, output.url.slice(0, 200)));
  return make("span", {}, output.bytes ? `${bytes(output.bytes)} in the response` : `file ${output.file_id ?? "without a link"}`);
}

function facts(output) {
  const parts = [output.type];
  if (output.width && output.height) parts.push(`${output.width} × ${output.height}`);
  if (output.duration_seconds) parts.push(duration(output.duration_seconds));
  if (output.stored_url) parts.push("stored copy");
  const line = make("span.muted", {}, parts.join(" · "));
  if (output.expires_at) line.append(" · ", make("span", { data: { expires: output.expires_at } }, expiry(output.expires_at)));
  return line;
}

function expiry(at) {
  const left = (Date.parse(at) - Date.now()) / 1000;
  return left > 0 ? `link expires in ${duration(left)}` : "link expired";
}
