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
  const letter = (row) => (rows.indexOf(row) < 26 ? String.fromCharCode(65 + rows.indexOf(row)) : String(1 + rows.indexOf(row))); // short, for the legends
  const { train, test, label, factor, loss } = data.metric, known = rows.filter((row) => data.curves.trials[row]);
  const found = [["test_loss", `test ${loss}`, 1, true], [test, `test ${label}`, factor, false], ["train_loss", `train ${loss}`, 1, true], [train, `train ${label}`, factor, false]]
    .map(([name, y, times, logY]) => [name, { x: "epoch", y, logY, markers: false, lines: known.map((row) => ({ points: [], ...curve(row, name, letter(row), times), name: letter(row), full: comparedName(row, rows) })) }])
    .filter(([, spec]) => spec.lines.some((line) => line.points.length));
  const key = (row) => (known.includes(row) ? shapeIcon(1, lineColour(known.indexOf(row))) : null);
  const without = rows.length - known.length;
  update(section, element("h2", {}, `Curves of ${plural(rows.length, "trial")}`),
    element("div", { class: "row" },
      ...rows.map((row) => {
        const id = data.trials.trial_id[row], name = comparedName(row, rows);
        return element("button", { type: "button", "data-key": `drop ${id}`, "aria-label": `Leave out ${name}`, onclick: () => toggleCompared(id) }, key(row), ` ${letter(row)}: ${name}`, element("span", { class: "cross" }, " ✕"));
      }),
      element("button", { type: "button", "data-key": "drop all", onclick: () => { state.compared = []; render(); } }, "leave out all")),
    without ? element("p", { class: "faint" }, `${plural(without, "trial")} without curves.`) : null,
    element("div", { class: "panels" }, ...found.map(([name]) => element("div", { class: "chart", "data-key": `compared ${name}`, "data-own": "" }))));
  for (const [name, spec] of found) lineChart(section.querySelector(`[data-key="compared ${name}"]`), spec);
  return null;
}
