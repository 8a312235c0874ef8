// What is shown and how it is chosen: the data object (analysis/page/data.py), the reader's choices, numbers as text.
"use strict";

let data = null;

const state = {
  x: null, y: null, colour: null, shape: null, logX: null, logY: false, // logX null: as the values suggest
  hidden: {}, // axis -> Set of values left out
  where: null, // { label, where }: the trials that a number rests on
  sort: "", descending: false, page: 0, allColumns: false,
  trial: null, // trial_id of the open one
};

const field = (name) => data.fields.find((found) => found.name === name);
const fieldsOf = (...kinds) => data.fields.filter((found) => kinds.includes(found.kind));
const valueOf = (name, row) => data.trials[name]?.[row] ?? data.marks[name]?.[row] ?? null;
const scaled = (name, row) => {
  const value = valueOf(name, row);
  return typeof value === "number" ? value * (field(name).factor ?? 1) : value;
};
const byName = (a, b) =>
  a === b ? 0 : a === null ? 1 : b === null ? -1 : typeof a === "number" && typeof b === "number" ? a - b
    : String(a).localeCompare(String(b), "en", { numeric: true });
const valuesOf = (name) => [...new Set(data.trials[name])].sort(byName);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** A number as text: whole ones in full, percent with two decimals, others with four digits; null is "none". */
function shown(value, factor = 1) {
  if (value === null || value === undefined || value === "") return value === "" ? "" : "none";
  if (typeof value !== "number") return String(value);
  if (factor === 100) return minus((value * 100).toFixed(2));
  if (Number.isInteger(value)) return minus(String(value));
  const size = Math.abs(value);
  return minus(size >= 1e-4 && size < 1e6 ? String(Number(value.toPrecision(4))) : value.toExponential(2));
}
const minus = (text) => text.replace(/^-/, "−");
const cell = (name, row) => shown(valueOf(name, row), field(name).factor);

/** Whether the trial of `row` has the values that `where` asks for: {column: value or list of values}. */
function matches(where, row) {
  return Object.entries(where).every(([name, wanted]) =>
    Array.isArray(wanted) ? wanted.includes(valueOf(name, row)) : valueOf(name, row) === wanted);
}

/** The rows that the filters leave, in the order of the axes. */
function visibleRows() {
  const hidden = Object.entries(state.hidden).filter(([name, values]) => values.size && field(name));
  const rows = [];
  for (let row = 0; row < data.trials.trial_id.length; row += 1) {
    if (hidden.some(([name, values]) => values.has(valueOf(name, row)))) continue;
    if (state.where && !matches(state.where.where, row)) continue;
    rows.push(row);
  }
  return rows;
}

/** What sets a trial apart: `batch size 64, learning rate 0.01, ...`. */
const nameOf = (row) =>
  fieldsOf("axis").filter((axis) => axis.name !== "status" || valueOf("status", row) !== "completed")
    .map((axis) => (axis.name === "status" ? cell("status", row) : `${axis.label} ${cell(axis.name, row)}`)).join(", ");

/** Makes an element: its attributes and listeners (on...), then its children; strings become text, never HTML. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  fill(made, ...children);
  return made;
}
const fill = (parent, ...children) => parent.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
const byId = (id) => document.getElementById(id);
