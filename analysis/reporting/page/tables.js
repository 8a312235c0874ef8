// Tables: the sections that Python made, and the table of all trials, sorted by any column and paged.

const PAGE = 50;
const COLUMNS = ["test_accuracy", "large_batch_gap", "box_sharpness", "hessian_max_eig", "epochs_done", "flags"];

function drawSections() {
  const folds = new Map([...byId("sections").querySelectorAll("details")].map((found) => [found.dataset.key, found.open]));
  const drawn = [];
  const made = data.sections.map((section) => {
    const charts = section.charts.map((content) => {
      const box = element("div", { class: "chart" });
      drawn.push([box, content]);
      return box;
    });
    const tables = section.tables.map((table) => {
      if (!table.folded) return sectionTable(table);
      const key = `${section.title}: ${table.caption}`;
      return element("details", { "data-key": key, open: folds.get(key) ?? false }, element("summary", {}, `${table.caption} (${plural(table.rows.length, "row")})`), sectionTable(table));
    });
    const key = `notes ${section.title}`;
    const notes = section.notes.map((note) => element("p", {}, note));
    return element("section", {}, element("h2", {}, section.title), ...section.findings.map((finding) => element("p", {}, finding)),
      notes.length ? element("details", { class: "faint", "data-key": key, open: folds.get(key) ?? false }, element("summary", {}, "How to read this"), ...notes) : null,
      charts.length ? element("div", { class: "panels" }, ...charts) : null, ...tables);
  });
  byId("sections").replaceChildren(...made);
  for (const [box, content] of drawn)
    lineChart(box, { x: content.x, y: content.y, logX: Boolean(content.at), logY: content.log, zero: content.zero, at: content.at, names: content.ticks,
      lines: Object.entries(content.lines).map(([name, points]) => ({ name, points })) });
}

function sectionTable({ caption, head, rows }) {
  const traced = rows.some((row) => row.where);
  const body = rows.map(({ cells, where }) => element("tr", {},
    ...cells.map((text, index) => element(index ? "td" : "th", index ? {} : { scope: "row" }, text)),
    traced ? element("td", {}, where ? traceButton(`${caption}: ${cells[0]}`, where) : "") : null));
  const heads = head.length ? element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)),
    traced ? element("th", { scope: "col" }, "trials") : null)) : null;
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    element("table", { class: head.length ? null : "facts" }, element("caption", {}, caption), heads, element("tbody", {}, ...body)));
}

/** A button that shows the trials a number rests on; it opens the trial where there is but one. */
function traceButton(label, where) {
  const rows = data.trials.trial_id.map((_, row) => row).filter((row) => matches(where, row));
  return element("button", { type: "button", class: "trace", "data-key": `trace ${label}`, disabled: rows.length === 0, onclick: (event) => {
    if (rows.length === 1) return openTrial(data.trials.trial_id[rows[0]], event.target);
    state.where = { label, where };
    changeFilter();
    byId("explore").scrollIntoView({ block: "start" });
    return byId("map").focus({ preventScroll: true });
  } }, plural(rows.length, "trial"));
}

function drawTable() {
  const columns = data.fields.filter((found) => state.allColumns || found.kind === "axis" || found.kind === "key" || COLUMNS.includes(found.name) || found.name === state.x || found.name === state.y);
  const rows = sorted(visibleRows());
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  state.page = Math.max(0, Math.min(state.page, pages - 1));
  const heads = columns.map((column) => element("th", { scope: "col", "aria-sort": state.sort === column.name ? (state.descending ? "descending" : "ascending") : null },
    element("button", { type: "button", "data-key": `sort ${column.name}`, onclick: () => sortBy(column.name) }, column.label,
      element("span", { "aria-hidden": "true", class: "arrow" }, state.sort === column.name ? (state.descending ? " ▼" : " ▲") : ""))));
  const body = rows.slice(state.page * PAGE, (state.page + 1) * PAGE).map((row) => element("tr", { "data-trial": data.trials.trial_id[row] },
    ...columns.map((column) => (column.kind === "key"
      ? element("td", {}, element("button", { type: "button", class: "trace", "data-key": `trial ${data.trials.trial_id[row]}` }, data.trials.trial_id[row]))
      : element("td", { class: typeof valueOf(column.name, row) === "number" ? "number" : null }, column.name === "error" ? (valueOf("error", row) ?? "").trim().split("\n").at(-1) : cell(column.name, row))))));
  const turn = (label, to) => element("button", { type: "button", "data-key": label, disabled: to < 0 || to >= pages, onclick: () => { state.page = to; drawAgain(drawTable); } }, label);
  const scroll = byId("table").querySelector(".scroll")?.scrollLeft ?? 0;
  byId("table").replaceChildren(
    element("div", { class: "row" },
      element("span", {}, rows.length ? `${state.page * PAGE + 1}–${Math.min(rows.length, (state.page + 1) * PAGE)} of ${plural(rows.length, "trial")}` : "No trial is left by the filters."),
      turn("previous page", state.page - 1), turn("next page", state.page + 1),
      element("label", { class: "tick" }, element("input", { type: "checkbox", "data-key": "all columns", checked: state.allColumns, onchange: (event) => { state.allColumns = event.target.checked; drawAgain(drawTable); } }), "all columns")),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "All trials" },
      element("table", { class: "trials", onclick: openRow }, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body))));
  byId("table").querySelector(".scroll").scrollLeft = scroll;
  markRow();
}

function openRow(event) {
  const row = event.target.closest("tr[data-trial]");
  if (row && !getSelection().toString()) openTrial(row.dataset.trial, row.querySelector(".trace"));
}

function markRow() {
  for (const row of byId("table").querySelectorAll("tr[data-trial]")) row.classList.toggle("open", row.dataset.trial === state.trial);
}

function sortBy(name) {
  if (state.sort !== name) [state.sort, state.descending] = [name, false];
  else if (!state.descending) state.descending = true;
  else state.sort = "";
  state.page = 0;
  drawAgain(drawTable);
}

/** Sorted by the chosen column, missing values last whichever way; ties keep the order of the axes. */
function sorted(rows) {
  if (!field(state.sort)) return rows;
  const column = data.trials[state.sort], sign = state.descending ? -1 : 1;
  return rows.sort((a, b) => {
    const [left, right] = [column[a] ?? null, column[b] ?? null];
    return left === null || right === null ? byName(left, right) : sign * byName(left, right);
  });
}
