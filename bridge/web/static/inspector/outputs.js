/** Results and their previews. Their URLs come from the provider and are not trusted. */

import { json } from "./api.js";
import { make, setText } from "./dom.js";
import { bytes, duration } from "./format.js";
import { taskPath } from "./links.js";

const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;
const LOAD_SECONDS = 20; // a player without a first frame after that is replaced by a sentence
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
  list.replaceChildren(...state.outputs.map((output, index) => card(state, output, index)));
}

/** Updates the remaining validity of links. */
export function tickOutputs(list) {
  for (const node of list.querySelectorAll("[data-expires]")) setText(node, expiry(node.dataset.expires));
}

function card(state, output, index) {
  const address = output.url ? webAddress(output.url) : null;
  const frame = make("div.preview");
  if (address) previewAddress(frame, output.type, address);
  else if (output.bytes) previewBytes(frame, state, output, index);
  else show(frame, make("span.muted", {}, output.type));
  return make("li.output", {}, frame, make("div.facts", {}, name(output, address), facts(output)));
}

function previewAddress(frame, type, address) {
  if (type === "file") show(frame, make("span.muted", {}, "file"));
  else if (loadsWithoutClick(address)) show(frame, media(type, address.href));
  else showOnClick(frame, `Load this ${type} from ${address.host}`, () => media(type, address.href));
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

/** A player or an image; where it cannot be loaded, a sentence and the link. */
function media(type, url) {
  const kind = { audio, video }[type] ?? picture;
  return kind(type, url);
}

function picture(type, url) {
  const image = make("img", { src: url, alt: `Result: ${type}`, loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
  return orSentence(image, "load", type, url, () => sentence(type, url));
}

function video(type, url) {
  const player = make("video", { controls: true, preload: "metadata", playsinline: true, src: url, "aria-label": "Result: video" });
  // Some providers return animated images as videos.
  return orSentence(player, "loadedmetadata", type, url, () => picture(type, url));
}

function audio(type, url) {
  const player = make("audio", { controls: true, preload: "metadata", src: url, "aria-label": "Result: audio" });
  return orSentence(player, "loadedmetadata", type, url, () => sentence(type, url));
}

/** Replaces an element that failed, or that shows nothing for too long: a black player explains nothing. */
function orSentence(element, loaded, type, url, instead) {
  const finish = (replacement) => {
    clearTimeout(timer);
    if (replacement) element.replaceWith(replacement());
  };
  const timer = setTimeout(() => element.isConnected && element.loading !== "lazy" && finish(() => sentence(type, url)), LOAD_SECONDS * 1000);
  element.addEventListener(loaded, () => finish(null), { once: true });
  element.addEventListener("error", () => finish(instead), { once: true });
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
  const line = make("span.muted", {}, parts.join(" · "));
  if (output.expires_at) line.append(" · ", make("span", { data: { expires: output.expires_at } }, expiry(output.expires_at)));
  return line;
}

function expiry(at) {
  const left = (Date.parse(at) - Date.now()) / 1000;
  return left > 0 ? `link expires in ${duration(left)}` : "link expired";
}
