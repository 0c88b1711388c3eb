/** Making and changing elements. Whatever comes from outside is text here, never markup. */

/**
 * @param {string} name A tag, with classes: `"span.pill.small"`.
 * @param {object} properties Attributes; `on` holds listeners, `data` data attributes; null and false leave one out.
 */
export function make(name, properties = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.classList.add(...classes);
  const { on = {}, data = {}, ...attributes } = properties;
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  Object.assign(node.dataset, data);
  for (const [key, value] of Object.entries(attributes)) set(node, key, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

export function byId(id) {
  return document.getElementById(id);
}

/** Sets an attribute, or removes it; nothing happens where it stands already, so screen readers stay quiet. */
export function set(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

/** Puts `text` on the clipboard and says so on the button; where there is none, selects it to be copied by hand. */
export async function copy(text, source, button) {
  const said = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    setText(button, "Copied");
  } catch {
    getSelection().selectAllChildren(source);
    setText(button, "Press Ctrl+C");
  }
  setTimeout(() => setText(button, said), 2000);
}
