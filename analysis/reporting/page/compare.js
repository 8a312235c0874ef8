// The curves of several trials in the same charts: those that the reader ticked in the table or in a trial's panel.

const isCompared = (id) => state.compared.includes(id);

function toggleCompared(id) {
  state.compared = isCompared(id) ? state.compared.filter((other) => other !== id) : [...state.compared, id];
  drawCompared();
  drawTable();
  drawTrial();
  remember();
}

/** What tells one compared trial from the others: the axes in which they differ, or else its ID. */
function comparedName(row, rows) {
  const differs = fieldsOf("axis").filter((axis) => new Set(rows.map((other) => valueOf(axis.name, other))).size > 1);
  return differs.map((axis) => `${axis.label} ${cell(axis.name, row)}`).join(", ") || data.trials.trial_id[row];
}

function drawCompared() {
  const section = byId("compared"), rows = state.compared.map((id) => data.trials.trial_id.indexOf(id)).filter((row) => row >= 0);
  section.hidden = rows.length === 0;
  if (section.hidden) return update(section);
  const known = rows.filter((row) => data.curves.trials[row]), named = (row) => letter(rows.indexOf(row));
  const found = curveCharts(data.metric, (name, factor) =>
    known.map((row) => ({ points: [], ...curve(data.curves, row, name, named(row), factor), name: named(row), full: comparedName(row, rows) })));
  const key = (row) => (known.includes(row) ? shapeIcon(1, lineColour(known.indexOf(row))) : null);
  const without = rows.length - known.length;
  update(section, element("h2", {}, `Curves of ${plural(rows.length, "trial")}`),
    element("div", { class: "row" },
      ...rows.map((row) => {
        const id = data.trials.trial_id[row], name = comparedName(row, rows);
        return element("button", { type: "button", "data-key": `drop ${id}`, title: "leave out", onclick: () => toggleCompared(id) }, key(row), ` ${named(row)}: ${name}`, element("span", { class: "cross", "aria-hidden": "true" }, " ✕"));
      }),
      element("button", { type: "button", "data-key": "drop all", onclick: () => { state.compared = []; render(); } }, "leave out all")),
    without ? element("p", { class: "faint" }, `${plural(without, "trial")} without curves.`) : null,
    curveBoxesOf("compared", found));
  return drawCurveCharts(section, "compared", found);
}
