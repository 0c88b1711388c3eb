/** Results and their previews. Their URLs come from the provider and are not trusted. */

import { json } from "./api.js";
import { make, setText } from "./dom.js";
import { bytes, duration } from "./format.js";
import { taskPath } from "./links.js";

const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;
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

function media(type, url) {
  if (type === "audio") return make("audio", { controls: true, preload: "metadata", src: url });
  const picture = () => make("img", { src: url, alt: `Result: ${type}`, loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
  if (type !== "video") return orText(picture(), type);
  const video = make("video", { controls: true, preload: "metadata", playsinline: true, src: url });
  // Some providers, and the simulator, return animated images as videos: fall back to an image.
  video.addEventListener("error", () => video.replaceWith(orText(picture(), type)), { once: true });
  return video;
}

function orText(image, type) {
  image.addEventListener("error", () => image.replaceWith(make("span.muted", {}, `The ${type} could not be loaded.`)), { once: true });
  return image;
}

function name(output, address) {
  if (address) {
    const text = `${address.host}${address.pathname}`;
    return make("a", { href: address.href, target: "_blank", rel: "noopener noreferrer", referrerpolicy: "no-referrer" }, text);
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
