// One trial, in a panel beside the page: its configuration and results, its curves, and its place among the others.

/** Opens the trial, or closes the panel where `id` is null: the reader stays where they are on the page. */
function openTrial(id, from = document.activeElement) {
  const was = state.trial;
  if (id === was) return;
  if (id && !was) openTrial.from = from?.dataset?.key ?? from?.id;
  if (!id && history.state?.opened) return history.back(); // popstate closes it
  state.trial = id;
  remember(Boolean(id && !was));
  return showTrial(was);
}

/** Draws the panel; a reader who opens one comes to it, one who closes it goes back to where it was opened. */
function showTrial(was) {
  drawTrial();
  byId("tip").hidden = true;
  if (map.plot) placeRing(map.plot.over, "selected", map.rows.indexOf(data.trials.trial_id.indexOf(state.trial)));
  markRow();
  const panel = byId("trial");
  if (state.trial && !was) panel.focus({ preventScroll: true });
  if (!state.trial && was) (document.querySelector(`[data-key="${CSS.escape(openTrial.from ?? "")}"]`) ?? byId("map")).focus({ preventScroll: true });
}

function drawTrial() {
  const panel = byId("trial"), row = data.trials.trial_id.indexOf(state.trial);
  panel.hidden = !state.trial;
  if (!state.trial) return update(panel);
  const order = sorted(visibleRows()), at = order.indexOf(row);
  const step = (label, to) => element("button", { type: "button", "data-key": label, disabled: order[to] === undefined,
    onclick: () => openTrial(data.trials.trial_id[order[to]]) }, label);
  const head = element("div", { class: "row" }, step("previous", at < 0 ? -1 : at - 1), step("next", at + 1),
    row < 0 ? null : element("button", { type: "button", "data-key": "compare", "aria-pressed": String(isCompared(state.trial)), onclick: () => toggleCompared(state.trial) }, isCompared(state.trial) ? "compared" : "compare curves"),
    element("button", { type: "button", class: "last", "data-key": "close", onclick: () => openTrial(null) }, "close"));
  if (row < 0) return update(panel, head, element("p", {}, `No trial ${state.trial} has ended in this sweep.`));
  const list = (...kinds) => element("dl", {}, ...fieldsOf(...kinds).filter((found) => !["error", "trial_id"].includes(found.name))
    .filter((found) => valueOf(found.name, row) !== null && valueOf(found.name, row) !== "" || found.kind === "axis")
    .flatMap((found) => [element("dt", {}, found.label), element("dd", { "data-field": found.name }, whole(found.name, row))]));
  const error = valueOf("error", row);
  update(panel, head,
    element("h2", {}, nameOf(row)),
    element("p", { class: "faint" }, "trial_id ", element("code", {}, state.trial), ", a row of trials.parquet"),
    error ? element("details", { open: true, "data-key": "error" }, element("summary", {}, "error"), element("pre", { tabindex: 0 }, error)) : null,
    ...curveBoxes(row),
    list("result", "gap", "measure"),
    element("details", { "data-key": "configuration" }, element("summary", {}, "configuration and where it ran"), list("axis", "fact")));
  return drawCurves(row);
}

/** What is drawn of a trial: [key, y, lines, more] of each chart. */
function curvesOf(row) {
  const { train, test, label, factor, loss } = data.metric, of = (...line) => curve(data.curves, row, ...line);
  const found = data.curves.trials[row] ? [
    ["loss", loss, [of("train_loss", "train"), of("test_loss", "test")], { logY: true }],
    ["metric", label, [of(train, "train", factor), of(test, "test", factor)], {}],
  ] : [];
  (data.profiles[data.trials.trial_id[row]] ?? []).forEach(({ title, x, log, lines }, index) =>
    found.push([`profile ${index}`, title, Object.entries(lines).map(([name, points]) => ({ name, points })), { x, logY: log }]));
  return found.map(([key, y, lines, more]) => [key, y, lines.filter((line) => line?.points.length), more]).filter(([, , lines]) => lines.length);
}

function curveBoxes(row) {
  const known = data.curves.trials[row], kept = known ? known.values[0].length : 0;
  const points = known && !known.values[0].every(Number.isInteger) ? "logging point" : "epoch";
  const note = known ? element("p", { class: "faint" }, known.epochs > kept ? `Curves: ${kept} of ${plural(known.epochs, points)}.` : `Curves: ${plural(known.epochs, points)}.`) : null;
  const box = ([key]) => element("div", { class: "chart", "data-chart": key, "data-key": `chart ${key}`, "data-own": "" });
  const own = ([key]) => !key.startsWith("profile");
  const found = curvesOf(row);
  return [...found.filter(own).map(box), note, ...found.filter((one) => !own(one)).map(box)];
}

function drawCurves(row) {
  for (const [key, y, lines, more] of curvesOf(row))
    lineChart(byId("trial").querySelector(`[data-chart="${key}"]`), { x: "epoch", y, height: 210, markers: false, lines, ...more });
}
