// What is shown and how it is chosen: the data object (analysis/reporting/page/data.py), the reader's choices, numbers
// as text.

let data = null;

/** What the reader chose, and nothing else: null or empty is the default, which may change as trials end. */
const unchosen = () => ({
  x: null, y: null, colour: null, shape: null, logX: null, logY: null, zoom: {}, // of the map
  gap: {}, // the zoom of the gap by batch size
  hidden: {}, // axis -> Set of values left out
  ranges: {}, // column -> [low, high] as shown
  search: "",
  where: null, // { label, where }: the trials that a result rests on
  sort: "", descending: false, columns: null, // of the table: an array of names
  page: 0,
  trial: null, // trial_id of the open one
  compared: [], // trial_ids whose curves are drawn together
});
const state = unchosen();

const field = (name) => data.fields.find((found) => found.name === name);
const fieldsOf = (...kinds) => data.fields.filter((found) => kinds.includes(found.kind));
const valueOf = (name, row) => data.trials[name]?.[row] ?? data.marks[name]?.[row] ?? null;
const scaled = (name, row) => {
  const value = valueOf(name, row);
  return typeof value === "number" ? value * (field(name)?.factor ?? 1) : value;
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
/** A text as it fits into a legend or a cell: of a long one its beginning and its end. */
const brief = (text) => (text.length > 48 ? `${text.slice(0, 30)}…${text.slice(-17)}` : text);
const whole = (name, row) => shown(valueOf(name, row), field(name).factor);
const cell = (name, row) => brief(whole(name, row));

/** Whether the trial of `row` has the values that `where` asks for: {column: value or list of values}. */
function matches(where, row) {
  return Object.entries(where).every(([name, wanted]) =>
    Array.isArray(wanted) ? wanted.includes(valueOf(name, row)) : valueOf(name, row) === wanted);
}

/** The rows that the filters and the search leave, in the order of the axes; found once for each render. */
const visibleRows = () => (visibleRows.found ??= findVisible());
function findVisible() {
  const hidden = Object.entries(state.hidden).filter(([name, values]) => values.size && field(name));
  const ranges = Object.entries(state.ranges).filter(([name]) => field(name));
  const asked = searched(state.search);
  const rows = [];
  for (let row = 0; row < data.trials.trial_id.length; row += 1) {
    if (hidden.some(([name, values]) => values.has(valueOf(name, row)))) continue;
    if (ranges.some(([name, [low, high]]) => !(scaled(name, row) !== null && scaled(name, row) >= low && scaled(name, row) <= high))) continue;
    if (state.where && !matches(state.where.where, row)) continue;
    if (!asked.every((holds) => holds(row))) continue;
    rows.push(row);
  }
  return rows;
}

const COMPARISONS = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };

/**
 * What a search asks of a row, a function per word: `batch_size=64` and `test_accuracy>94` compare a column with a value
 * as shown; any other word is looked for in the trial's ID, its configuration, status, flags and error.
 */
function searched(text) {
  return text.trim().split(/\s+/).filter(Boolean).map((word) => {
    const [, name, sign, wanted] = /^([^<>=]+)(<=|>=|=|<|>)(.+)$/.exec(word) ?? [];
    if (name && field(name)) {
      const number = Number(wanted.replace("−", "-"));
      return (row) => {
        const value = scaled(name, row);
        if (typeof value === "number" && !Number.isNaN(number)) return COMPARISONS[sign](value, number);
        return sign === "=" && shown(value).toLowerCase() === wanted.toLowerCase();
      };
    }
    const part = word.toLowerCase();
    return (row) => textOf(row).includes(part);
  });
}
function textOf(row) {
  return ["trial_id", "status", "flags", "error"].map((name) => valueOf(name, row) ?? "").concat(nameOf(row, whole)).join(" ").toLowerCase();
}

const isFiltered = () => Boolean(state.where || state.search.trim() || Object.keys(state.ranges).length || Object.values(state.hidden).some((values) => values.size));

/** What sets a trial apart: `batch size 64, learning rate 0.01, ...`. */
const nameOf = (row, text = cell) =>
  fieldsOf("axis").filter((axis) => axis.name !== "status" || valueOf("status", row) !== "completed")
    .map((axis) => (axis.name === "status" ? text("status", row) : `${axis.label} ${text(axis.name, row)}`)).join(", ");
