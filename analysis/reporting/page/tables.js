// Tables: the sections that Python made, and the table of all trials, sorted by any column and paged.

const PAGE = 50;
const COLUMNS = ["large_batch_gap", "box_sharpness", "hessian_max_eig", "epochs_done", "flags"];

function drawSections() {
  const drawn = [];
  const made = data.sections.map((section) => {
    const charts = section.charts.map((content) => {
      const key = `chart ${section.title}: ${content.y}`;
      drawn.push([key, content]);
      return element("div", { class: "chart", "data-key": key, "data-own": "" });
    });
    const tables = section.tables.map((table) => {
      if (!table.folded) return sectionTable(table);
      return element("details", { "data-key": `${section.title}: ${table.caption}` }, element("summary", {}, `${table.caption} (${plural(table.rows.length, "row")})`), sectionTable(table));
    });
    const notes = section.notes.map((note) => element("p", {}, note));
    return element("section", { id: section.id, tabindex: -1, "data-key": section.id, "aria-labelledby": `${section.id}-title` }, element("h2", { id: `${section.id}-title` }, section.title), ...section.findings.map((finding) => element("p", {}, finding)),
      notes.length ? element("details", { class: "faint", "data-key": `notes ${section.title}` }, element("summary", {}, "How to read this"), ...notes) : null,
      charts.length ? element("div", { class: "panels" }, ...charts) : null, ...tables);
  });
  update(byId("sections"), ...made);
  for (const [key, content] of drawn) lineChart(byId("sections").querySelector(`[data-key="${CSS.escape(key)}"]`), chartSpec(content));
}

/** A chart of means as lineChart wants it. */
const chartSpec = (content, height = 240) => ({ x: content.x, y: content.y, logX: Boolean(content.at), logY: content.log, zero: content.zero, at: content.at, names: content.ticks,
  height, margin: content.margin ?? null, free: content.free ?? null, lines: Object.entries(content.lines).map(([name, points]) => ({ name, points })) });

const NUMBER = /^(?:(?:< )?[−+-]?[\d.]|–$|undefined|below )/;

/** A value and its interval, between which a narrow cell may break the line. */
const long = (text) => (text.length > 30 ? "words" : null); // then it takes several lines
const parts = (text) => text.split(/ (?=\[|\()/).flatMap((part, index) => [index ? " " : null, element("span", { class: "part" }, part)]);

/** A table whose columns of numbers are to the right. */
function sectionTable({ caption, head, rows }) {
  const traced = rows.some((row) => row.where);
  const isNumber = (rows[0]?.cells ?? []).map((_, index) => head.length > 0 && rows.some(({ cells }) => /\d/.test(cells[index])) && rows.every(({ cells }) => NUMBER.test(cells[index]) || ["reference", "none", ""].includes(cells[index])));
  const side = (index) => (isNumber[index] ? "number" : null);
  const body = rows.map(({ cells, where }) => element("tr", {},
    ...cells.map((text, index) => element(index ? "td" : "th", { scope: index ? null : "row", class: side(index) ?? long(text) }, ...parts(text))),
    traced ? element("td", {}, where ? traceButton(`${caption}: ${cells[0]}`, where) : "") : null));
  const heads = head.length ? element("thead", {}, element("tr", {}, ...head.map((text, index) => element("th", { scope: "col", class: side(index) }, text)),
    traced ? element("th", { scope: "col" }, "trials") : null)) : null;
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption, "data-key": `table ${caption}` },
    element("table", { class: head.length ? null : "facts" }, element("caption", {}, caption), heads, element("tbody", {}, ...body)));
}

/** A button that shows the trials a number rests on; it opens the trial where there is but one. */
function traceButton(label, where) {
  const rows = data.trials.trial_id.map((_, row) => row).filter((row) => matches(where, row));
  return element("button", { type: "button", class: "trace", "data-key": `trace ${label}`, disabled: rows.length === 0, onclick: (event) => {
    if (rows.length === 1) return openTrial(data.trials.trial_id[rows[0]], event.target);
    state.where = { label, where };
    changeFilter();
    byId("map-section").scrollIntoView({ block: "start" });
    return byId("map").focus({ preventScroll: true });
  } }, plural(rows.length, "trial"));
}

/** The columns of the table: those the reader chose, else what sets trials apart, their results, and the map's axes. */
function tableColumns() {
  const look = choices(), hasErrors = visibleRows().some((row) => valueOf("error", row));
  const chosen = (found) => (state.columns ? state.columns.includes(found.name) : found.kind === "axis" || found.name === data.metric?.test || COLUMNS.includes(found.name) || (found.name === "error" && hasErrors) || found.name === look.x || found.name === look.y);
  return data.fields.filter((found) => found.kind === "key" || chosen(found)).sort((a, b) => (b.kind === "key") - (a.kind === "key"));
}

function drawTable() {
  const columns = tableColumns(), rows = sorted(visibleRows());
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  state.page = Math.max(0, Math.min(state.page, pages - 1));
  const isNumber = new Map(columns.map((column) => [column, data.trials[column.name].some((value) => typeof value === "number")]));
  const side = (column) => (isNumber.get(column) ? "number" : null);
  const heads = columns.map((column) => element("th", { scope: "col", class: side(column), "aria-sort": state.sort === column.name ? (state.descending ? "descending" : "ascending") : null },
    element("button", { type: "button", "data-key": `sort ${column.name}`, onclick: () => sortBy(column.name) }, column.label,
      element("span", { "aria-hidden": "true", class: "arrow" }, state.sort === column.name ? (state.descending ? " ▼" : " ▲") : ""))));
  const text = (column, row) => (column.name === "error" ? (valueOf("error", row) ?? "").trim().split("\n").at(-1) : cell(column.name, row));
  const title = (column, row) => (text(column, row).includes("…") ? whole(column.name, row) : null);
  const body = rows.slice(state.page * PAGE, (state.page + 1) * PAGE).map((row) => element("tr", { "data-trial": data.trials.trial_id[row] },
    ...columns.map((column) => (column.kind === "key"
      ? element("td", {}, element("input", { type: "checkbox", checked: isCompared(data.trials.trial_id[row]), "aria-label": `compare ${data.trials.trial_id[row]}`, title: "compare its curves",
        "data-key": `compare ${data.trials.trial_id[row]}`, onchange: () => toggleCompared(data.trials.trial_id[row]) }), element("button", { type: "button", class: "trace", "data-key": `trial ${data.trials.trial_id[row]}` }, data.trials.trial_id[row]))
      : element("td", { class: side(column) ?? long(text(column, row)), title: title(column, row) }, text(column, row))))));
  const turn = (label, to) => element("button", { type: "button", "data-key": label, disabled: to < 0 || to >= pages, onclick: () => { state.page = to; drawTable(); remember(); } }, label);
  const scroll = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of all trials", "data-key": "trials" },
    element("table", { class: "trials", onclick: openRow }, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body)));
  update(byId("table"),
    element("div", { class: "row" },
      element("span", {}, rows.length ? `${state.page * PAGE + 1}–${Math.min(rows.length, (state.page + 1) * PAGE)} of ${plural(rows.length, "trial")}` : "No trial matches the filters."),
      rows.length ? null : element("button", { type: "button", "data-key": "clear on table", onclick: clearFilters }, "show all trials"),
      turn("previous page", state.page - 1), turn("next page", state.page + 1), columnMenu(columns),
      state.compared.length ? element("button", { type: "button", "data-key": "see compared", onclick: () => { byId("compared").scrollIntoView({ block: "start" }); byId("compared").focus({ preventScroll: true }); } }, `curves of ${plural(state.compared.length, "trial")}`) : null,
      element("button", { type: "button", "data-key": "csv", onclick: () => saveText(`${data.name}-trials.csv`, trialsAsCsv()) }, "CSV of these trials")),
    rows.length ? scroll : null);
  markRow();
}

function columnMenu(columns) {
  const names = columns.map((column) => column.name);
  const choose = (found) => { state.columns = found; drawTable(); remember(); };
  return menu("columns", "columns", state.columns !== null,
    element("div", { class: "row" },
      element("button", { type: "button", "data-key": "all columns", onclick: () => choose(data.fields.map((found) => found.name)) }, "all"),
      element("button", { type: "button", "data-key": "default columns", onclick: () => choose(null) }, "default")),
    ...data.fields.filter((found) => found.kind !== "key").map((found) => element("label", { class: "tick" }, element("input", {
      type: "checkbox", checked: names.includes(found.name), "data-key": `column ${found.name}`,
      onchange: (event) => choose(event.target.checked ? [...names, found.name] : names.filter((name) => name !== found.name)),
    }), found.label)));
}

function openRow(event) {
  const row = event.target.closest("tr[data-trial]");
  if (row && event.target.type !== "checkbox" && !getSelection().toString()) openTrial(row.dataset.trial, row.querySelector(".trace"));
}

function markRow() {
  for (const row of byId("table").querySelectorAll("tr[data-trial]")) row.classList.toggle("open", row.dataset.trial === state.trial);
}

function sortBy(name) {
  if (state.sort !== name) [state.sort, state.descending] = [name, false];
  else if (!state.descending) state.descending = true;
  else state.sort = "";
  state.page = 0;
  drawTable();
  remember();
}

/** Sorted by the chosen column, missing values last whichever way; ties keep the order of the axes. */
function sorted(rows) {
  if (!field(state.sort)) return rows;
  const column = data.trials[state.sort], sign = state.descending ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [left, right] = [column[a] ?? null, column[b] ?? null];
    return left === null || right === null ? byName(left, right) : sign * byName(left, right);
  });
}
