/** Results, shown as what they are. Their addresses are the provider's word, and nothing more. */

import { json } from "./api.js";
import { make, setText } from "./dom.js";
import { bytes, duration } from "./format.js";
import { taskPath } from "./links.js";

const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;
const SHOWABLE = /^data:(image|video|audio)\/[\w.+-]+;base64,/;

/** The address, if it is one of the web; else null: `javascript:` and its like are never followed. */
export function webAddress(url) {
  try {
    const parsed = new URL(url);
    return parsed.protocol === "https:" || parsed.protocol === "http:" ? parsed : null;
  } catch {
    return null;
  }
}

/**
 * Whether a result is loaded without being asked for. A plain address of somewhere else might be the router of
 * whoever looks; it waits for a click.
 */
function loadsByItself(address) {
  return address.protocol === "https:" || (LOOPBACK.test(address.hostname) && LOOPBACK.test(location.hostname));
}

export function renderOutputs(list, state) {
  list.replaceChildren(...state.outputs.map((output, index) => card(state, output, index)));
}

/** Expiry counts down. */
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
  else if (loadsByItself(address)) show(frame, media(type, address.href));
  else showOnClick(frame, `Load this ${type} from ${address.host}`, () => media(type, address.href));
}

/** Content that came in the provider's answer itself; it is fetched when it is asked for, for it may be large. */
function previewBytes(frame, state, output, index) {
  showOnClick(frame, `Show this ${output.type}, ${bytes(output.bytes)}`, async () => {
    const whole = await json(`${taskPath(state.task)}?include=data`);
    const url = whole.outputs[index]?.url ?? "";
    return SHOWABLE.test(url) ? media(output.type, url) : make("span.muted", {}, "nothing a browser shows");
  });
}

function showOnClick(frame, words, load) {
  const button = make("button.small", { type: "button" }, words);
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

function media(type, url) {
  if (type === "audio") return make("audio", { controls: true, preload: "metadata", src: url });
  const picture = () => make("img", { src: url, alt: `Result: ${type}`, loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
  if (type !== "video") return orWords(picture(), type);
  const video = make("video", { controls: true, preload: "metadata", playsinline: true, src: url });
  // some providers, and the simulator, call moving pictures videos: what is no video may still be an image
  video.addEventListener("error", () => video.replaceWith(orWords(picture(), type)), { once: true });
  return video;
}

function orWords(image, type) {
  image.addEventListener("error", () => image.replaceWith(make("span.muted", {}, `This ${type} could not be loaded.`)), { once: true });
  return image;
}

function name(output, address) {
  if (address) {
    const words = `${address.host}${address.pathname}`;
    return make("a", { href: address.href, target: "_blank", rel: "noopener noreferrer", referrerpolicy: "no-referrer" }, words);
  }
  if (output.url) return make("span", {}, "not a web address: ", make("code", {}, output.url.slice(0, 200)));
  return make("span", {}, output.bytes ? `${bytes(output.bytes)} inside the answer` : `file ${output.file_id ?? "without a link"}`);
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
  return left > 0 ? `link expires in ${duration(left)}` : "link has expired";
}
