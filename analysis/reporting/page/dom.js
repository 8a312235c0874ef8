// Elements: made from scratch, and put in place of what is there without losing what the reader has open.
"use strict";

const byId = (id) => document.getElementById(id);
const fill = (parent, ...children) => parent.replaceChildren(...children.filter(isThere));
const isThere = (child) => child !== null && child !== undefined;

/** Makes an element: its attributes and handlers (on...), then its children; strings become text, never HTML. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made[name] = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && isThere(value)) made.setAttribute(name, value);
  }
  fill(made, ...children);
  return made;
}

const HANDLERS = ["onclick", "onchange", "oninput"];

/**
 * Gives `parent` the children `made`, and keeps every element that is alike (same tag and data-key): open menus, the
 * focus, places scrolled to and selected text stay. What is inside an element with data-own is left to whoever drew it.
 */
function update(parent, ...made) {
  const keyed = new Map([...parent.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  let at = parent.firstChild;
  for (const child of made.filter(isThere)) {
    const node = typeof child === "string" ? document.createTextNode(child) : child;
    const old = node.dataset?.key ? keyed.get(node.dataset.key) : at;
    if (!old || old.nodeName !== node.nodeName || old.dataset?.key !== node.dataset?.key) parent.insertBefore(node, at);
    else {
      if (old === at) at = at.nextSibling;
      else parent.insertBefore(old, at);
      settle(old, node);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function settle(old, made) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== made.data) old.data = made.data;
    return;
  }
  const isFold = old.nodeName === "DETAILS"; // the reader opens and closes it
  for (const { name } of [...old.attributes]) if (!made.hasAttribute(name) && !(isFold && name === "open")) old.removeAttribute(name);
  for (const { name, value } of made.attributes) if (old.getAttribute(name) !== value && !(isFold && name === "open")) old.setAttribute(name, value);
  for (const name of HANDLERS) if (old[name] !== made[name]) old[name] = made[name];
  if (!("own" in old.dataset)) update(old, ...made.childNodes);
  if (old.nodeName === "INPUT" && old.checked !== made.checked) old.checked = made.checked;
  if (old.nodeName === "INPUT" && old.value !== made.value && old !== document.activeElement) old.value = made.value; // not what is being typed
  if (old.nodeName === "SELECT" && old.value !== made.value) old.value = made.value;
}
