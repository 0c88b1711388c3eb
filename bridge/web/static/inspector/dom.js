/** Creating and changing elements. External data is always inserted as text, never as markup. */

const DIRECTION = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** The text with its invisible direction controls as escapes: they could make an id or an address read as another. */
export function visible(text) {
  return text.replace(DIRECTION, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/**
 * @param {string} name A tag with classes: `"span.pill.small"`.
 * @param {object} properties Attributes; `on` holds listeners, `data` data attributes; null and false omit it.
 */
export function make(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.classList.add(...classes);
  const { on = {}, data = {}, ...attributes } = properties;
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  Object.assign(node.dataset, data);
  for (const [key, value] of Object.entries(attributes)) set(node, key, value);
  node.append(...children.filter((child) => child !== null).map((child) => (typeof child === "string" ? visible(child) : child)));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Sets or removes an attribute; does nothing if unchanged, so that screen readers stay quiet. */
export function set(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

export function setText(node, external) {
  const text = visible(external);
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** Copies `text` to the clipboard and confirms it on the button; without a clipboard, selects it for manual copying. */
export async function copy(text, source, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    setText(button, "Copied");
  } catch {
    getSelection().selectAllChildren(source);
    setText(button, "Press Ctrl+C");
  }
  setTimeout(() => setText(button, label), 2000);
}
